"""A deployment in memory: the stream's own handlers make the topics, and rows as Cassandra gives them."""

import asyncio
import struct
from collections.abc import AsyncIterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import Any

import orjson
from aiokafka.partitioner import murmur2

from app.cassandra.alert_rows import ALERTS, AlertPacker, AlertRow
from app.cassandra.prediction_rows import RowPacker, tables_of
from app.cassandra.refund_rows import REFUNDS, RefundPacker, RefundRow
from app.domain.changes import AnyChange
from app.ops.verification.stored_predictions import COLUMNS, Row
from app.ops.verification.totals import Report
from app.ops.verify import compare
from app.settings import Settings
from app.stages.card_stage import CardsHandler
from app.stages.change_forwarding import ControlHandler
from app.stages.deployed_features import catalogue_of
from app.stages.label_stage import LabelsHandler
from app.stages.reserved_rows import PINS_KEY, ModelOffsets
from app.stages.scoring_stage import ScoringHandler
from app.topics import Topics, TopicSpec
from app.wire.control_records import encode_change
from app.wire.erase_records import erase_record
from app.wire.own_features_file import own_of
from models.artifact_folders import artifact_folders
from models.model_loader import ModelHolder
from tests.builders import T0
from tests.fakes import Rows

_TEXTS = {"card_id", "month", "transaction_id", "terminal_id", "currency", "model_version",
          "model_hash", "feature_schema", "source_topic", "extra", "action", "day", "alert_id",
          "severity"}  # fmt: skip
_BYTES = {
    "amount", "features", "flags", "reasons", "rules", "causes", "shadow_scores", "shadow_flagged",
}  # fmt: skip
_STRUCTS = {"score": ">d", "threshold": ">d", "anomaly_score": ">d", "is_fraud": ">?"}


@dataclass(frozen=True)
class Record:
    """A record of a topic, as aiokafka gives it."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]] = ()
    partition: int = 0


#: A model and features that take no labels, and that any settings go with.
BASIC: dict[str, Any] = {"features": "basic", "model": "default@1"}


class VerifyWorld:
    """Topics, state and rows of one deployment.

    Attributes:
        logs: records by topic, partition by partition.
        begins: first offset that is kept, by topic and partition (0 where not named).
        done: offset that is committed, by topic and partition (the end where not named).
        rows: rows in Cassandra, once `run` has been called.
        states: rows of tables, by source topic and partition.
        earlier: what the state says of earlier numbers of partitions.
    """

    def __init__(self, **settings: Any) -> None:
        # its records are of 2023: with a time to live its rows would have expired
        values = {
            "partitions": 2, "max_entries_per_key": 16, "prediction_ttl": "forever", **BASIC
        } | settings  # fmt: skip
        self.settings = Settings(_env_file=None, **values)  # type: ignore[call-arg]
        self.topics = Topics(self.settings)
        self.logs: dict[str, list[list[Record]]] = {
            topic.name: [[] for _ in range(self.settings.partitions)] for topic in self.topics.all
        }
        self.begins: dict[tuple[str, int], int] = {}
        self.done: dict[tuple[str, int], int] = {}
        self.rows: list[Row] = []
        self.label_rows: list[tuple[str, int, int]] = []
        self.refund_rows: list[RefundRow] = []
        self.alert_rows: list[AlertRow] = []
        self.clock_ms = T0
        self.earlier: bytes | None = None
        self.build()
        self.states: dict[tuple[str, int], Rows] = {}
        self._position: dict[tuple[str, int], int] = {}

    @property
    def champion_hash(self) -> str:
        """Hash of the model that a new deployment starts with."""
        return str(self._champion.hash)

    def build(self) -> None:
        """Make the handlers, from the settings."""
        settings_ = self.settings
        catalogue = catalogue_of(settings_)
        models = ModelHolder(artifact_folders(settings_), catalogue, settings_.minor_unit_digits)
        self._champion = models.named(settings_.model)
        self._labels = LabelsHandler(
            self.topics, partition_of=self.home, max_future_skew_ms=settings_.max_future_skew
        )
        self._handlers = {
            self.topics.transactions.name: CardsHandler.of(
                settings_, self.topics, catalogue, self.home
            ),
            self.topics.enriched.name: ScoringHandler.of(
                settings_,
                self.topics,
                catalogue,
                model=models.by_hash,
                clock_ms=lambda: self.clock_ms,
            ),
        }

    def restart(self, **settings: Any) -> None:
        """Start anew with other settings."""
        self.settings = self.settings.model_copy(update=settings)
        self.build()

    def home(self, key: bytes) -> int:
        number: int = (murmur2(key) & 0x7FFFFFFF) % self.settings.partitions
        return number

    def send(
        self,
        value: bytes | None,
        key: bytes | None,
        *,
        partition: int | None = None,
        headers: Sequence[tuple[str, bytes]] = (),
    ) -> tuple[int, int]:
        """Append a source record; returns partition and offset."""
        number = self.home(key or b"") if partition is None else partition
        return number, self._append(self.topics.transactions.name, number, key, value, headers)

    def label(
        self, fields: dict[str, Any], headers: Sequence[tuple[str, bytes]] = ()
    ) -> tuple[int, int]:
        """A label on `labels`, done at once: forwarded and in Cassandra, or parked; its partition and offset."""
        key = str(fields["transaction_id"]).encode()
        return self._labelled(self.home(key), key, orjson.dumps(fields), headers)

    def erase_labels(self, card_id: str) -> None:
        """Erase records of a card on every partition of `labels`."""
        key, value, headers = erase_record(card_id, "e1")
        for partition in range(self.settings.partitions):
            self._labelled(partition, key, value, headers)

    def _labelled(
        self,
        partition: int,
        key: bytes,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes]],
    ) -> tuple[int, int]:
        topic = self.topics.labels.name
        self._append(topic, partition, key, value, headers)
        record = self.logs[topic][partition][-1]
        state = self.states.setdefault((topic, partition), Rows())
        computed = self._labels.compute(partition, [record], state)  # type: ignore[list-item]
        for (to, number), outputs in computed.outputs.outputs.items():
            for key_, value, headers_ in outputs:
                self._append(to, number, key_, value, headers_)
        for group in computed.groups:
            for key_, raw in group:
                self._append(self.topics.labels_changelog.name, partition, key_, raw, ())
        state.write_groups(computed.groups)
        self.label_rows += [(topic, partition, label.offset) for label in computed.outputs.labels]
        return partition, record.offset

    def control(self, change: AnyChange) -> None:
        """A change, forwarded at once."""
        topic = self.topics.control.name
        self._append(topic, 0, b"k", encode_change(change), ())
        computed = ControlHandler(self.topics).compute(0, self.logs[topic][0][-1:], Rows())
        for (to, number), outputs in computed.outputs.items():
            for key, value, headers in outputs:
                self._append(to, number, key, value, headers)

    def append_rows(self, changelog: str, partition: int, rows: Any) -> None:
        """Rows of a table on its changelog."""
        for key, raw in rows:
            self._append(changelog, partition, key, raw, ())

    def erase(self, card_id: str) -> None:
        """An erase record of a card, in its partition of `transactions`."""
        key, value, headers = erase_record(card_id, "e1")
        self.send(value, key, headers=headers)

    def run(self, block: int = 7, *, sink: bool = True, scoring: bool = True) -> None:
        """Let both stages (or the first) and, if it runs, the sink do all there is, in blocks of so many records."""
        moved = True
        while moved:  # a moved record goes back into the first stage
            before = self._size(self.topics.transactions)
            for number in range(self.settings.partitions):
                self._stage(self.topics.transactions, number, block)
            moved = self._size(self.topics.transactions) > before
        for number in range(self.settings.partitions if scoring else 0):
            self._stage(self.topics.enriched, number, block)
        if sink:
            self.rows = rows_of(self.settings, self.log(self.topics.predictions))
            self.refund_rows = refunds_of(self.settings, self.log(self.topics.refunds))
            self.alert_rows = alerts_of(self.settings, self.log(self.topics.alerts))

    def replay(self, topic: TopicSpec, partition: int, offset: int = 0) -> None:
        """As after a crash in which no row became durable: state is lost, outputs are not."""
        self._position[topic.name, partition] = offset
        self.states.pop((topic.name, partition), None)

    def log(self, topic: TopicSpec) -> list[Record]:
        """All records of a topic."""
        return [record for records in self.logs[topic.name] for record in records]

    def change(self, topic: TopicSpec, number: int, **changes: Any) -> None:
        """Replace fields of the n-th record of a topic."""
        for records in self.logs[topic.name]:
            if number < len(records):
                records[number] = replace(records[number], **changes)
                return
            number -= len(records)

    def verify(self, examples: int = 100, **options: Any) -> Report:
        """What `fraudstream verify` says of all that."""
        return asyncio.run(
            compare(
                self.settings,
                MemoryLog(self),  # type: ignore[arg-type]
                lambda: ((*row[:-1], *row.own) for row in self.rows),
                lambda: iter(self.label_rows),
                lambda: iter(self.refund_rows),
                lambda: iter(self.alert_rows),
                timeout_seconds=0,
                examples=examples,
                progress=lambda *_: None,
                **options,
            )
        )

    def _size(self, topic: TopicSpec) -> int:
        return len(self.log(topic))

    def _append(
        self, topic: str, partition: int, key: Any, value: Any, headers: Sequence[Any]
    ) -> int:
        records = self.logs[topic][partition]
        records.append(Record(len(records), self.clock_ms, key, value, tuple(headers), partition))
        return len(records) - 1

    def _stage(self, topic: TopicSpec, partition: int, block: int) -> None:
        where = topic.name, partition
        state = self.states.get(where)
        if state is None:
            state = self.states[where] = Rows()
            key, raw = ModelOffsets([(0, self._champion.hash)]).encode()
            assert key == PINS_KEY
            assert raw is not None
            state.rows[key] = raw
        records = self.logs[topic.name][partition]
        for start in range(self._position.get(where, 0), len(records), block):
            self.clock_ms += 1
            chunk = records[start : start + block]
            computed = self._handlers[topic.name].compute(partition, chunk, state)
            for (to, number), outputs in computed.outputs.items():
                for key_, value, headers in outputs:
                    self._append(to, number, key_, value, headers)
            state.write_groups(computed.groups)
            self._position[where] = start + len(chunk)


class MemoryLog:
    """`app.ops.verification.topic_log.Log` over a world."""

    def __init__(self, world: VerifyWorld) -> None:
        self._world = world
        self.topics = world.topics

    async def begins(self, topic: TopicSpec) -> list[int]:
        return [self._world.begins.get((topic.name, n), 0) for n in range(topic.partitions)]

    async def exists(self, topic: TopicSpec) -> bool:
        return topic.name in self._world.logs

    async def ends(self, topic: TopicSpec) -> list[int]:
        return [len(records) for records in self._world.logs[topic.name]]

    async def done(self, topic: TopicSpec) -> list[int]:
        ends = await self.ends(topic)
        return [self._world.done.get((topic.name, n), end) for n, end in enumerate(ends)]

    async def read(
        self, topic: TopicSpec, partition: int, begin: int, end: int
    ) -> AsyncIterator[list[Record]]:
        for start in range(begin, end, 13):
            yield self._world.logs[topic.name][partition][start : min(end, start + 13)]

    async def first_kept(self, topic: TopicSpec) -> list[int]:
        kept = []
        for number, begin in enumerate(await self.begins(topic)):
            left = self._world.logs[topic.name][number][begin:]
            kept.append(-1 if not begin else left[0].timestamp if left else self._world.clock_ms)
        return kept


def rows_of(settings: Settings, predictions: Sequence[Record]) -> list[Row]:
    """Rows after the sink has written predictions in this order: later ones replace earlier ones."""
    packer = RowPacker.of(settings)
    rows = {}
    for record in predictions:
        row = unpacked(packer.pack(record.value or b"")[0], settings)
        conflicts = b"conflicting" in (row.flags or b"")
        place = (row.source_partition, row.source_offset) if conflicts else ()
        rows[row.card_id, row.event_time, row.transaction_id, place] = row
    return list(rows.values())


def refunds_of(settings: Settings, refunds: Sequence[Record]) -> list[RefundRow]:
    """The same of refunds."""
    packer = RefundPacker(settings.currency, settings.minor_unit_digits)
    return _rows_of(packer, refunds, REFUNDS.columns, RefundRow, 4)


def alerts_of(settings: Settings, alerts: Sequence[Record]) -> list[AlertRow]:
    """The same of alerts."""
    packer = AlertPacker(settings.minor_unit_digits, settings.deployment)
    return _rows_of(packer, alerts, ALERTS.columns, AlertRow, 8)


def _rows_of(packer: Any, records: Sequence[Record], columns: Any, kind: Any, key: int) -> Any:
    """The last row of each key, its first `key` fields."""
    rows = {}
    for packed in packer.pack_many(record.value or b"" for record in records):
        cells = cells_of(packed, columns)
        row = kind(**{name: cells[name] for name in kind._fields})
        rows[row[:key]] = row
    return list(rows.values())


def unpacked(packed: bytes, settings: Settings | None = None) -> Row:
    """A packed row as a raw scan gives it."""
    settings = settings or Settings(_env_file=None)  # type: ignore[call-arg]
    own = own_of(settings).fields
    columns = tables_of(settings).predictions.columns
    cells = cells_of(packed, columns, raw={each.name for each in own})
    values = tuple(_OWN[each.kind](cells[each.name]) for each in own)
    return Row(*(cells[name] for name in COLUMNS), own=values)


_OWN: dict[str, Any] = {
    "text": bytes.decode,
    "integer": lambda raw: int.from_bytes(raw, "big", signed=True),
    "boolean": lambda raw: raw == b"\1",
    "number": lambda raw: struct.unpack(">d", raw)[0],
}


def cells_of(
    packed: bytes, columns: Sequence[str], raw: AbstractSet[str] = frozenset()
) -> dict[str, Any]:
    """The values of a packed row by column; those in `raw` as bytes."""
    cells: dict[str, Any] = {}
    at = 0
    for name in columns:
        size = int.from_bytes(packed[at : at + 4], "big", signed=True)
        cell = packed[at + 4 : at + 4 + max(0, size)]
        at += 4 + max(0, size)
        if size < 0:
            cells[name] = None
        elif name in _TEXTS:
            cells[name] = cell.decode()
        elif name in _BYTES or name in raw:
            cells[name] = cell
        elif name in _STRUCTS:
            (cells[name],) = struct.unpack(_STRUCTS[name], cell)
        else:
            cells[name] = int.from_bytes(cell, "big", signed=True)
    assert at == len(packed)
    return cells
