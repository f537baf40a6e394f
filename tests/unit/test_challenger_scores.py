"""Models that score beside the one that decides: who they are, what they say, what becomes of those that fail."""

import asyncio
import logging
import shutil
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import orjson
import pytest
from click.testing import CliRunner
from sklearn.linear_model import LogisticRegression

from app.cli import model_challengers
from app.domain.challengers import MAX_CHALLENGERS, Challenger
from app.domain.changes import ChallengerChange, ModelChange, ThresholdChange
from app.domain.changes_in_force import InForce
from app.errors import NotAnsweringError, NotFoundError, UnavailableError, UsageError
from app.kafka.change_history import ChangeHistory, LoggedChange
from app.ops.reference import in_share
from app.ops.replaying.look_back_bounds import Bound, ReplayRange
from app.settings import load_settings
from app.stages.challenger_scores import Challengers
from app.stages.deployed_features import catalogue_of
from app.stages.loaded_models import ModelSupply
from app.stages.reserved_rows import in_force_row, read_in_force
from app.stages.scoring_models import LoadedChallenger, ModelNeeded, ScoringModels, UnloadableModel
from app.wire.control_records import ChangeMessage, decode_message
from app.wire.prediction_fields import ADDED, names_of
from models.artifact import load_artifact, save_artifact
from models.artifact_folders import artifact_folders
from models.model_loader import Model, ModelHolder
from models.signing import SignatureError
from tests.builders import T0, tx_bytes
from tests.property.test_replay import replayed
from tests.verify_world import BASIC, VerifyWorld, rows_of

Make = Callable[[VerifyWorld, str], str]

CARDS = [f"card-{number}" for number in range(20_000)]


def challenge(name: str, share: float | None = 0.0, threshold: float | None = None) -> Any:
    return ChallengerChange(model=f"{name}@1", hash=name * 64, share=share, threshold=threshold)


def after(*changes: Any) -> InForce:
    in_force = InForce(0, "x" * 64)
    for offset, change in enumerate(changes):
        in_force = in_force.after(change, 0, offset)
    return in_force


def beside(in_force: InForce) -> list[tuple[str, float]]:
    return [(one.model[0], one.share) for one in in_force.challengers]


class TestInForce:
    def test_challengers_come_go_and_change_their_share(self) -> None:
        assert beside(after(challenge("a"), challenge("b", 0.05))) == [("a", 0), ("b", 0.05)]
        grown = after(challenge("b", 0.05), challenge("a"), challenge("b", 0.2))
        assert beside(grown) == [("b", 0.2), ("a", 0)]
        assert beside(after(challenge("a"), challenge("b"), challenge("a", None))) == [("b", 0)]

    def test_whoever_is_promoted_is_no_challenger_any_more(self) -> None:
        promoted = ModelChange(model="a@1", hash="a" * 64)
        assert beside(after(challenge("a"), challenge("b"), promoted)) == [("b", 0)]
        assert beside(after(promoted, challenge("a"))) == []

    def test_a_fourth_and_a_second_canary_change_nothing(self) -> None:
        names = "abcdef"[:MAX_CHALLENGERS]
        full = after(*map(challenge, names))
        assert beside(full.after(challenge("z"), 0, 9)) == [(name, 0) for name in names]
        assert "there are 3 challengers already: a@1" in (full.refusal(challenge("z")) or "")
        one = after(challenge("a", 0.1), challenge("b", 0.1))
        assert beside(one) == [("a", 0.1)]
        assert one.refusal(challenge("b", 0.1)) == "a@1 is the canary, and there can be only one"
        assert one.refusal(challenge("a", 0.2)) is None
        assert one.refusal(challenge("z", None)) is None

    def test_rows_of_before_are_read(self) -> None:
        old = bytes(8) + msgspec.msgpack.encode((3, "a", 0.4, {0: 7}))
        assert read_in_force(old) == InForce(3, "a", 0.4, {0: 7})
        new = after(challenge("a", 0.1, 0.3))
        assert read_in_force(in_force_row(new, 5)[1]) == new


class TestShare:
    def cards(self, share: float, name: str = "a") -> set[str]:
        challenger = Challenger("m", name * 64, share)
        return {card for card in CARDS if challenger.decides_for(card)}

    def test_a_larger_share_keeps_the_cards_that_were_in(self) -> None:
        small, large = self.cards(0.05), self.cards(0.2)
        assert 0.045 < len(small) / len(CARDS) < 0.055
        assert 0.19 < len(large) / len(CARDS) < 0.21
        assert small < large
        assert self.cards(1.0) == set(CARDS)
        assert self.cards(0.0) == set()

    def test_another_canary_has_other_cards(self) -> None:
        both = self.cards(0.2) & self.cards(0.2, "b")
        assert 0.03 < len(both) / len(CARDS) < 0.05

    def test_it_is_that_of_the_reference(self) -> None:
        for share in (0.05, 0.5, 1 / 3):
            assert self.cards(share) == {card for card in CARDS if in_share(card, "a" * 64, share)}


class TestCommands:
    THERE = (
        Challenger("fraud@1", "a" * 64),
        Challenger("fraud@2", "b" * 64, 0.1, 0.7),
        Challenger("other@1", "c" * 64),
        Challenger("other@2", "d" * 64),
    )

    @pytest.mark.parametrize("wanted", ["fraud", "fraud@2", "b" * 64, "b" * 16])
    def test_the_canary_of_a_name(self, wanted: str) -> None:
        assert model_challengers.find(self.THERE, wanted, canary=True) == self.THERE[1]

    @pytest.mark.parametrize("wanted", ["fraud", "fraud@1", "a" * 16])
    def test_the_shadow_of_a_name(self, wanted: str) -> None:
        assert model_challengers.find(self.THERE, wanted) == self.THERE[0]

    @pytest.mark.parametrize(
        ("wanted", "canary", "why"),
        [
            ("fraud@1", True, "fraud@1 is a shadow: use fraudstream models shadow fraud@1 --stop"),
            ("fraud@2", False, "fraud@2 is the canary: use fraudstream models canary fraud@2 --stop"),
            ("other", False, "other is ambiguous: name one of other@1, other@2"),
            ("none", False, "none is not a challenger; challengers: fraud@1, "),
            ("a" * 8, False, "is not a challenger"),
        ],
    )  # fmt: skip
    def test_no_other_one_is_ended(self, wanted: str, canary: bool, why: str) -> None:  # noqa: FBT001
        with pytest.raises(UsageError, match=why):
            model_challengers.find(self.THERE, wanted, canary=canary)

    @pytest.mark.parametrize(("given", "sent"), [((), 0.7), (("--threshold", "0.4"), 0.4)])
    def test_another_share_keeps_the_threshold(
        self, monkeypatch: pytest.MonkeyPatch, given: tuple[str, ...], sent: float
    ) -> None:
        changes: list[Any] = []

        async def read_history(_: Any) -> ChangeHistory:
            begun = ModelChange(model="x@1", hash="x" * 64)
            return ChangeHistory(
                [LoggedChange(0, 0, 1, begun), LoggedChange(0, 1, 2, challenge("a", 0.05, 0.7))]
            )

        async def send_changes(_: Any, *sent: Any) -> None:
            changes.extend(sent)

        @contextmanager
        def checked(*_: Any) -> Any:
            yield SimpleNamespace(model="a@1", manifest=SimpleNamespace(scoring_hash="a" * 64))

        monkeypatch.setattr("app.kafka.change_history.read_history", read_history)
        monkeypatch.setattr("app.kafka.change_history.send_changes", send_changes)
        monkeypatch.setattr("app.ops.model_checks.checked", checked)
        result = CliRunner().invoke(model_challengers.canary, ["a@1", "--share", "20%", *given])
        assert result.exit_code == 0, result.output
        assert [(one.share, one.threshold) for one in changes] == [(0.2, sent)]


class Fixed:
    """Scores that are the first feature; what is said is wrong where the second one says so."""

    threshold, anomaly_threshold = 0.5, None
    baseline: dict[str, float] = {}

    def __init__(self, name: str = "m") -> None:
        self.hash, self.version = name, f"{name}@1"
        self.calls = 0
        self.reasoned: list[float] = []

    def score(self, rows: np.ndarray) -> np.ndarray:
        self.calls += 1
        if (rows[:, 1] == 1).any():
            msg = "a row that it does not like"
            raise ValueError(msg)
        return np.where(rows[:, 1] == 2, np.nan, np.where(rows[:, 1] == 3, 1.5, rows[:, 0]))

    def reasons(self, rows: np.ndarray) -> list[list[str]]:
        if (rows[:, 1] == 4).any():
            msg = "no reasons"
            raise ValueError(msg)
        self.reasoned += rows[:, 0].tolist()
        return [["because"] for _ in rows]

    def anomalies(self, rows: np.ndarray) -> np.ndarray:
        if (rows[:, 1] == 5).any():
            msg = "no anomaly scores"
            raise ValueError(msg)
        return rows[:, 0] / 2


def judged(rows: list[tuple[float, int]], share: float, model: Any = None) -> Any:
    found = Challengers(0.5)
    one = LoadedChallenger(Challenger("m@1", "h" * 64, share), model or Fixed())
    judges = ScoringModels(Fixed("champion"), 0.5, (one,))
    cards = [f"c{number}" for number in range(len(rows))]
    matrix = np.array(rows, np.float64)
    return *found.judge(judges, cards, [0.1] * len(rows), lambda _: matrix), found.failures


class TestFailures:
    @pytest.mark.parametrize("wrong", [1, 2, 3])
    def test_a_row_without_a_score_has_null_and_its_company_has_its_own(
        self, wrong: int, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.WARNING, "fraudstream")
        rows = [(0.9, 0), (0.7, wrong), (0.2, 0), (0.6, wrong), (0.3, 0)]
        fields, decided, failures = judged(rows, 0.0)
        assert [one["shadow_scores"]["m@1"] for one in fields] == [0.9, None, 0.2, None, 0.3]
        assert [one["shadow_flagged"] for one in fields] == [["m@1"], [], [], [], []]
        assert (decided, failures) == ({}, {"m@1": 2})
        assert [r.message.count("has no scores for some") for r in caplog.records] == [1]

    def test_a_canary_without_a_score_leaves_the_decision(self) -> None:
        fields, decided, _ = judged([(0.9, 0), (0.7, 1), (0.2, 0)], 1.0)
        assert sorted(decided) == [0, 2]
        assert (decided[0].score, decided[0].anomaly, decided[0].reasons) == (
            0.9,
            0.45,
            ["because"],
        )
        assert decided[2].reasons == []
        # of the rows that it decides, the other model's score is told
        assert [one["shadow_scores"] for one in fields] == [
            {"champion@1": 0.1}, {"m@1": None}, {"champion@1": 0.1},
        ]  # fmt: skip

    def test_a_canary_decides_without_reasons_or_an_anomaly_score(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.WARNING, "fraudstream")
        rows = [(0.9, 0), (0.8, 4), (0.7, 5), (0.2, 5)]
        fields, decided, failures = judged(rows, 1.0)
        assert [(one.score, one.anomaly, one.reasons) for one in decided.values()] == [
            (0.9, 0.45, ["because"]), (0.8, 0.4, []), (0.7, None, ["because"]), (0.2, None, []),
        ]  # fmt: skip
        assert [one["shadow_scores"] for one in fields] == [{"champion@1": 0.1}] * 4
        assert failures == {}  # each has a score
        for what in ("no reasons for some", "no anomaly scores for some"):
            assert caplog.text.count(what) == 1

    def test_reasons_are_worked_out_only_for_what_the_canary_decides_from_that_score_on(
        self,
    ) -> None:
        model = Fixed()
        judged([(0.9, 0), (0.4, 0), (0.2, 0), (0.7, 0)], 1.0, model)
        assert model.reasoned == [0.9, 0.7]
        model = Fixed()
        _, decided, _ = judged([(0.9, 0)] * 40, 0.3, model)
        assert 0 < len(model.reasoned) == len(decided) < 40
        model = Fixed()
        judged([(0.9, 0)] * 40, 0.0, model)
        assert model.reasoned == []

    def test_one_that_cannot_be_loaded_has_no_scores(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.WARNING, "fraudstream")
        model = UnloadableModel("h" * 64, "its file is damaged")
        fields, decided, failures = judged([(0.9, 0)] * 3, 1.0, model)
        assert [one["shadow_scores"] for one in fields] == [{"m@1": None}] * 3
        assert (decided, failures) == ({}, {"m@1": 3})
        assert "its file is damaged" in caplog.text


class TestSupply:
    def supply(self, error: Exception | None) -> ModelSupply:
        errors = iter([error])

        def load(model_hash: str) -> Any:
            found = next(errors, None)
            if found is not None:
                raise found
            return Fixed(model_hash)

        return ModelSupply(load)

    @pytest.mark.parametrize("error", [UsageError("damaged"), ValueError("no such class")])
    async def test_one_that_cannot_be_loaded_keeps_nobody_waiting(self, error: Exception) -> None:
        supply = self.supply(error)
        assert supply.challenger("a") is None
        await supply.obtain(ModelNeeded("a", challenger=True))
        assert isinstance(supply.challenger("a"), UnloadableModel)
        assert supply.waiting == {}
        assert supply.refusal("a") == (str(error) if isinstance(error, UsageError) else repr(error))
        assert supply.get("a") is None  # it is obtained anew where it is to decide
        await supply.obtain(ModelNeeded("a"))
        assert isinstance(supply.challenger("a"), Fixed)
        assert supply.refusal("a") == ""

    async def test_whether_one_is_refused_is_asked_of_the_registry_first(self) -> None:
        supply = self.supply(UsageError("damaged"))
        assert supply.refusal("a") is None
        await supply.obtain(ModelNeeded("a", challenger=True))
        assert supply.refusal("a") == "damaged"

    @pytest.mark.parametrize(
        "error",
        [
            NotAnsweringError("no Cassandra"), NotFoundError("a replica that lags behind"),
            UnavailableError("cannot read it"), OSError("disk full"), MemoryError(),
            SignatureError("nobody has signed it yet"),
        ],
    )  # fmt: skip
    async def test_one_that_cannot_be_loaded_now_is_waited_for(
        self, error: Exception, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("app.stages.loaded_models._RETRY_SECONDS", 0.001)
        supply = self.supply(error)
        await supply.obtain(ModelNeeded("a", challenger=True))
        assert isinstance(supply.challenger("a"), Fixed)
        supply = self.supply(error)
        await supply.try_challenger("a")  # a start goes on
        assert supply.challenger("a") is None
        await supply.obtain(ModelNeeded("a", challenger=True))
        assert isinstance(supply.challenger("a"), Fixed)

    def test_too_little_memory_is_not_taken_for_a_damaged_file(
        self, tmp_path: Path, models: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        world = VerifyWorld(home=tmp_path)
        models(world, "large")

        def loads(_: Any) -> Any:
            raise MemoryError

        monkeypatch.setattr("models.artifact.unpack", loads)
        with pytest.raises(MemoryError):
            load_artifact(tmp_path / "models" / "large")

    async def test_one_that_was_refused_is_tried_again_while_nothing_waits(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        supply = self.supply(UsageError("a chunk is missing"))
        await supply.try_challenger("a")
        assert isinstance(supply.challenger("a"), UnloadableModel)
        assert not supply._tasks, "not yet"
        monkeypatch.setattr("app.stages.loaded_models._AGAIN_SECONDS", 0.0)
        supply = self.supply(UsageError("a chunk is missing"))
        await supply.try_challenger("a")
        assert isinstance(supply.challenger("a"), UnloadableModel)
        await asyncio.gather(*supply._tasks.values())
        assert isinstance(supply.challenger("a"), Fixed)
        assert supply.refusal("a") == ""

    async def test_a_start_goes_on_without_it(self) -> None:
        supply = self.supply(UsageError("damaged"))
        await supply.try_challenger("a")
        assert isinstance(supply.challenger("a"), UnloadableModel)


@pytest.fixture
def models(tmp_path: Path) -> Callable[[VerifyWorld, str], str]:
    """Makes another model in the home of a world; gives its whole hash."""

    def make(world: VerifyWorld, name: str) -> str:
        catalogue = catalogue_of(load_settings(BASIC))
        rows = np.random.default_rng(len(name)).lognormal(2, 1, (400, len(catalogue.names)))
        fitted = LogisticRegression(max_iter=2_000).fit(rows, rows[:, 0] > 10)
        return save_artifact(
            world.settings.home / "models" / name, fitted, name=name, version=1, kind="logistic",
            features=catalogue.names, feature_schema=catalogue.schema, usual=rows[0].tolist(),
            threshold=0.3, trained={}, metrics={},
        ).scoring_hash  # fmt: skip

    return make


def feed(world: VerifyWorld, first: int) -> None:
    for number in range(first, first + 60):
        card = f"c{number % 20}"
        world.send(tx_bytes(number, card=card, at=number * 1000, amount=number % 29), card.encode())
    world.run()


def beside_live(tmp_path: Path, models: Make) -> VerifyWorld:
    """No challenger, then a shadow, then a canary besides."""
    world = VerifyWorld(home=tmp_path)
    hashes = {name: models(world, name) for name in ("shadow", "canary")}
    world.restart()  # finds the models
    start = world._champion.manifest
    world.control(ModelChange(model="default@1", hash=start.scoring_hash, how="start"))
    feed(world, 0)
    world.control(ChallengerChange(model="shadow@1", hash=hashes["shadow"]))
    feed(world, 60)
    world.control(
        ChallengerChange(model="canary@1", hash=hashes["canary"], share=0.4, threshold=0.2)
    )
    feed(world, 120)
    return world


@pytest.fixture
def challenged(tmp_path: Path, models: Make) -> VerifyWorld:
    """The same, and then the canary decides."""
    world = beside_live(tmp_path, models)
    (canary,) = (
        entry.manifest.scoring_hash
        for entry in artifact_folders(world.settings).scan()[0]
        if entry.manifest.name == "canary"
    )
    world.control(ModelChange(model="canary@1", hash=canary))
    feed(world, 180)
    return world


def found(world: VerifyWorld) -> list[dict[str, Any]]:
    every = [orjson.loads(r.value or b"") for r in world.log(world.topics.predictions)]
    return sorted(every, key=lambda fields: int(fields["transaction_id"].removeprefix("tx-")))


class TestVerify:
    def test_what_the_stream_says_passes(self, challenged: VerifyWorld) -> None:
        report = challenged.verify()
        assert report.passed, report.as_json()
        every = found(challenged)
        names = [sorted(one.get("shadow_scores", ())) for one in every]
        assert names[:60] == [[]] * 60
        assert names[60:120] == [["shadow@1"]] * 60
        assert {tuple(one) for one in names[120:180]} == {
            ("canary@1", "shadow@1"), ("default@1", "shadow@1"),
        }  # fmt: skip
        assert names[180:] == [["shadow@1"]] * 60
        by_canary = {one["card_id"] for one in every[120:180] if one["model_version"] == "canary@1"}
        assert 3 < len(by_canary) < 15
        for one in every[120:180]:
            decides = "canary@1" if one["card_id"] in by_canary else "default@1"
            assert one["model_version"] == decides
            assert (one["threshold"] == 0.2) == (decides == "canary@1")
        assert list(every[60])[-2:] == list(names_of(ADDED))[-2:]
        assert report.details["scores_recomputed"] == 240 + 60 + 120 + 60

    @pytest.mark.parametrize(
        ("number", "what", "change"),
        [
            (70, "shadow_scores", lambda f: f["shadow_scores"].update({"shadow@1": 0.123})),
            (70, "shadow_scores", lambda f: f["shadow_scores"].update({"shadow@1": None})),
            (70, "shadow_scores", lambda f: f.pop("shadow_scores")),
            (70, "shadow_scores", lambda f: f["shadow_scores"].update({"other@1": 0.1})),
            (10, "shadow_scores", lambda f: f.update(shadow_scores={}, shadow_flagged=[])),
            (70, "shadow_flagged", lambda f: f.update(shadow_flagged=not_those(f))),
            (
                70, "score",
                lambda f: f.update(score=(s := f["shadow_scores"]["shadow@1"]), is_fraud=s >= f["threshold"]),
            ),
        ],
    )  # fmt: skip
    def test_what_it_does_not_say_is_found(
        self, challenged: VerifyWorld, number: int, what: str, change: Any
    ) -> None:
        tamper(challenged, number, change)
        assert what in whats(challenged)

    def test_one_that_is_missing_does_not_hide_what_others_say(
        self, challenged: VerifyWorld, tmp_path: Path
    ) -> None:
        shutil.rmtree(tmp_path / "models" / "shadow")
        both = [
            n for n, f in enumerate(found(challenged)) if "canary@1" in f.get("shadow_scores", ())
        ]
        tamper(challenged, both[0], lambda f: f["shadow_scores"].update({"canary@1": 0.123}))
        assert whats(challenged) == {"shadow_scores"}

    def test_a_canary_that_raises_for_anomaly_scores_and_reasons_decides_all_the_same(
        self, tmp_path: Path, models: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole = Model.__init__

        def begun(self: Model, *given: Any) -> None:
            whole(self, *given)
            if self.version == "canary@1":
                for name in ("reasons", "anomalies"):
                    setattr(self, name, partly(getattr(self, name)))

        def partly(function: Any) -> Any:
            def fails(rows: np.ndarray) -> Any:
                if (rows[:, 0] > 10).any():
                    msg = "a row that it does not like"
                    raise ValueError(msg)
                found = function(rows)
                return rows[:, 0] / 100 if found is None else found

            return fails

        monkeypatch.setattr(Model, "__init__", begun)
        world = beside_live(tmp_path, models)
        by_canary = [f for f in found(world) if f["model_version"] == "canary@1"]
        assert {fields["anomaly_score"] is None for fields in by_canary} == {True, False}
        report = world.verify()
        assert report.passed, report.as_json()

    def test_a_row_that_lost_them_is_found(self, challenged: VerifyWorld) -> None:
        rows = challenged.rows
        place = next(n for n, row in enumerate(rows) if row.shadow_scores)
        rows[place] = rows[place]._replace(shadow_scores=None, shadow_flagged=None)
        assert whats(challenged) == {"shadow_scores"}

    @pytest.mark.parametrize("begins_behind", [1, 2, 3], ids=["shadow", "canary", "promotion"])
    def test_changes_that_retention_has_deleted_are_followed(
        self, challenged: VerifyWorld, begins_behind: int
    ) -> None:
        shorten(challenged, begins_behind)
        report = challenged.verify()
        assert report.passed, report.as_json()

    @pytest.mark.parametrize(
        ("begins_behind", "number", "what", "change"),
        [
            (1, 119, "shadow_scores", lambda f: f.pop("shadow_scores")),
            (2, 179, "shadow_scores", lambda f: f["shadow_scores"].update({"other@1": 0.1})),
            (3, 239, "model", lambda f: f.update(model_hash="0" * 16)),
        ],
    )  # fmt: skip
    def test_behind_deleted_changes_all_is_checked(
        self, challenged: VerifyWorld, begins_behind: int, number: int, what: str, change: Any
    ) -> None:
        shorten(challenged, begins_behind)
        tamper(challenged, number, change)
        assert what in whats(challenged)

    @pytest.mark.parametrize("followed", [False, True])
    def test_a_threshold_whose_change_was_deleted(self, tmp_path: Path, *, followed: bool) -> None:
        world = VerifyWorld(home=tmp_path)
        start = world._champion.manifest
        world.control(ModelChange(model="default@1", hash=start.scoring_hash, how="start"))
        feed(world, 0)
        world.control(ThresholdChange(threshold=0.01))
        feed(world, 60)
        if followed:
            world.control(ThresholdChange(threshold=0.02))
            feed(world, 120)
        shorten(world, 1)
        report = world.verify()
        assert report.passed, report.as_json()
        tamper(world, 119, lambda f: f.update(threshold=0.5, is_fraud=f["score"] >= 0.5))
        assert whats(world) == {"threshold"}


class Holder(ModelHolder):
    """Finds models in a world's folders; raises for the one that is named."""

    def __init__(self, world: VerifyWorld, name: str = "", error: Exception | None = None) -> None:
        folders = artifact_folders(world.settings)
        super().__init__(folders, catalogue_of(world.settings), 2)
        self.asked: Counter[str] = Counter()
        self._fails = (name, error)

    def by_hash(self, model_hash: str) -> Model:
        name = self.entry(model_hash).manifest.name
        self.asked[name] += 1
        if name == self._fails[0] and self._fails[1] is not None:
            raise self._fails[1]
        return super().by_hash(model_hash)


class TestReplay:
    """Without --model: by what decided live."""

    def replayed(self, world: VerifyWorld, folder: Path, holder: Holder) -> list[dict[str, Any]]:
        asked = ReplayRange(
            Bound("from", time_ms=T0 + 70_000), Bound("to", time_ms=T0 + 170_000), 2
        )
        values = replayed(world, asked, folder, follows=True, holder=holder).values()
        every = [{**orjson.loads(value), "scored_at": 0} for value in values]
        return sorted(every, key=lambda fields: int(fields["transaction_id"].removeprefix("tx-")))

    def test_it_follows_challengers(self, challenged: VerifyWorld, tmp_path: Path) -> None:
        live = [{**fields, "scored_at": 0} for fields in found(challenged)]
        assert self.replayed(challenged, tmp_path, Holder(challenged)) == live[70:170]

    @pytest.mark.parametrize(
        "error", [NotAnsweringError("no Cassandra"), NotFoundError("lags behind"), OSError("disk")]
    )
    def test_nothing_is_scored_while_a_challenger_cannot_be_fetched(
        self, challenged: VerifyWorld, tmp_path: Path, error: Exception
    ) -> None:
        with pytest.raises(type(error)):
            self.replayed(challenged, tmp_path, Holder(challenged, "canary", error))

    def test_one_that_does_not_fit_is_loaded_once_and_has_no_scores(
        self, challenged: VerifyWorld, tmp_path: Path
    ) -> None:
        holder = Holder(challenged, "shadow", ValueError("no such class"))
        for fields in self.replayed(challenged, tmp_path, holder):
            assert fields["shadow_scores"]["shadow@1"] is None
        assert holder.asked["shadow"] == 1


def shorten(world: VerifyWorld, offset: int) -> None:
    """Let retention delete `enriched` up to a change, by its offset on `control`."""
    topic = world.topics.enriched.name
    for number, log in enumerate(world.logs[topic]):
        (at,) = (
            record.offset
            for record in log
            if isinstance(message := decode_message(record.value), ChangeMessage)
            and message.offset == offset
        )
        world.begins[topic, number] = at + 1


def tamper(world: VerifyWorld, number: int, change: Any) -> None:
    for place, record in enumerate(world.log(world.topics.predictions)):
        fields = orjson.loads(record.value or b"")
        if fields["transaction_id"] == f"tx-{number}":
            change(fields)
            world.change(world.topics.predictions, place, value=orjson.dumps(fields))
    world.rows = rows_of(world.settings, world.log(world.topics.predictions))


def whats(world: VerifyWorld) -> set[str]:
    return {example["what"] for example in world.verify().examples}


def not_those(fields: dict[str, Any]) -> list[str]:
    return [name for name in fields["shadow_scores"] if name not in fields["shadow_flagged"]]
