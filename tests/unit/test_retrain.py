"""What `fraudstream retrain` takes from the model before, and what it writes down of the next one."""

from dataclasses import replace
from datetime import datetime
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from app.cli.command_errors import run
from app.errors import UsageError
from app.lab.simulation.simulate import SimulationConfig, simulate
from app.ops.model_lineage import (
    Recipe,
    fitted_until,
    lineage,
    parent_of,
    periods_like,
    trained_until,
    unseen_from,
)
from app.ops.train import TrainingOptions, train
from app.settings import load_settings
from models.manifest import Manifest
from models.splits import Periods
from models.training_examples import Examples

START, DAY_MS = 1_735_689_600_000, 86_400_000
CURRENT: Any = SimpleNamespace(model="fraud@1", hash="f" * 64)


@pytest.fixture(scope="module")
def drawn() -> Any:
    return simulate(SimulationConfig(cards=60, terminals=40, days=60, start_ms=START, seed=3))


@pytest.fixture(scope="module")
def trained(drawn: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Manifest]:
    """With everything that an option can change."""
    home = tmp_path_factory.mktemp("home")
    settings = load_settings({"home": home, "features": "basic,label_free"})
    options = TrainingOptions(
        home / "fraud-1", kind="logistic", seed=7, alerts_a_day=3.0, features="basic", anomaly=True,
        fixed={"C": 0.5}, importance=False,
        periods=Periods(START, START + 30 * DAY_MS, START + 40 * DAY_MS, START + 60 * DAY_MS, 7 * DAY_MS),
    )  # fmt: skip
    return settings, train(drawn, settings, options, now_ms=START).manifest


def test_the_next_one_is_trained_alike(drawn: Any, trained: tuple[Any, Manifest]) -> None:
    settings, manifest = trained
    recipe = Recipe.of(settings, manifest)
    folder = settings.home / "fraud-2"
    options = recipe.options(
        settings,
        folder=folder,
        name="fraud",
        version=2,
        newest_ms=START + 60 * DAY_MS - 1,
        source={"stored_in": "x"},
    )
    assert options.refit
    judged = replace(options, folder=settings.home / "judged", refit=False)
    again = train(drawn, settings, judged, now_ms=START).manifest
    assert again.sha256 == manifest.sha256  # the same rows, kind, features, parameters and seed
    assert again.threshold == manifest.threshold
    assert again.anomaly is not None
    assert (again.version, again.features, again.feature_schema) == (
        2, manifest.features, manifest.feature_schema,
    )  # fmt: skip
    assert again.trained["threshold_by"] == "3 alerts a day"
    # and the one after that
    assert Recipe.of(settings, again).options(
        settings,
        folder=folder,
        name="fraud",
        version=2,
        newest_ms=START + 60 * DAY_MS - 1,
        source={"stored_in": "x"},
    ) == replace(options, choice=options.choice)


def test_periods_move_on_with_time_and_keep_their_lengths() -> None:
    told = {"periods": {"train_ms": 70 * DAY_MS, "gap_ms": 7 * DAY_MS, "test_ms": 7 * DAY_MS}}
    newest = START + 100 * DAY_MS - 1
    moved = periods_like(told, newest, 7 * DAY_MS)
    assert moved == Periods(
        START + 16 * DAY_MS, START + 86 * DAY_MS, START + 93 * DAY_MS, newest + 1, 7 * DAY_MS
    )
    later = periods_like(told, newest, 14 * DAY_MS)  # labels take longer now
    assert later is not None
    assert later.train_to == START + 79 * DAY_MS
    assert periods_like({}, newest, 7 * DAY_MS) is None  # trained by shares


PERIODS = Periods(START, START + 30 * DAY_MS, START + 40 * DAY_MS, START + 60 * DAY_MS, 7 * DAY_MS)


@pytest.mark.parametrize("periods", [PERIODS, None], ids=["periods", "shares"])
def test_a_refit_learns_from_the_test_set_and_is_judged_before(
    drawn: Any, tmp_path: Any, periods: Periods | None
) -> None:
    settings = load_settings({"home": tmp_path, "features": "basic"})
    options = TrainingOptions(tmp_path / "judged", periods=periods, importance=False)
    judged = train(drawn, settings, options, now_ms=START).manifest
    again = replace(options, folder=tmp_path / "again", refit=True)
    refit = train(drawn, settings, again, now_ms=START).manifest
    assert (judged.trained["refit"], refit.trained["refit"]) == (False, True)
    # figures, threshold and the distribution for drift are those of a model that has not seen the test set
    for part in ("metrics", "threshold", "distribution"):
        assert getattr(refit, part) == getattr(judged, part)
    for when in ("judged_from", "judged_to", "chosen_from", "periods"):
        assert refit.trained[when] == judged.trained[when]
    assert refit.sha256 != judged.sha256
    assert judged.trained["learned_to"] < judged.trained["judged_from"]
    assert refit.trained["learned_to"] == refit.trained["judged_to"]
    if periods is None:
        assert refit.trained["learned_rows"] == refit.trained["rows"]
    else:  # as long as the training period: thirty days up to the end
        assert refit.trained["learned_from"].startswith("2025-01-31T")
    # nothing that it was fitted on may compare it with another model
    last = int(drawn.event_time_ms.max())
    assert unseen_from(judged.trained) == int(
        datetime.fromisoformat(judged.trained["judged_from"]).timestamp() * 1_000
    )
    assert last < unseen_from(refit.trained) <= last + 1_000
    assert fitted_until(judged.trained) < unseen_from(judged.trained)
    assert fitted_until(refit.trained) == unseen_from(refit.trained)


def test_manifests_that_say_little_say_when_learning_ended() -> None:
    assert unseen_from({"judged_from": "1970-01-02T00:00:00.000Z"}) == DAY_MS
    assert unseen_from({"judged_from": "1970-01-02T00:00:00Z", "learned_to": "1970-01-03T00:00:07Z"}) == (
        2 * DAY_MS + 8_000
    )  # fmt: skip
    for told in ({}, {"judged_from": None}, {"judged_from": "yesterday"}):
        assert unseen_from(told) is None
    assert fitted_until({"judged_from": "1970-01-02T00:00:00Z"}) is None


def test_what_cannot_be_trained_here_is_refused(trained: tuple[Any, Manifest]) -> None:
    settings, manifest = trained
    imported = manifest.model_copy(update={"kind": "imported"})
    with pytest.raises(UsageError, match="fraud@1 is of the kind imported, .* models import"):
        Recipe.of(settings, imported)
    other = load_settings({"home": settings.home, "features": "handbook"})
    with pytest.raises(UsageError, match="does not compute"):
        Recipe.of(other, manifest)


def examples(labels: str = "010") -> Examples:
    count = len(labels)
    fraud = np.array([one == "1" for one in labels])
    times = START + np.arange(count) * 1_500
    return Examples(np.zeros((count, 1)), fraud, times, np.array([f"c{n}" for n in range(count)]))


def test_the_lineage_says_which_rows_and_which_code(trained: tuple[Any, Manifest]) -> None:
    told = lineage(CURRENT, examples())
    assert (told["parent"], told["parent_hash"]) == ("fraud@1", "f" * 64)
    assert told["until_ms"] == START + 3_000
    assert told == lineage(CURRENT, examples())
    assert told["rows_sha256"] != lineage(CURRENT, examples("011"))["rows_sha256"]
    assert len(told["code_sha256"]) == 64
    _, manifest = trained
    assert (parent_of(manifest), trained_until(manifest)) == (None, 0)
    source = {**manifest.trained, "source": told, "to": "2025-01-01T00:00:03Z"}
    mine = manifest.model_copy(update={"trained": source})
    assert (parent_of(mine), trained_until(mine)) == ("f" * 64, START + 3_000)
    by_hand = {**source, "source": {"stored_in": "Cassandra"}}
    assert trained_until(mine.model_copy(update={"trained": by_hand})) == START + 3_999


def test_the_help_names_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["retrain", "--help"]) == 0
    shown = capsys.readouterr().out
    for text in ("--promote", "--min-new", "Exit codes:", "did not pass and is stopped"):
        assert text in shown
