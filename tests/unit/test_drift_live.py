"""Drift of a running worker: a bounded sample of what passes, compared, and several workers as one."""

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from app.metrics.counters import FRAUD_SHARE_LABELS, LabelCounts
from app.metrics.drift_sample import KEPT, PER_SECOND, RecentSample
from app.metrics.prometheus import WorkerMetrics
from app.metrics.worker_reading import WorkerReading
from app.quality.drift_comparison import MODERATE
from app.quality.drift_live import live_drift, live_labels, together
from models.training_distribution import Distribution, read_distribution
from tests.unit.test_drift import BEGIN, DAY_MS, NAMES, described, draw, manifest


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def record(number: int = 0, **fields: Any) -> dict[str, Any]:
    return {
        "card_id": f"c{number % 400}",
        "terminal_id": f"t{number % 300}",
        "event_time_ms": BEGIN,
        "received_at": BEGIN + 40,
        "amount_minor": 100,
        "score": 0.1,
        "is_fraud": False,
        "flags": [],
        "model_version": "m@1",
        "model_hash": "aa",
        "features": {"amount": 1.0, "other": None},
        **fields,
    }


@pytest.fixture(scope="module")
def trained() -> Distribution:
    found = read_distribution(manifest(distribution=described(draw(60_000, BEGIN, 28, 1))))
    assert found is not None
    return found


@pytest.mark.parametrize("rate", [3, 15, 400, 20_000])
def test_some_are_kept_each_second_whatever_the_rate(rate: int) -> None:
    clock = Clock()
    sample = RecentSample(clock)
    for second in range(30):
        for number in range(rate):
            clock.now = second + number / rate
            sample.add(record(number))
        if second == 9:
            before = len(sample.rows()["aa"])
    kept = len(sample.rows()["aa"]) - before
    assert kept == pytest.approx(20 * min(rate, PER_SECOND), rel=0.2)


def test_a_backlog_in_one_moment_is_bounded() -> None:
    sample = RecentSample(Clock())  # no time passes
    for number in range(100_000):
        sample.add(record(number))
    assert len(sample.rows()["aa"]) < 3_000


def test_every_partition_has_its_share() -> None:
    """Blocks of several partitions by turns: what is kept is spread as they are."""
    clock = Clock()
    sample = RecentSample(clock)
    for second in range(60):
        for block in range(10):
            clock.now = second + block / 10
            for partition, size in enumerate((300, 60)):
                for _ in range(size):
                    sample.add(record(card_id=f"p{partition}"))
    kept = [row.fields["card_id"] for row in sample.rows()["aa"]][-800:]
    assert kept.count("p1") / len(kept) == pytest.approx(1 / 6, abs=0.05)


def test_each_model_has_its_own_and_old_ones_go() -> None:
    clock = Clock()
    sample = RecentSample(clock)
    for number in range(20):
        clock.now += 0.1
        sample.add(record(model_hash=f"h{number // 2}"))
    rows = sample.rows()
    assert list(rows) == ["h4", "h5", "h6", "h7", "h8", "h9"]
    assert rows["h9"][0].names == ("amount", "other")
    assert rows["h9"][0].features[0] == 1.0
    assert np.isnan(rows["h9"][0].features[1])
    for _ in range(3 * KEPT):
        clock.now += 0.1
        sample.add(record())
    assert len(sample.rows()["aa"]) == KEPT


def kept(data: dict[str, np.ndarray], **fields: Any) -> list[Any]:
    clock = Clock()
    sample = RecentSample(clock)
    for at in range(len(data["times"])):
        clock.now += 1.0
        sample.add(
            record(
                at,
                card_id=f"c{data['card'][at]}",
                terminal_id=f"t{data['terminal'][at]}",
                event_time_ms=int(data["times"][at]),
                received_at=int(data["times"][at]) + 50,
                amount_minor=round(100 * data["amount"][at]),
                score=float(data["score"][at]),
                is_fraud=bool(data["score"][at] >= 0.15),
                features={name: float(data[name][at]) for name in NAMES},
                **fields,
            )
        )
    return list(sample.rows().values())


def test_a_worker_compares_each_model(trained: Distribution) -> None:
    data = draw(5_000, BEGIN + 60 * DAY_MS, 2.5, 8)
    rows = kept(data, shadow_scores={"n@2": 0.9, "o@1": None}, shadow_flagged=["n@2"])
    found = live_drift(rows, lambda model: None if model == "x@1" else trained, 100)
    assert list(found) == ["m@1", "n@2"]
    assert found["m@1"]["findings"] == []
    assert found["m@1"]["transactions"] == 5_000
    challenger = {(one["detector"], one["subject"]) for one in found["n@2"]["findings"]}
    assert challenger == {("distribution", "score"), ("flagged", "score")}
    assert live_drift(rows, lambda _: None, 100) == {"m@1": None, "n@2": None}
    assert json.dumps(found)


def label(at_ms: int, fraud: bool = False) -> Any:
    return SimpleNamespace(received_at=at_ms, is_fraud=fraud)


def counted(labels: list[Any], clock: Clock) -> LabelCounts:
    counts = LabelCounts(clock)
    for one in labels:
        clock.now = one.received_at / 1_000 + 0.05
        counts.add([one])
    return counts


HOUR_MS = DAY_MS // 24


def test_labels_that_stop_are_found_live(trained: Distribution) -> None:
    data = draw(2_000, BEGIN + 60 * DAY_MS, 1.0, 8)
    rows = kept(data)
    counts = counted([label(BEGIN + hour * HOUR_MS) for hour in range(48)], Clock())
    last_ms = counts.received_ms

    def found(now_ms: int, counts: LabelCounts = counts) -> list[str]:
        drift = live_drift(rows, lambda _: trained, 100, live_labels(counts, now_ms))
        return [one["text"] for one in drift["m@1"]["findings"] if one["subject"] == "labels"]

    assert found(last_ms + 23 * HOUR_MS) == []
    assert found(last_ms + 26 * HOUR_MS) == ["no label has arrived for 1.1 days"]
    text = (
        WorkerMetrics()
        .text(
            WorkerReading(
                drift=live_drift(
                    rows, lambda _: trained, 100, live_labels(counts, last_ms + 2 * DAY_MS)
                )
            )
        )
        .decode()
    )
    assert 'fraudstream_drift_found{detector="no labels",model="m@1",subject="labels"} 1.0' in text
    # a batch each week, and a pause that was seen: three times as long
    weekly = counted(
        [label(BEGIN + week * 7 * DAY_MS + n) for week in range(3) for n in range(9)], Clock()
    )
    assert found(weekly.received_ms + 20 * DAY_MS, weekly) == []
    assert len(found(weekly.received_ms + 22 * DAY_MS, weekly)) == 1
    # of one batch nobody knows when the next comes
    batch = counted([label(BEGIN + n) for n in range(900)], Clock())
    assert found(batch.received_ms + 9 * DAY_MS, batch) == []
    assert found(BEGIN, LabelCounts()) == []


def test_a_worker_that_catches_up_on_labels_does_not_miss_them() -> None:
    clock = Clock()
    counts = counted([label(BEGIN), label(BEGIN + 2 * DAY_MS)], clock)
    clock.now = (BEGIN + 9 * DAY_MS) / 1_000
    counts.add([label(BEGIN + 3 * DAY_MS)])
    arrived = live_labels(counts, BEGIN + 9 * DAY_MS + 1_000)
    assert arrived.silent_ms == 1_000
    assert arrived.pause_ms == 2 * DAY_MS


def test_the_share_of_fraud_among_labels_is_found_live(trained: Distribution) -> None:
    data = draw(2_000, BEGIN + 60 * DAY_MS, 1.0, 8)
    share = trained.shares["fraud"].value

    def found(times: float) -> list[str]:
        counts = LabelCounts(Clock())
        rng = np.random.default_rng(2)
        counts.add(label(BEGIN, bool(rng.random() < times * share)) for _ in range(9_000))
        labels = live_labels(counts, BEGIN + 1_000)
        assert labels.known == FRAUD_SHARE_LABELS
        drift = live_drift(kept(data), lambda _: trained, 100, labels)
        return [one["detector"] for one in drift["m@1"]["findings"]]

    assert found(1.0) == []
    assert found(3.0) == ["fraud share"]
    old = LabelCounts(Clock())
    old.add(label(BEGIN, fraud=True) for _ in range(2_000))
    assert live_labels(old, BEGIN + 31 * DAY_MS).known == 0


def test_features_of_another_catalogue_are_missing(trained: Distribution) -> None:
    data = draw(2_000, BEGIN + 60 * DAY_MS, 1.0, 8)
    (rows,) = kept(data)
    fewer = [row._replace(names=("amount", "a", "b", "c")) for row in rows]
    found = live_drift([fewer], lambda _: trained, 100)["m@1"]
    missing = {one["subject"] for one in found["findings"] if one["detector"] == "missing"}
    assert missing == {"card_mean", "by_night"}


def test_workers_together_are_what_one_would_be(trained: Distribution) -> None:
    data = draw(5_000, BEGIN + 60 * DAY_MS, 2.5, 8)
    data["amount"] *= 1.4
    (rows,) = kept(data)
    alone = live_drift([rows], lambda _: trained, 100)["m@1"]
    parts = [live_drift([some], lambda _: trained, 100) for some in (rows[:2_000], rows[2_000:])]
    both = together([*parts, {"m@1": None, "old@1": None}])
    assert both["old@1"] is None
    assert both["m@1"]["transactions"] == 5_000
    for one, other in zip(alone["columns"], both["m@1"]["columns"], strict=True):
        assert other["name"] == one["name"]
        assert other["psi"] == pytest.approx(one["psi"], rel=1e-6)
        assert other["found"] == pytest.approx(one["found"])
    assert alone["columns"][1]["psi"] > MODERATE


def test_metrics_name_what_has_drifted(trained: Distribution) -> None:
    data = draw(5_000, BEGIN + 60 * DAY_MS, 2.5, 8)
    data["amount"] *= 100
    drift = {**live_drift(kept(data), lambda _: trained, 100), "old@1": None}
    labels = LabelCounts()
    labels.add(
        [SimpleNamespace(is_fraud=fraud, received_at=BEGIN) for fraud in (True, False, False)]
    )
    text = WorkerMetrics().text(WorkerReading(drift=drift, labels=labels)).decode()
    assert (
        'fraudstream_drift_found{detector="distribution",model="m@1",subject="amount"} 1.0' in text
    )
    assert 'fraudstream_drift_transactions{model="m@1"} 5000.0' in text
    assert 'fraudstream_drift_psi{feature="score",model="m@1"}' in text
    assert 'fraudstream_drift_psi_limit{feature="amount",model="m@1"} 0.25' in text
    assert 'fraudstream_drift_missing_ratio{feature="amount",model="m@1"} 0.0' in text
    assert "old@1" not in text
    assert 'fraudstream_labels_total{verdict="fraud"} 1.0' in text
    assert 'fraudstream_labels_total{verdict="genuine"} 2.0' in text
    assert "fraudstream_last_label_timestamp_seconds 1.7356896e+09" in text
