"""The views' questions answered from a running Faust app."""

import asyncio
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import orjson
from aiokafka.errors import KafkaError
from faust.types import TP

from app.blocks.faust.block_table import BlockTable
from app.cassandra.alert_queries import AlertQuery, list_alerts
from app.cassandra.audit_records import AuditRecord, write_records
from app.cassandra.claims_and_verdicts import ReviewStore
from app.cassandra.label_queries import label_of
from app.cassandra.prediction_queries import decisions_of, find_transaction, is_scored
from app.cassandra.session import shared_session
from app.cassandra.stored_alert import Alert
from app.cassandra.timeline import timeline
from app.domain.decision import decision_of
from app.domain.features import Catalogue
from app.domain.rules.policy import APPROVE
from app.errors import UnavailableError
from app.faust_app import FraudApp
from app.kafka.partitioner import partition_of
from app.kafka.recent_dead_letters import (
    DeadLetterQuery,
    RecentDeadLetters,
    recent_dead_letters,
)
from app.metrics.counters import (
    alert_status,
    append_to_row,
    decisions,
    event_to_row,
    label_counts,
    refund_status,
    sink_status,
)
from app.metrics.labelled_flags import RecentLabel, labelled_flags
from app.metrics.last_hour import CounterTotals
from app.metrics.log_ends import LogEnds
from app.metrics.waiting_partitions import read_waits
from app.metrics.worker_reading import (
    WorkerReading,
    copied_partitions,
    read_copies,
    read_flow,
    read_state_bytes,
    read_tasks,
    source_partitions,
)
from app.quality.measure_decisions import measure
from app.settings import Settings
from app.web.cassandra_lookups import CassandraLookups
from app.web.key_owner import OwnedElsewhere, OwnedHere, Place, Unowned, key_owner
from app.web.live_precision import LivePrecision
from app.web.models_data import ModelReader
from app.web.quality_data import QualityData
from app.web.readiness import why_not_ready
from app.web.worker_requests import PeerAnswer, request_worker

#: A page that waits longer for dead letters says so instead.
_LETTERS_SECONDS = 15.0
T = TypeVar("T")


class FaustWorker:
    """See `worker_protocol.Worker`.

    Args:
        app: the running app.
        tables: the table of each kind of key: `card`, `terminal`.
    """

    def __init__(self, app: FraudApp, tables: Mapping[str, BlockTable]) -> None:
        self.settings: Settings = app.settings
        self.catalogue: Catalogue = app.catalogue
        self.deployment = app.settings.deployment
        self._app = app
        self._tables = tables
        self._partition_of = partition_of(app.settings.partitions)
        self._started_at = time.time()
        self._lookups = CassandraLookups()
        self._quality = QualityData(self._measure)
        self._precision = LivePrecision(labelled_flags, self._read_flagged)
        self._reading_letters = asyncio.Lock()
        self._models = ModelReader(app, self.look_up)
        self.reviews = ReviewStore(app.settings)
        self._ends = LogEnds(self._ask_ends)
        topics = app.fraud_topics
        self._stages = {
            topics.transactions.name: "cards",
            topics.enriched.name: "scoring",
            topics.predictions.name: "sink",
            topics.labels.name: "labels",
            topics.refunds.name: "refunds",
            topics.alerts.name: "alerts",
            topics.control.name: "control",
        }

    @property
    def url(self) -> str:
        """Where this worker answers."""
        return str(self._app.conf.canonical_url).rstrip("/")

    def find(self, kind: str, key: bytes) -> Place:
        """Who holds a card's or terminal's row."""
        table = self._tables[kind]
        # the partitioner of producers; Faust's own routing would hash likewise, but fails until its
        # producer has seen the changelog topic
        partition = self._partition_of(key)
        active = TP(table.changelog_topic.get_topic_name(), partition) in self._actives()
        answer = key_owner(
            partition, self.url, self.owners(), active=active, ready=self._is_ready(table)
        )
        if answer is None:
            # only of partitions that are ours: reading opens the store, and takes its lock
            return OwnedHere(partition, table.reader(partition).get)
        return answer if isinstance(answer, Unowned) else OwnedElsewhere(answer)

    def owners(self) -> dict[str, Sequence[int]]:
        """Partitions by the URL of the worker that holds them; both tables are handed out alike."""
        table = self._tables["card"]
        topic = table.changelog_topic.get_topic_name()
        return {
            url: topics.get(topic, ())
            for url, topics in self._app.router.table_metadata(table.name).items()
        }

    async def reasons(self) -> list[str]:
        """Why this worker is not ready; empty when it is."""
        _, answered = await self._ends.read(self._wanted_ends())
        return self._reasons(kafka_answers=answered)

    def _reasons(self, *, kafka_answers: bool) -> list[str]:
        app = self._app
        return why_not_ready(
            stopping=app.should_stop,
            joined=bool(app.consumer_generation_id),
            rebalancing=app.rebalancing,
            kafka_answers=kafka_answers,
            tables={table.name: self._is_ready(table) for table in self._tables.values()},
            sink=sink_status.reason or refund_status.reason or alert_status.reason,
            stopped=[] if app.stops is None else sorted(map(str, app.stops.current().values())),
        )

    def waits(self) -> list[str]:
        """Who waits for what in this worker: no reason not to be ready."""
        return read_waits(self._app)

    @property
    def stopping(self) -> bool:
        """Whether this worker was told to stop."""
        return bool(self._app.should_stop)

    def totals(self) -> CounterTotals:
        """What this worker has counted since it started."""
        topics, pipelines = self._app.fraud_topics, self._app.pipelines
        cards: Any = pipelines[topics.transactions.name].handler
        scoring: Any = pipelines[topics.enriched.name].handler
        counts, raised = cards.counts, scoring.raised
        return CounterTotals(
            sum(counts.values()), counts["dead"], sum(raised.values()), append_to_row.counts()
        )

    def recent_alerts(self) -> list[dict[str, Any]]:
        """The newest alerts that this worker has seen, newest first."""
        return self._app.recent_alerts.newest()

    def labelled(self) -> dict[str, int]:
        """What its live precision rests on."""
        return self._precision.counts()

    async def _read_flagged(self, labels: Sequence[RecentLabel]) -> dict[tuple[str, int], bool]:
        keys = [(one.card_id, one.transaction_id, one.event_time_ms) for one in labels]

        def ask() -> dict[tuple[str, int], dict[str, Any]]:
            return decisions_of(shared_session(self.settings), self.settings, keys)

        found = await self.look_up(ask)
        return {key: decision_of(row).action != APPROVE for key, row in found.items()}

    async def reading(self, *, sizes: bool = True) -> WorkerReading:
        """What this worker tells about itself; `sizes`: with the bytes of its state."""
        app = self._app
        copies = copied_partitions(app)
        ends, answered = await self._ends.read(self._wanted_ends())
        reading = read_flow(app, self._stages, ends)
        reading.copies = read_copies(copies, ends)
        reading.kafka_answers = answered
        reading.reasons, reading.waits = self._reasons(kafka_answers=answered), self.waits()
        reading.parked = app.retries.parked()
        if sizes:
            reading.state_bytes = await asyncio.to_thread(read_state_bytes, self._stores())
        reading.sink, reading.latency = sink_status, append_to_row
        reading.refunds, reading.alerts = refund_status, alert_status
        reading.event_latency, reading.decisions = event_to_row, decisions
        reading.labels = label_counts
        reading.model, reading.started_at = self._bound_model(), self._started_at
        reading.tasks, reading.threads = read_tasks(app), threading.active_count()
        reading.rebalances = app.rebalancing_count
        reading.score_answers = dict(app.answers.statuses)
        return reading

    async def send_labels(self, labels: Sequence[dict[str, Any]]) -> None:
        """Append labels to their topic; done once they are durable.

        Raises:
            UnavailableError: Kafka does not accept them.
        """
        spec = self._app.fraud_topics.labels
        place = partition_of(spec.partitions)
        producer = self._app.producer._producer  # noqa: SLF001 -- its connections serve
        try:
            sent = []
            for one in labels:
                key = one["transaction_id"].encode()
                sent.append(
                    await producer.send(spec.name, orjson.dumps(one), key=key, partition=place(key))
                )
            await asyncio.gather(*sent)
        except KafkaError as error:
            msg = f"Kafka does not accept the label: {error}; try again"
            raise UnavailableError(msg) from error

    async def keep_records(self, *records: AuditRecord) -> None:
        """Write audit records."""

        def write() -> None:
            write_records(shared_session(self.settings), self.settings, records)

        await self.look_up(write)

    async def append(
        self, partition: int, key: bytes, value: bytes, headers: list[tuple[str, bytes]]
    ) -> tuple[int, int]:
        """Append a record to `transactions`; returns its partition and offset once it is durable.

        Raises:
            UnavailableError: Kafka does not accept it.
        """
        topic = self._app.fraud_topics.transactions.name
        producer = self._app.producer._producer  # noqa: SLF001 -- its connections serve
        try:
            sent = await producer.send(topic, value, key=key, partition=partition, headers=headers)
            landed = await sent
        except KafkaError as error:
            msg = f"Kafka does not accept the transaction: {error}"
            raise UnavailableError(msg) from error
        return landed.partition, landed.offset

    async def transaction(self, transaction_id: str) -> Mapping[str, Any] | None:
        """A scored transaction from Cassandra, None when there is none."""
        return await self.look_up(find_transaction, self.settings, transaction_id)

    async def is_scored(self, transaction_id: str) -> bool:
        """Whether a scored transaction is in Cassandra."""
        return await self.look_up(is_scored, self.settings, transaction_id)

    async def label(self, transaction_id: str, event_time_ms: int) -> Mapping[str, Any] | None:
        """What is known of a transaction afterwards, None when there is no label."""
        return await self.look_up(self._label, transaction_id, event_time_ms)

    def _label(self, transaction_id: str, event_time_ms: int) -> Mapping[str, Any] | None:
        session = shared_session(self.settings)
        return label_of(session, self.settings, transaction_id, event_time_ms)

    async def look_up(self, ask: Callable[..., T], *arguments: Any) -> T:
        """Ask Cassandra in a thread.

        Raises:
            UnavailableError: it does not answer.
        """
        return await self._lookups.ask(ask, *arguments)

    async def alerts(self, query: AlertQuery) -> tuple[list[Alert], bool]:
        """The newest alerts of a query, and whether there are more."""
        return await self.look_up(self._list_alerts, query)

    def _list_alerts(self, query: AlertQuery) -> tuple[list[Alert], bool]:
        session = shared_session(self.settings)
        return list_alerts(session, self.settings, query, time.time_ns() // 1_000_000)

    async def dead_letters(self, query: DeadLetterQuery) -> RecentDeadLetters:
        """The newest dead letters of a query; one look at a time, each by a consumer of its own."""
        try:
            async with asyncio.timeout(_LETTERS_SECONDS), self._reading_letters:
                return await recent_dead_letters(self.settings, query)
        except TimeoutError:
            msg = f"Kafka did not answer within {_LETTERS_SECONDS:g} s; try again"
            raise UnavailableError(msg) from None

    async def timeline(self, kind: str, identifier: str) -> list[dict[str, Any]]:
        """The transactions of a card, or of a terminal's alerts, newest first."""
        now_ms = time.time_ns() // 1_000_000
        return await self.look_up(timeline, self.settings, kind, identifier, now_ms)

    def pushes(self, row: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
        """By feature: its baseline, and how far it moved the score; empty where the model is not loaded here."""
        model: Any = self._app.models.loaded(row["model_hash"])
        return {} if model is None else model.pushes(row["features"])

    async def quality(
        self, from_ms: int | None = None, to_ms: int | None = None
    ) -> Mapping[str, Any] | None:
        """How good decisions were, and `age_seconds`; None: not measured yet."""
        return await self._quality.get(from_ms, to_ms)

    def _measure(
        self, from_ms: int, to_ms: int | None, progress: Callable[[str, int], None]
    ) -> Mapping[str, Any]:
        session = shared_session(self.settings)
        return measure(session, self.settings, from_ms=from_ms, to_ms=to_ms, progress=progress)

    async def drift(self) -> dict[str, Any]:
        """The newest predictions of this worker against training, by model."""
        return await self._models.drift()

    async def models(self) -> dict[str, Any]:
        """What decides, challengers, changes, gates and lineage."""
        return await self._models.models()

    async def try_model(self, model_hash: str) -> dict[str, Any]:
        """Whether a registered model can be loaded here."""
        return await self._models.try_model(model_hash)

    def deciding(self) -> dict[str, dict[str, Any]]:
        """By partition that is here: `model`, `threshold` and `challengers` in force."""
        return self._models.deciding()

    def close(self) -> None:
        """Begin no more look-ups. The session stays: rows may still be on their way to Cassandra."""
        self._quality.close()
        self._models.close()
        self._precision.close()
        self._lookups.close()

    async def forward(
        self, url: str, method: str, headers: Mapping[str, str], body: bytes | None = None
    ) -> PeerAnswer:
        """Another worker's answer, as far as it is one: no more bytes than a page has."""
        score_timeout_ms = self.settings.score_timeout
        return await request_worker(
            self._app.http_client, url, method, headers, body, score_timeout_ms=score_timeout_ms
        )

    def _wanted_ends(self) -> set[TP]:
        """The partitions whose ends are asked for: always the same ones, since an answer serves all who ask."""
        app = self._app
        probe = TP(app.fraud_topics.transactions.name, 0)  # a spare worker asks Kafka too
        return {*source_partitions(app), *copied_partitions(app), probe}

    async def _ask_ends(self, *tps: TP) -> Mapping[TP, int]:
        ends: Mapping[TP, int] = await self._app.consumer.highwaters(*tps)
        return ends

    def _actives(self) -> set[TP]:
        actives: set[TP] = self._app.assignor.assigned_actives()
        return actives

    def _is_ready(self, table: BlockTable) -> bool:
        generation = self._app.consumer_generation_id
        return bool(generation) and table.ready_generation == generation

    def _bound_model(self) -> tuple[str, str] | None:
        """Of the first partition here: while a change is on its way, others may have another one."""
        pipeline = self._app.pipelines[self._app.fraud_topics.enriched.name]
        if not pipeline.partitions:
            return None
        in_force = self._app.in_force.get(min(pipeline.partitions))
        model = self._app.models.get(in_force.model) if in_force and in_force.model else None
        return None if model is None else (model.version, model.hash)

    def _stores(self) -> list[tuple[str, int, Any]]:
        actives = self._actives()
        return [
            (table.name, tp.partition, table.data.partition_path(tp.partition))
            for table in self._tables.values()
            for tp in sorted(actives)
            if tp.topic == table.changelog_topic.get_topic_name()
        ]
