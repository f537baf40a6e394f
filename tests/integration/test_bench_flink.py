"""Flink as a peer, end to end: every transaction has a row, with our features and scikit-learn's scores.

Not in `make test`: it fetches 100 MB of jars the first time. Run it with

    python -m pytest -m bench tests/integration/test_bench_flink.py
"""

import asyncio
from typing import Any

import joblib
import numpy as np
import pytest

from app.cassandra.prediction_queries import scan_predictions
from app.cassandra.session import connected
from app.kafka.topic_admin import log_ends
from app.lab.bench import backlog
from app.lab.bench.deployment import deployment
from app.lab.bench.peer_designs import peer_designs
from app.lab.bench.peer_process import Peer
from app.lab.bench.run import Design
from app.settings import Settings
from app.topics import Topics
from tests.deployment import Deployment, Send, wait_until

pytestmark = [pytest.mark.integration, pytest.mark.bench]

EVENTS = 3_000
#: Of the feature set `basic`: those of the terminal depend on how partitions interleave.
OF_CARDS = 13
COLUMNS = ("transaction_id", "terminal_id", "event_time", "score", "is_fraud", "features")


@pytest.fixture(scope="module")
def flink() -> Design:
    designs, skipped = peer_designs(["flink"], print)
    if skipped:
        pytest.skip(skipped["flink"])
    return designs[0]


def rows_of(settings: Settings) -> dict[str, dict[str, Any]]:
    with connected(settings) as session:
        rows = scan_predictions(session, settings, COLUMNS)
        return {row[0]: dict(zip(COLUMNS, row, strict=True)) for row in rows}


def through_flink(settings: Settings, design: Design) -> dict[str, dict[str, Any]]:
    """Its rows; their scores are what scikit-learn gives for their features."""
    backlog.fill(settings, EVENTS, 1, cards=40, terminals=20)
    with Peer(settings, design.command, EVENTS, environ=dict(design.environ)) as peer:
        peer.await_begin()
        found = peer.await_end()
        assert found.events == EVENTS
        assert found.seconds > 0
        model = joblib.load(settings.home / "peer-model.joblib")
        predictions = Topics(settings).predictions.name
        wait_until(
            lambda: sum(asyncio.run(log_ends(settings, predictions)).values()) >= EVENTS,
            "the predictions",
        )
    rows = rows_of(settings)
    assert len(rows) == EVENTS
    matrix = np.zeros((EVENTS, model.n_features_in_))
    width = min(model.n_features_in_, len(NAMES))
    for at, row in enumerate(rows.values()):
        matrix[at, :width] = [row["features"][name] for name in NAMES[:width]]
    scores = [row["score"] for row in rows.values()]
    assert model.predict_proba(matrix)[:, 1] == pytest.approx(scores, rel=1e-9)
    assert len(set(scores)) > 1
    return rows


WINDOWS = ("1h", "1d", "7d", "30d")
NAMES = (
    "amount", "is_weekend", "is_night", "seconds_since_last",
    *(f"card_count_{window}" for window in WINDOWS), *(f"card_avg_amount_{window}" for window in WINDOWS),
    "amount_over_card_avg_30d", *(f"terminal_count_{window}" for window in WINDOWS),
)  # fmt: skip


def test_features_are_ours(settings: Settings, flink: Design) -> None:
    name = f"bench_{settings.topic_prefix.strip('-')}"
    with deployment(settings, f"{name}_flink") as theirs, deployment(settings, f"{name}_ours") as own:  # fmt: skip
        found = through_flink(theirs, flink)
        sent = Deployment(theirs).records(Deployment(theirs).topics.transactions)
        assert len(Deployment(theirs).records(Deployment(theirs).topics.predictions)) == EVENTS
        Deployment(own).send(Send(record.value, record.key, record.partition) for record in sent)
        backlog.measure(own, EVENTS)
        ours = rows_of(own)
    assert found.keys() == ours.keys()
    assert 0 < sum(row["is_fraud"] for row in found.values()) < EVENTS
    for row, our in ((found[key], ours[key]) for key in found):
        assert row["event_time"] == our["event_time"]
        assert set(row["features"]) == set(our["features"]) == set(NAMES)
        for column in NAMES[:OF_CARDS]:
            assert row["features"][column] == our["features"][column], (row, our)
    # of a terminal's transactions within a window, those that had arrived
    for row in found.values():
        same = [one for one in found.values() if one["terminal_id"] == row["terminal_id"]]
        at = row["event_time"].timestamp()
        for days, column in ((1, "terminal_count_1d"), (30, "terminal_count_30d")):
            within = sum(0 <= at - one["event_time"].timestamp() < days * 86_400 for one in same)
            assert 1 <= row["features"][column] <= within


def test_a_forest(settings: Settings, flink: Design) -> None:
    name = f"bench_{settings.topic_prefix.strip('-')}_forest"
    with deployment(settings, name, model="default@2") as own:
        through_flink(own, flink)
