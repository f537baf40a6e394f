"""fraudstream reduced to the work of `quix-reduced`.

One window of an hour for cards, no terminals, no predictions topic.
The model scores in the same block and rows go to Cassandra at once; transport, order of effects, changelog and
store are those of the application. FRAUDSTREAM_WINDOWS=1h must be set.

Speaks as app/lab/bench/peer_process.py asks: `python job.py worker -l error --without-web`.
"""

import json
import math
import os
import sys
import time

import numpy as np
from mode.supervisors import CrashingSupervisor

from app.blocks.core.partition import Computed
from app.blocks.faust.pipeline import Pipeline
from app.cassandra.prediction_rows import RowPacker
from app.cassandra.sink_delivery import Delivery
from app.domain.features import Catalogue
from app.domain.transaction_outcomes import CardStage, Enriched
from app.faust_app import app, batch_bytes, source
from app.kafka.partitioner import partition_of
from app.metrics.counters import SinkStatus
from app.stages.block_rows import BlockRows, row_rules
from app.wire.input_records import RecordRules, parse_transaction
from app.wire.output_records import prediction_message
from models.artifact_folders import artifact_folders
from models.model_loader import ModelHolder
from tables import block_table

EVENTS, WARM_UP = int(os.environ["BENCH_EVENTS"]), int(os.environ["BENCH_WARM_UP"])
HOUR = 3_600_000
settings, topics, catalogue = app.settings, app.fraud_topics, app.catalogue
#: The model takes all features: those of other windows are zero.
EVERYTHING = Catalogue(
    (HOUR, 24 * HOUR, 7 * 24 * HOUR, 30 * 24 * HOUR), settings.minor_unit_digits, "UTC"
)
PLACES = [
    EVERYTHING.names.index(feature.name)
    for feature in catalogue.columns
    if feature.stage == "card" and feature.name in EVERYTHING.names
]
HAVE = [
    index
    for index, feature in enumerate(catalogue.columns)
    if feature.stage == "card" and feature.name in EVERYTHING.names
]
model = ModelHolder(artifact_folders(settings), EVERYTHING, settings.minor_unit_digits).named(
    settings.model
)


def say(**said):
    """One line for the bench, past the standard output that Faust turns into log lines."""
    print(json.dumps(said), file=sys.__stdout__, flush=True)


class Handler:
    """One block: features, scores, rows. See `app.blocks.core.partition.Handler`."""

    def __init__(self):
        self.begun = 0.0
        self._stage = CardStage(
            catalogue, settings.allowed_lateness, partition_of(settings.partitions)
        )
        self._rules, self._record_rules = row_rules(settings), RecordRules.of(settings)
        self._packer = RowPacker(settings.currency, settings.minor_unit_digits)

    def compute(self, partition, records, state, until_ms=math.inf):
        """Packed rows and card rows of consecutive transactions; partitions need not keep in step here."""
        if not self.begun:
            self.begun = time.monotonic()
            say(mark="begin")
        rows, kept = BlockRows(self._rules, state), []
        for record in records:
            transaction = parse_transaction(
                record.value, record.key, record.timestamp, self._record_rules
            )
            row = rows.read(record.key)
            if rows.advance(row, record.offset):
                outcome = self._stage.apply(transaction, row, partition)
                if isinstance(outcome, Enriched):
                    kept.append((record, outcome))
        if not kept:
            return Computed(self._packer.pack_many([]), rows.groups())
        matrix = np.zeros((len(kept), len(EVERYTHING.names)))
        matrix[:, PLACES] = np.array([outcome.features for _, outcome in kept])[:, HAVE]
        now = time.time_ns() // 1_000_000
        values = [
            prediction_message(outcome.transaction.body, {
                "amount_minor": outcome.transaction.minor, "event_time_ms": outcome.transaction.event_time_ms,
                "features": dict(zip(catalogue.names, outcome.features)), "score": score,
                "is_fraud": score >= model.threshold, "threshold": model.threshold,
                "model_version": model.version, "model_hash": model.hash, "feature_schema": catalogue.schema,
                "reasons": [], "anomaly_score": None, "flags": outcome.flags,
                "source_topic": topics.transactions.name, "source_partition": partition,
                "source_offset": record.offset, "received_at": record.timestamp, "scored_at": now,
            })
            for (record, outcome), score in zip(kept, model.score(matrix).tolist())
        ]  # fmt: skip
        return Computed(self._packer.pack_many(values), rows.groups())


latencies = []


def written(since_event):
    """A block's rows are acknowledged."""
    latencies.extend(since_event)
    if len(latencies) >= EVENTS:
        marks = np.quantile(latencies[WARM_UP:], (0.5, 0.99, 0.999)).tolist()
        quantiles = dict(zip(("p50", "p99", "p99.9"), marks))
        say(
            mark="end",
            events=len(latencies),
            seconds=time.monotonic() - handler.begun,
            latency_ms=quantiles,
        )


handler = Handler()
transactions = source(app, topics.transactions.name)
pipeline = Pipeline(
    app,
    transactions,
    handler,
    table=block_table(app, "cards", topics.cards_changelog.name),
    depth=settings.blocks_in_flight,
    block_records=settings.block_records,
    batch_bytes=batch_bytes(settings),
    deliver=Delivery(
        settings,
        status=SinkStatus(),
        clock_ms=lambda: time.time() * 1000,
        since_append=lambda _: None,
        since_event=written,
    ).deliver,
)


@app.agent(transactions, name="reduced", supervisor_strategy=CrashingSupervisor)
async def reduced(stream):
    """One block at a time."""
    async for event in stream.noack().events():
        await pipeline.process(event)


if __name__ == "__main__":
    sys.argv[0] = "reduced"
    app.main()
