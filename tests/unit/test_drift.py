"""Drift: quiet data raises nothing, whatever the hour; each detector finds what it is for, and says so."""

import json
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from app.cli.command_errors import run as run_command
from app.quality import drift_comparison
from app.quality.drift_comparison import (
    LabelArrivals,
    ObservedTransactions,
    RecordCounts,
    bin_features,
    compare,
    psi_limit,
)
from app.quality.drift_stored import ModelBins, by_model, label_arrivals, matrix, summary
from app.quality.verdicts import FRAUD, GENUINE, UNKNOWN
from models.artifact_folders import SHIPPED, ArtifactFolders
from models.manifest import Manifest
from models.training_distribution import (
    IDS_WINDOW,
    VERSION,
    WINDOW,
    Bins,
    Described,
    Distribution,
    LocalTime,
    describe,
    read_distribution,
    windows_of,
)

HOUR_MS, DAY_MS = 3_600_000, 86_400_000
BEGIN = 1_735_689_600_000  # 2025-01-01, a Wednesday
NAMES = ("amount", "card_mean", "by_night", "is_night")
CARDS, TERMINALS = 400, 300


def draw(rows: int, begin_ms: int, days: float, seed: int) -> dict[str, np.ndarray]:
    """A stream: twice as busy by day, one feature that depends on the hour, one that depends on the card alone."""
    rng = np.random.default_rng(seed)
    hours = np.arange(int(days * 24))
    busy = np.where((begin_ms // HOUR_MS + hours) % 24 >= 7, 2.0, 1.0)
    times = begin_ms + rng.choice(hours, rows, p=busy / busy.sum()) * HOUR_MS
    times = np.sort(times + rng.integers(0, HOUR_MS, rows))
    night = times // HOUR_MS % 24 < 7
    card = rng.integers(1, CARDS + 1, rows)
    return {
        "amount": np.round(rng.lognormal(3.5, 0.8, rows), 2),
        "card_mean": np.random.default_rng(7).lognormal(3.5, 0.5, CARDS + 1)[card],
        "by_night": rng.normal(np.where(night, 9.0, 0.0), 1.0),
        "is_night": night.astype(np.float64),
        "score": rng.beta(0.5, 20, rows),
        "times": times,
        "card": card,
        "terminal": rng.integers(1, TERMINALS + 1, rows),
        "fraud": rng.random(rows) < 0.02,
    }


def described(data: dict[str, np.ndarray]) -> dict[str, Any]:
    made = Described(
        NAMES,
        np.stack([data[name] for name in NAMES], axis=1),
        data["score"],
        data["fraud"],
        data["times"],
        data["card"].astype(str),
        data["terminal"].astype(str),
    )
    return describe(made, threshold=0.15, warm_up_ms=0, timezone="UTC")


@pytest.fixture(scope="module")
def trained() -> Distribution:
    found = read_distribution(SimpleNamespace(distribution=described(draw(60_000, BEGIN, 28, 1))))
    assert found is not None
    return found


def seen(
    trained: Distribution, data: dict[str, np.ndarray], **changes: Any
) -> ObservedTransactions:
    rows = len(data["times"])
    none = np.zeros(rows, bool)
    observed = ObservedTransactions(
        *bin_features(trained, np.stack([data[name] for name in NAMES], axis=1)),
        trained.score.codes(data["score"]),
        data["score"] >= 0.15,
        data["amount"],
        data["times"],
        data["times"] + 50,
        data["card"],
        data["terminal"],
        none,
        none,
    )
    return replace(observed, **changes)


def window(**columns: Any) -> dict[str, np.ndarray]:
    """Five thousand quiet transactions of two and a half days; `columns` change some."""
    data = draw(WINDOW, BEGIN + 40 * DAY_MS, 2.5, 2)
    return data | {name: change(data[name]) for name, change in columns.items()}


def named(found: drift_comparison.DriftReport) -> set[tuple[str, str]]:
    return {(one.detector, one.subject) for one in found.findings}


@pytest.mark.parametrize("seed", range(10))
def test_quiet_data_raises_nothing(trained: Distribution, seed: int) -> None:
    data = draw(4 * WINDOW, BEGIN + 60 * DAY_MS, 10, 100 + seed)
    observed = seen(trained, data)
    for part in windows_of(len(observed)):
        assert compare(trained, observed.take(part)).findings == ()


@pytest.mark.parametrize(("hour", "day"), [(2, 0), (12, 0), (3, 3), (23, 4)])
def test_an_hour_is_compared_with_the_same_hours_of_training(
    trained: Distribution, hour: int, day: int
) -> None:
    """A busy stream fills a window within minutes: at night every night is drift, if the hour does not count."""
    data = draw(WINDOW, BEGIN + (40 + day) * DAY_MS + hour * HOUR_MS, 1 / 24, 3)
    assert compare(trained, seen(trained, data)).findings == ()
    # the same values at another time of the day are drift
    moved = data | {"times": data["times"] + 12 * HOUR_MS}
    assert ("distribution", "by_night") in named(compare(trained, seen(trained, moved)))


def test_stability_is_the_sum_over_bins(trained: Distribution) -> None:
    data = window(amount=lambda amount: amount * 1.3)
    bins = trained.features["amount"]
    slots = trained.clock().slots(data["times"])
    strata = slots % 24 // 6 + 4 * (slots // 24)
    expected = np.zeros(len(bins.edges) + 2)
    for stratum in range(8):
        counts = bins.table[stratum] + 50 * bins.table.sum(axis=0) / bins.table.sum()
        expected += (strata == stratum).mean() * counts / counts.sum()
    total = 0.0
    for place in range(len(bins.edges) + 1):
        low = bins.edges[place - 1] if place else -np.inf
        high = bins.edges[place] if place < len(bins.edges) else np.inf
        share = ((data["amount"] > low) & (data["amount"] <= high)).mean()
        a, b = max(share, 1e-4), max(expected[place], 1e-4)
        total += (a - b) * np.log(a / b)
    column = next(
        one for one in compare(trained, seen(trained, data)).columns if one.name == "amount"
    )
    assert column.psi == pytest.approx(total)


def test_rows_that_recur_widen_the_limit(trained: Distribution) -> None:
    """A window has other cards than the next one, each with its own value: it tells as much as it has cards."""
    data = draw(12 * WINDOW, BEGIN, 28, 4)
    rng = np.random.default_rng(5)
    for part in windows_of(len(data["times"])):
        some = rng.choice(CARDS, CARDS // 8, replace=False)
        data["card_mean"][part] = some[rng.integers(0, len(some), WINDOW)]
    found = read_distribution(manifest(distribution=described(data)))
    assert found is not None
    assert found.features["amount"].effect < 1.5
    assert found.features["card_mean"].effect > 10
    assert (
        psi_limit(found.features["card_mean"], drift_comparison.LEAST_ROWS)
        > 2 * drift_comparison.LARGE
    )
    assert (
        psi_limit(found.features["amount"], drift_comparison.LEAST_ROWS) == drift_comparison.LARGE
    )
    assert psi_limit(found.features["amount"], 100) > drift_comparison.LARGE


def test_few_rows_say_nothing(trained: Distribution) -> None:
    data = window(amount=lambda amount: amount * 100)
    few = seen(trained, data).take(slice(drift_comparison.LEAST_ROWS - 1))
    assert compare(trained, few) == drift_comparison.DriftReport(drift_comparison.LEAST_ROWS - 1)


def late(rows: int, share: float) -> np.ndarray:
    return np.arange(rows) < share * rows


@pytest.mark.parametrize(
    ("columns", "changes", "wanted"),
    [
        ({"amount": lambda a: a * 100}, {}, ("distribution", "amount")),
        ({"amount": lambda a: np.full(len(a), 12.5)}, {}, ("constant", "amount")),
        ({"amount": lambda a: np.where(late(len(a), 0.1), np.nan, a)}, {}, ("missing", "amount")),
        ({"score": lambda s: s * 4}, {}, ("distribution", "score")),
        ({"score": lambda s: np.where(late(len(s), 0.05), 0.9, s)}, {}, ("flagged", "score")),
        ({"times": lambda t: t // DAY_MS * DAY_MS + t % DAY_MS // 24}, {}, ("hours", "event_time")),
        ({"card": lambda c: c % 40 + 1}, {}, ("few values", "card_id")),
        ({"terminal": lambda t: t // 2 + 1}, {}, ("few values", "terminal_id")),
        ({"terminal": lambda t: np.where(late(len(t), 0.6), t, 5)}, {}, ("one value", "terminal_id")),
        ({"card": lambda c: np.where(late(len(c), 0.6), c, 5)}, {}, ("one value", "card_id")),
        ({"terminal": lambda t: np.where(late(len(t), 0.05), 0, t)}, {}, ("missing", "terminal_id")),
        ({}, {"late": late(WINDOW, 0.06)}, ("late", "event_time")),
        ({}, {"conflicting": late(WINDOW, 0.02)}, ("conflicts", "transaction_id")),
    ],
)  # fmt: skip
def test_each_detector_finds_what_it_is_for(
    trained: Distribution, columns: Any, changes: Any, wanted: tuple[str, str]
) -> None:
    found = compare(trained, seen(trained, window(**columns), **changes))
    assert wanted in named(found)
    for one in found.findings:
        assert one.text
        assert np.isfinite(one.value)


def test_the_size_of_amounts_is_a_hint(trained: Distribution) -> None:
    texts = {
        times: compare(
            trained, seen(trained, window(amount=lambda a, times=times: a * times))
        ).findings
        for times in (100, 0.01, 2)
    }
    told = {
        times: next(o.text for o in found if o.subject == "amount")
        for times, found in texts.items()
    }
    assert "cents instead of whole units" in told[100]
    assert "whole units of the currency instead of cents" in told[0.01]
    assert "times those of training" in told[2]
    assert "cents" not in told[2]


def test_clocks(trained: Distribution) -> None:
    data = window()
    received = {
        "ahead": data["times"] - 60_000,
        "zone": data["times"] + 2 * HOUR_MS + 500,
        "backfill": np.full(WINDOW, data["times"].max() + 90 * DAY_MS),
        "none": data["times"] + 500,
    }
    found = {
        name: compare(trained, seen(trained, data, received_ms=at)).findings
        for name, at in received.items()
    }
    assert [one.text for one in found["ahead"]] == [
        "100.0% of the event times are after the arrival, by up to 60 s: a clock is ahead"
    ]
    assert [one.text for one in found["zone"]] == [
        "event times are 2 hours before the arrival (another time zone?)"
    ]
    assert found["backfill"] == found["none"] == ()


def test_records_and_labels(trained: Distribution) -> None:
    nobody = seen(trained, window()).take(slice(0, 0))

    def found(
        records: RecordCounts | None = None, labels: LabelArrivals | None = None
    ) -> set[tuple[str, str]]:
        return named(compare(trained, nobody, records, labels))

    assert found(RecordCounts(2_000, {"missing_amount": 30}, 0)) == {
        ("dead letters", "missing_amount")
    }
    assert found(RecordCounts(2_000, {"missing_amount": 20}, 99)) == set()
    assert found(RecordCounts(500, {"missing_amount": 400}, 0)) == set()
    assert found(RecordCounts(2_000, {}, 200)) == {("duplicates", "transaction_id")}
    assert found(labels=LabelArrivals(0, 0, DAY_MS + 1, 0)) == {("no labels", "labels")}
    assert found(labels=LabelArrivals(0, 0, DAY_MS + 1, DAY_MS)) == set()  # they come once a day
    assert (
        found(labels=LabelArrivals(0, 0, None, 0)) == set()
    )  # none ever came: labels are optional
    assert found(labels=LabelArrivals(2_000, 40, 0, 0)) == set()
    assert found(labels=LabelArrivals(2_000, 200, 0, 0)) == {("fraud share", "labels")}
    assert found(labels=LabelArrivals(20_000, 4, 0, 0)) == {("fraud share", "labels")}
    assert found(labels=LabelArrivals(500, 400, 0, 0)) == set()


def test_hours_are_those_of_the_time_zone() -> None:
    clock = LocalTime("Europe/Berlin")
    moments = [(2025, 1, 3, 22), (2025, 1, 3, 23), (2025, 7, 4, 22), (2025, 1, 6, 0)]
    times = [int(datetime(*when, tzinfo=UTC).timestamp() * 1000) for when in moments]
    assert clock.slots(np.array(times)).tolist() == [23, 24, 24, 1]


def test_quantiles_that_coincide_share_a_bin() -> None:
    bins = Bins(bounds="0.0 1.0", counts=";".join(["90 8 2 0"] * 8), effect=1)
    assert bins.codes([-1, 0, 0.5, 1, 7, np.nan]).tolist() == [0, 0, 1, 1, 2, 3]
    assert bins.whole.tolist() == [0.9, 0.08, 0.02, 0]
    assert bins.freedom == 2


def manifest(**more: Any) -> Manifest:
    return Manifest(
        format=2, name="m", version=1, sha256="0" * 64, kind="logistic", features=NAMES, feature_schema="s",
        usual=(0.0,) * 4, threshold=0.5, trained={}, metrics={}, libraries={}, **more,
    )  # fmt: skip


def test_a_distribution_does_not_change_the_models_hash() -> None:
    distribution = described(draw(6_000, BEGIN, 3, 1))
    told = manifest(distribution=distribution)
    assert told.scoring_hash == manifest().scoring_hash
    again = Manifest.model_validate_json(told.model_dump_json())
    read = read_distribution(again)
    assert read is not None
    assert read.model_dump(mode="json") == distribution
    assert len(json.dumps(distribution)) < 600 * len(NAMES) + 2_000


@pytest.mark.parametrize(
    "damaged",
    [None, {}, {"version": VERSION + 1}, {"version": VERSION}, {"version": VERSION, "rows": "x"}],
)
def test_what_this_release_does_not_read_is_no_distribution(damaged: Any) -> None:
    assert read_distribution(manifest(distribution=damaged)) is None
    whole = described(draw(6_000, BEGIN, 3, 1))
    for damage in (
        {"score": {**whole["score"], "counts": "1 2 3"}},
        {"hours": "1 2 3"},
        {"hours": "x"},
    ):
        assert read_distribution(manifest(distribution={**whole, **damage})) is None


def test_the_included_models_have_one() -> None:
    entries, _ = ArtifactFolders(SHIPPED).scan()
    assert len(entries) == 3
    for _, included in entries:
        found = read_distribution(included)
        assert found is not None
        assert tuple(found.features) == included.features


def test_windows_are_consecutive_and_end_with_the_newest() -> None:
    assert windows_of(3) == [slice(0, WINDOW)]
    assert windows_of(2 * WINDOW + 3) == [slice(3, WINDOW + 3), slice(WINDOW + 3, 2 * WINDOW + 3)]
    assert [part.stop - part.start for part in windows_of(7_500, IDS_WINDOW)] == [IDS_WINDOW] * 3


def test_stored_rows_are_comparedby_model_and_window(trained: Distribution) -> None:
    """Rows come in no order; a fault in the second of three windows is reported, and that it is over."""
    data = draw(3 * WINDOW, BEGIN + 40 * DAY_MS, 7.5, 5)
    middle = slice(WINDOW, 2 * WINDOW)
    data["amount"][middle] *= 100
    rows = [
        {
            "transaction_id": f"t{at}",
            "card_id": f"c{data['card'][at]}",
            "terminal_id": f"t{data['terminal'][at]}",
            "event_time_ms": int(data["times"][at]),
            "received_at": int(data["times"][at]) + 40,
            "amount_minor": round(data["amount"][at] * 100),
            "score": data["score"][at],
            "is_fraud": data["score"][at] >= 0.15,
            "flags": None,
            "features": {name: data[name][at] for name in NAMES},
            "model_version": "m@1",
            "shadow_scores": {"n@2": data["score"][at] / 2, "o@1": None},
            "shadow_flagged": ["n@2"] if at == 0 else None,
        }
        for at in np.random.default_rng(1).permutation(3 * WINDOW)
    ]
    models = by_model(rows)
    assert {model: len(places) for model, places in models.items()} == {
        "m@1": 15_000,
        "n@2": 15_000,
    }
    assert sum(flagged for _, _, flagged in models["n@2"]) == 1
    one = ModelBins(trained, 100)
    verdicts = np.where(data["fraud"], FRAUD, GENUINE)
    for begin in range(0, len(rows), 4_000):
        some = rows[begin : begin + 4_000]
        said = np.array([verdicts[int(row["transaction_id"][1:])] for row in some])
        said[::2] = UNKNOWN
        one.add(some, matrix(some, one.names), by_model(some)["m@1"], said)
    found = summary(trained, *one.ordered())
    assert (found["transactions"], found["windows"]) == (15_000, 3)
    told = [(f["detector"], f["subject"], f["windows"], f["newest"]) for f in found["findings"]]
    assert told == [("distribution", "amount", 1, False)]
    assert found["fraud_share"] == pytest.approx(0.02, abs=0.005)
    assert [column["name"] for column in found["columns"]] == ["score", *NAMES]
    assert json.dumps(found)


def test_pauses_between_labels() -> None:
    assert label_arrivals(np.array([], np.int64), 5) == (None, 0)
    assert label_arrivals(np.array([3]), 5) == (2, 0)
    # of what is long past nobody waits for the like
    assert label_arrivals(np.array([0, 40 * DAY_MS, 41 * DAY_MS]), 43 * DAY_MS) == (
        2 * DAY_MS,
        DAY_MS,
    )


def test_options_that_do_not_go_together(capsys: pytest.CaptureFixture[str]) -> None:
    for args, text in (
        (["--inject", "--from", "1d"], "--inject cannot be used with --from or --to"),
        (["--fault", "cents"], "--fault needs --inject"),
        (["--cards", "5"], "--cards needs --inject"),
        (["--inject", "--fault", "gremlins"], "there is no fault 'gremlins'; there are cents,"),
        (["--from", "2026-02-01", "--to", "2026-01-01"], "is not before --to"),
    ):
        assert run_command(["drift", *args]) == 2
        assert text in capsys.readouterr().err


@pytest.mark.parametrize("compared", [False, True], ids=["none", "another"])
def test_a_model_without_a_distribution_is_named_with_the_remedy(
    compared: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    few = {"transactions": 3, "windows": 0, "fraud_share": None, "findings": []}
    labels = {"known": 0, "silent_ms": None, "labelled_share": {}}
    models = {"old@1": None, **({"new@1": few} if compared else {})}
    result = {"transactions": 7, "labels": labels, "models": models}
    monkeypatch.setattr("app.cassandra.session.connected", lambda _: nullcontext())
    monkeypatch.setattr("app.ops.drift_report.drift", lambda *_, **__: result)
    assert run_command(["drift"]) == (0 if compared else 2)
    (line,) = [one for one in capsys.readouterr().out.splitlines() if one.startswith("old@1")]
    assert line.startswith("old@1: cannot be compared: no training distribution in its manifest")
    assert "train it again (`fraudstream train` or `retrain`)" in line
