"""The Faust application that one writes first: what `fraudstream bench` compares with.

As Faust's user guide teaches it: a record type, an agent that takes one event at a time, a hopping window in
a table for each feature, the scikit-learn model called for each event, one insert for each row. It does less
than fraudstream: one window instead of four, approximate ones (a hop of 5 minutes), no terminal features,
no reasons, no predictions topic, and after a crash counts may be wrong.

Runs by itself: `python -m app.lab.bench.naive_faust worker -l warn --without-web`, settings as for
fraudstream; what it is told and what it says: see app/lab/bench/peer_process.py.
"""

import json
import os
import sys
import time
from datetime import datetime, timedelta
from typing import Any

import faust
import joblib
import numpy as np
from cassandra.cluster import Cluster

from app.server_addresses import resolve
from app.settings import load_settings
from app.topics import Topics

settings = load_settings()
endpoints = resolve(settings)
EVENTS = int(os.environ.get("BENCH_EVENTS", "5000"))
WARM_UP = int(os.environ.get("BENCH_WARM_UP", "0"))


class Transaction(faust.Record):
    """One event of the topic; fields that are not needed are left out."""

    transaction_id: str
    card_id: str
    amount: float
    event_time: str


class CardWindow(faust.Record):
    """Number and sum of a card's transactions in one hop of the window."""

    count: int = 0
    total: float = 0.0


app = faust.App(
    f"{settings.topic_prefix}naive",
    broker=f"kafka://{endpoints.broker}",
    store="rocksdb://",
    datadir=str(settings.state_dir),
    topic_partitions=settings.partitions,
    topic_replication_factor=1,
    consumer_auto_offset_reset="earliest",
    stream_wait_empty=False,
)
transactions = app.topic(Topics(settings).transactions.name, key_type=bytes, value_type=Transaction)
windows = (
    app.Table(
        "card-windows",
        default=CardWindow,
        partitions=settings.partitions,
        options={"driver": "rocksdict"},
    )
    .hopping(timedelta(hours=1), timedelta(minutes=5), expires=timedelta(hours=2))
    .relative_to_stream()
)

pipeline = joblib.load(os.environ["BENCH_MODEL"])
FEATURES = int(os.environ["BENCH_FEATURES"])
THRESHOLD = float(os.environ["BENCH_THRESHOLD"])

_host, _port = endpoints.cassandra[0]
session = Cluster([_host], port=_port, sockopts=[(6, 1, 1)]).connect(settings.keyspace)
session.execute(
    "CREATE TABLE IF NOT EXISTS naive_predictions (card_id text, event_time timestamp, "
    "transaction_id text, amount double, count int, average double, score double, is_fraud boolean, "
    "PRIMARY KEY (card_id, event_time, transaction_id))"
)
insert = session.prepare(
    "INSERT INTO naive_predictions (card_id, event_time, transaction_id, amount, count, average, "
    "score, is_fraud) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)


def say(**said: Any) -> None:
    """Tell the bench, past the standard output that Faust turns into log lines."""
    print(json.dumps(said), file=sys.__stdout__, flush=True)


@app.agent(transactions)
async def score(stream: faust.StreamT) -> None:
    """One event at a time: update the window, score, insert."""
    done, started = 0, 0.0
    latencies = []
    async for event in stream:
        if not done:
            say(mark="begin")
            started = time.monotonic()
        moment = datetime.fromisoformat(event.event_time)
        hop = windows[event.card_id]
        seen = hop.current()
        windows[event.card_id] = CardWindow(seen.count + 1, seen.total + event.amount)
        now = windows[event.card_id].current()
        average = now.total / now.count
        row = np.zeros((1, FEATURES))
        row[0, :3] = event.amount, now.count, average
        probability = float(pipeline.predict_proba(row)[0, 1])
        session.execute(
            insert,
            (event.card_id, moment, event.transaction_id, event.amount, now.count, average,
             probability, probability >= THRESHOLD),
        )  # fmt: skip
        latencies.append((time.time() - moment.timestamp()) * 1000)
        done += 1
        if done == EVENTS:
            seconds = time.monotonic() - started
            marks = np.quantile(latencies[WARM_UP:], (0.5, 0.99, 0.999)).tolist()
            quantiles = dict(zip(("p50", "p99", "p99.9"), marks, strict=True))
            say(mark="end", events=done, seconds=seconds, latency_ms=quantiles)


if __name__ == "__main__":
    sys.argv[0] = "naive"
    app.main()
