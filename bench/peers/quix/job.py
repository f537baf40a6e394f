"""The same work with Quix Streams: `full`, or `reduced` to what it is best at.

full     four exact windows for cards, then by terminal (a repartition topic), four more; the model for each event;
         the predictions topic; Cassandra from a batching sink. No late, duplicate or moved records, no reasons; at
         least once: after a crash some transactions are counted twice.
reduced  one window of an hour for cards, the model for a whole batch inside the sink, Cassandra; no terminals, no
         predictions topic.

Speaks as app/lab/bench/peer_process.py asks: `python job.py full|reduced`.
"""

import json
import os
import sys
import time
from bisect import bisect_right
from datetime import datetime

import joblib
import numpy as np
from cassandra.cluster import Cluster
from cassandra.query import BatchStatement, BatchType
from quixstreams import Application
from quixstreams.sinks import BatchingSink

MODE = sys.argv[1]
EVENTS, WARM_UP = int(os.environ["BENCH_EVENTS"]), int(os.environ["BENCH_WARM_UP"])
LIVE = bool(os.environ.get("BENCH_LIVE"))
PREFIX = os.environ["FRAUDSTREAM_TOPIC_PREFIX"]
WIDTH, THRESHOLD = int(os.environ["BENCH_FEATURES"]), float(os.environ["BENCH_THRESHOLD"])
HOUR = 3_600_000
WINDOWS = (HOUR, 24 * HOUR, 7 * 24 * HOUR, 30 * 24 * HOUR) if MODE == "full" else (HOUR,)
#: A batch of Cassandra may have 50 KB.
ROWS_A_BATCH, BATCHES_IN_FLIGHT = 40, 16

model = joblib.load(os.environ["BENCH_MODEL"])
host, port = os.environ["FRAUDSTREAM_CASSANDRA"].split(":")
session = Cluster([host], port=int(port), sockopts=[(6, 1, 1)]).connect(
    os.environ["FRAUDSTREAM_KEYSPACE"]
)
insert = session.prepare(
    "INSERT INTO predictions (card_id, month, event_time, transaction_id, terminal_id, amount, score, "
    "is_fraud, threshold, features, scored_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
begun = 0.0


def say(**said):
    """One line for the bench."""
    print(json.dumps(said), flush=True)


def windows(state, at, minor, amount_too):
    """Counts (and averages) over (t - w, t] of a history in the state, in which this event is put."""
    times, amounts = state.get("history", default=([], []))
    place = bisect_right(times, at)
    times.insert(place, at)
    amounts.insert(place, minor)
    old = bisect_right(times, times[-1] - WINDOWS[-1])
    if old:
        del times[:old], amounts[:old]
        place -= old
    state.set("history", (times, amounts))
    counts, averages = [], []
    for window in WINDOWS:
        first = bisect_right(times, at - window)
        count = place + 1 - first
        counts.append(count)
        if amount_too:
            averages.append(sum(amounts[first : place + 1]) / (100 * count))
    return counts, averages


def of_card(value, state):
    """The card's features."""
    global begun
    if not begun:
        begun = time.monotonic()
        say(mark="begin")
    moment = datetime.fromisoformat(value["event_time"])
    value["at"] = round(moment.timestamp() * 1000)
    minor = round(value["amount"] * 100)
    value["counts"], value["averages"] = windows(state, value["at"], minor, True)
    return value


def of_terminal(value, state):
    """The terminal's features."""
    value["terminal_counts"] = windows(state, value["at"], 0, False)[0]
    return value


def features(value):
    """The columns that the model takes."""
    moment = datetime.fromtimestamp(value["at"] / 1000)
    base = [value["amount"], float(moment.weekday() >= 5), float(moment.hour <= 6), 0.0]
    row = base + value["counts"] + value["averages"] + [1.0] + value.get("terminal_counts", [])
    return (row + [0.0] * WIDTH)[:WIDTH]


def score(value):
    """The model, for one event."""
    value["score"] = float(model.predict_proba(np.array([features(value)]))[0, 1])
    return value


class CassandraSink(BatchingSink):
    """Writes what Quix has gathered since its last checkpoint."""

    rows, latencies = 0, []

    def write(self, batch):
        """Unlogged batches, some in flight."""
        values = [item.value for item in batch]
        if MODE == "reduced":
            scores = model.predict_proba(np.array([features(value) for value in values]))[:, 1]
            for value, found in zip(values, scores.tolist()):
                value["score"] = found
        flying = []
        for begin in range(0, len(values), ROWS_A_BATCH):
            statement = BatchStatement(BatchType.UNLOGGED)
            for value in values[begin : begin + ROWS_A_BATCH]:
                statement.add(insert, self.row(value))
            flying.append(session.execute_async(statement))
            if len(flying) >= BATCHES_IN_FLIGHT:
                flying.pop(0).result()
        for future in flying:
            future.result()
        CassandraSink.rows += len(values)
        now = time.time() * 1000
        CassandraSink.latencies += [now - value["at"] for value in values]
        if CassandraSink.rows >= EVENTS:
            self.end()

    def row(self, value):
        """Values of the insert."""
        moment = datetime.fromisoformat(value["event_time"])
        named = {f"card_count_{number}": float(n) for number, n in enumerate(value["counts"])}
        named |= {f"card_average_{number}": n for number, n in enumerate(value["averages"])}
        named |= {
            f"terminal_count_{n}": float(c) for n, c in enumerate(value.get("terminal_counts", ()))
        }
        return (value["card_id"], value["event_time"][:7], moment, value["transaction_id"],
                value["terminal_id"], value["amount"], value["score"], value["score"] >= THRESHOLD,
                THRESHOLD, named, datetime.now())  # fmt: skip

    def end(self):
        """All rows are acknowledged."""
        seconds = time.monotonic() - begun
        marks = np.quantile(self.latencies[WARM_UP:], (0.5, 0.99, 0.999)).tolist()
        quantiles = dict(zip(("p50", "p99", "p99.9"), marks))
        say(mark="end", events=self.rows, seconds=seconds, latency_ms=quantiles)
        time.sleep(600)  # the bench ends us


app = Application(
    broker_address=os.environ["FRAUDSTREAM_BROKER"],
    consumer_group=f"{PREFIX}quix",
    auto_offset_reset="earliest",
    state_dir="quix-state",
    loglevel="ERROR",
    # the sink writes at each checkpoint: latency or throughput
    commit_interval=0.1 if LIVE else 1.0,
)
transactions = app.topic(f"{PREFIX}transactions", key_deserializer="str", value_deserializer="json")
stream = app.dataframe(transactions).apply(of_card, stateful=True)
if MODE == "full":
    predictions = app.topic(f"{PREFIX}predictions", key_serializer="str", value_serializer="json")
    stream = stream.group_by("terminal_id").apply(of_terminal, stateful=True).apply(score)
    stream = stream.to_topic(predictions, key=lambda value: value["card_id"])
stream.sink(CassandraSink())
app.run()
