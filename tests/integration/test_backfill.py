"""A backfill in partitions that run apart computes what live traffic would have."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from urllib.request import urlopen

import numpy as np
import orjson
import pytest

from app.ops.reference import murmur2_partition
from app.ops.training_features import compute_features
from app.settings import Settings
from app.stages.deployed_features import catalogue_of
from tests.builders import T0, tx
from tests.deployment import Deployment, Send, wait_until
from tests.fleet import Fleet
from tests.real_servers import Servers
from tests.seed import SEED
from tests.worker_settings import environ_of

pytestmark = pytest.mark.integration

DAY = 86_400_000
DAYS = 60
#: Transactions of each source partition.
SIZES = (5_000, 1_200, 250, 40)
CARDS, TERMINALS = 12, 15


@dataclass(frozen=True)
class Backfill:
    """Columns as `compute_features` takes them, in order of event time."""

    transaction_id: np.ndarray
    card_id: np.ndarray
    terminal_id: np.ndarray
    amount_minor: np.ndarray
    event_time_ms: np.ndarray
    is_fraud: np.ndarray
    label_known_at_ms: np.ndarray


def backfill(rng: Random, partitions: int) -> Backfill:
    """Partitions of very different sizes; each transaction is labelled a day later."""
    cards: dict[int, list[str]] = {number: [] for number in range(partitions)}
    number = 0
    while min(map(len, cards.values())) < CARDS:
        cards[murmur2_partition(b"c%d" % number, partitions)].append(f"c{number}")
        number += 1
    total = sum(SIZES)
    times = np.sort(np.array(rng.sample(range(DAYS * DAY), total)))  # no two at one moment
    where = [partition for partition, size in enumerate(SIZES) for _ in range(size)]
    rng.shuffle(where)
    return Backfill(
        np.array([f"tx-{n}" for n in range(total)]),
        np.array([rng.choice(cards[partition][:CARDS]) for partition in where]),
        np.array([f"t{rng.randrange(TERMINALS)}" for _ in where]),
        np.array([rng.randrange(1, 50_000) for _ in where]),
        times + T0,
        np.array([rng.random() < 0.2 for _ in where]),
        times + T0 + DAY,
    )


def send(deployment: Deployment, data: Backfill) -> None:
    """Everything at once: transactions, then their labels."""
    ids, cards, terminals = (
        column.tolist() for column in (data.transaction_id, data.card_id, data.terminal_id)
    )
    times = data.event_time_ms.tolist()
    deployment.send(
        Send(
            orjson.dumps(
                tx(
                    transaction_id=ids[n], card=cards[n], terminal=terminals[n], event_time=times[n],
                    amount=f"{minor // 100}.{minor % 100:02}",
                )
            ),
            cards[n].encode(),
        )
        for n, minor in enumerate(data.amount_minor.tolist())
    )  # fmt: skip
    deployment.send(
        (
            Send(
                orjson.dumps(
                    {
                        "transaction_id": ids[n], "card_id": cards[n], "terminal_id": terminals[n],
                        "event_time": times[n], "is_fraud": fraud, "labelled_at": times[n] + DAY,
                    }
                ),
                ids[n].encode(),
            )
            for n, fraud in enumerate(data.is_fraud.tolist())
        ),
        deployment.topics.labels,
    )  # fmt: skip


@contextmanager
def hiccups(kafka: int) -> Iterator[None]:
    """A broker that answers nobody for two seconds, twice."""
    over = threading.Event()

    def pause() -> None:
        for _ in range(2):
            over.wait(3)
            os.kill(kafka, signal.SIGSTOP)
            over.wait(2)
            os.kill(kafka, signal.SIGCONT)

    thread = threading.Thread(target=pause, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_a_backfill_computes_what_live_traffic_would_have(
    stack: Servers, settings: Settings, tmp_path: Path
) -> None:
    kafka = stack.require_local().running("kafka")
    assert kafka
    settings = settings.model_copy(update={"features": ("basic", "handbook")})
    deployment = Deployment(settings)
    deployment.prepare()
    data = backfill(Random(SEED), settings.partitions)
    send(deployment, data)
    with Fleet(environ_of(settings), tmp_path) as fleet:
        fleet.start("one", "two")
        with hiccups(kafka.pid):
            fleet.await_ready()
            wait_until(lambda: deployment.count(deployment.topics.predictions) > 6_000, "most")
        deployment.drain(200)
        report = deployment.verify()
        metrics = [urlopen(f"{fleet[name].url}/metrics").read() for name in ("one", "two")]
    assert report["scored"] == len(data.event_time_ms)
    assert report["labels"]["forwarded"] == len(data.event_time_ms)
    assert all(b"fraudstream_event_time_seconds{" in text for text in metrics)

    found = {
        record["transaction_id"]: record["features"]
        for record in (orjson.loads(r.value) for r in deployment.records(deployment.topics.predictions))
    }  # fmt: skip
    expected = compute_features(data, settings)
    # How many transactions a terminal has had lately is not among them: partitions may be a skew apart, so that some
    # of the last ones come after. What is older than the label delay has all come.
    names = catalogue_of(settings).names
    compared = [i for i, name in enumerate(names) if not name.startswith("terminal_count_")]
    assert {name for name in names if "risk" in name} <= {names[i] for i in compared}
    different = [
        (transaction_id, names[i], found[transaction_id][names[i]], expected[row, i])
        for row, transaction_id in enumerate(data.transaction_id.tolist())
        for i in compared
        if found[transaction_id][names[i]] != expected[row, i]
        and not (found[transaction_id][names[i]] is None and np.isnan(expected[row, i]))
    ]
    assert not different, (len(different), different[:5])
    risks = [i for i, name in enumerate(names) if name == "terminal_risk_30d"]
    assert np.count_nonzero(expected[:, risks]) > len(data.event_time_ms) // 2
