"""Spans of the stages: cards, scoring, sink, for the records that are sampled (app/metrics/trace_spans.py).

Each function wraps a stage's handler where tracing is on, and returns it as it is where tracing is off. What happens
between two spans of a trace is the way through Kafka: fetches, acknowledgements, waiting.

The context of a trace travels in headers: `traceparent` on `transactions` and `predictions`. A message on `enriched`
holds many transactions, so its header `traces` lists those that are sampled. Headers change no result, and a worker
that does not know them ignores them.
"""

import logging
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import orjson

from app.blocks.core.interfaces import Work
from app.blocks.core.partition import Computed
from app.blocks.faust.output_sender import Outputs
from app.domain.transaction import hash_id
from app.metrics.trace_spans import TRACEPARENT, Spans, as_record_headers
from app.topics import Topics
from app.wire.control_records import decode_message
from app.wire.enriched_records import EnrichedBatch
from app.wire.input_records import SourceRecord

if TYPE_CHECKING:
    from opentelemetry.trace import SpanContext

logger = logging.getLogger("fraudstream")

#: Header of a message on `enriched`: JSON, [[partition and offset on `transactions`, W3C headers], ...].
TRACES = "traces"
#: Records that the sink has begun with; more than can be in flight.
_MOST_BEGUN = 20_000
_OFFSET = b'"source_offset":'


def traced_cards(spans: Spans | None, topics: Topics, handler: Any) -> Any:
    """The first stage: each sampled source record has a span that continues its producer's."""
    return handler if spans is None else _Cards(spans, topics, handler)


def traced_scoring(spans: Spans | None, topics: Topics, handler: Any) -> Any:
    """The second stage."""
    return handler if spans is None else _Scoring(spans, topics, handler)


def traced_sink(
    spans: Spans | None, topics: Topics, handler: Any
) -> tuple[Any, Callable[[int, Sequence[Any]], None] | None]:
    """The last stage, and what its pipeline tells when rows are stored: there its spans end."""
    if spans is None:
        return handler, None
    sink = _Sink(spans, topics, handler)
    return sink, sink.stored


class _Stage:
    """A handler whose sampled records have spans. A fault of tracing is logged, and changes nothing."""

    def __init__(self, spans: Spans, topics: Topics, handler: Any) -> None:
        self._spans, self._topics, self._handler = spans, topics, handler
        if hasattr(handler, "compute_many"):
            self.compute_many = self._compute_many

    def __getattr__(self, name: str) -> Any:
        return getattr(self._handler, name)

    def compute(self, partition: int, records: Sequence[SourceRecord], *others: Any) -> Computed:
        """See `app.blocks.core.partition.Handler`."""
        begun_ns = time.time_ns()
        computed: Computed = self._handler.compute(partition, records, *others)
        self._traced(partition, records, computed, begun_ns)
        return computed

    def _compute_many(self, works: Sequence[Work]) -> list[Computed]:
        begun_ns = time.time_ns()
        many: list[Computed] = self._handler.compute_many(works)
        for work, computed in zip(works, many, strict=True):
            self._traced(work.partition, work.records, computed, begun_ns)
        return many

    def _traced(
        self,
        partition: int,
        records: Sequence[SourceRecord],
        computed: Computed,
        begun_ns: int,
    ) -> None:
        taken = records if computed.taken is None else records[: computed.taken]
        try:
            self._trace(partition, taken, computed, begun_ns)
        except Exception:
            logger.exception("a trace was lost")

    def _trace(
        self,
        partition: int,
        records: Sequence[SourceRecord],
        computed: Computed,
        begun_ns: int,
    ) -> None:
        raise NotImplementedError


class _Cards(_Stage):
    def _trace(
        self,
        partition: int,
        records: Sequence[SourceRecord],
        computed: Computed,
        begun_ns: int,
    ) -> None:
        topic = self._topics.transactions.name
        sampled = {}
        for record in records:
            parent = self._spans.sampled(
                topic, partition, record.offset, record.timestamp, record.headers
            )
            if parent is not None:
                sampled[record.offset] = parent
        if not sampled:
            return
        ended_ns = time.time_ns()
        outputs: Outputs = computed.outputs or {}
        for destination, messages in outputs.items():
            if destination[0] != self._topics.enriched.name:
                continue
            for number, (key, value, headers) in enumerate(messages):
                batch = decode_message(value or b"")
                if not isinstance(batch, EnrichedBatch):
                    continue
                traces = []
                for item in batch.items:
                    parent = sampled.pop(item.offset, None)
                    if parent is None:
                        continue
                    span = self._spans.span(
                        "cards", parent, (topic, partition, item.offset), begun_ns, ended_ns,
                        transaction_hash=hash_id(item.transaction_id).hex(), outcome="enriched",
                    )  # fmt: skip
                    traces.append([partition, item.offset, self._spans.headers(span)])
                if traces:
                    messages[number] = (key, value, [*headers, (TRACES, orjson.dumps(traces))])
        for offset, parent in sampled.items():  # dead, moved, repeated, a refund, or done before
            position = topic, partition, offset
            self._spans.span("cards", parent, position, begun_ns, ended_ns, outcome="not enriched")


class _Scoring(_Stage):
    def _trace(
        self,
        partition: int,
        records: Sequence[SourceRecord],
        computed: Computed,
        begun_ns: int,
    ) -> None:
        sampled: dict[tuple[int, int], tuple[SpanContext, int]] = {}
        for record in records:
            for name, value in record.headers:
                if name == TRACES:
                    for source, offset, carried in orjson.loads(value):
                        parent = self._spans.parent(carried.items())
                        if parent is not None:
                            sampled[source, offset] = parent, record.offset
        if not sampled:
            return
        ended_ns = time.time_ns()
        topic, predictions = self._topics.enriched.name, self._topics.predictions.name
        for (name, source), messages in (computed.outputs or {}).items():
            if name != predictions:
                continue
            for number, (key, value, headers) in enumerate(messages):
                found = sampled.get((source, _source_offset(value)))
                if found is None:
                    continue
                parent, offset = found
                fields = orjson.loads(value)
                span = self._spans.span(
                    "scoring", parent, (topic, partition, offset), begun_ns, ended_ns,
                    transaction_hash=hash_id(fields["transaction_id"]).hex(),
                    model=fields["model_version"], action=fields["action"],
                )  # fmt: skip
                named = as_record_headers(self._spans.headers(span))
                messages[number] = (key, value, [*headers, *named])


class _Sink(_Stage):
    def __init__(self, spans: Spans, topics: Topics, handler: Any) -> None:
        super().__init__(spans, topics, handler)
        #: By partition and offset, what a span continues, and when it began.
        self._begun: dict[tuple[int, int], tuple[SpanContext, int]] = {}

    def _trace(
        self,
        partition: int,
        records: Sequence[SourceRecord],
        computed: Computed,
        begun_ns: int,
    ) -> None:
        for record in records:
            if record.headers and any(name == TRACEPARENT for name, _ in record.headers):
                parent = self._spans.parent(record.headers)
                if parent is not None and parent.trace_flags.sampled:
                    if len(self._begun) >= _MOST_BEGUN:  # of partitions that were taken away
                        self._begun.clear()
                    self._begun[partition, record.offset] = parent, begun_ns

    def stored(self, partition: int, records: Sequence[Any]) -> None:
        """Rows are stored, and their records acknowledged."""
        if not self._begun:
            return
        ended_ns, topic = time.time_ns(), self._topics.predictions.name
        for record in records:
            found = self._begun.pop((partition, record.offset), None)
            if found is not None:
                parent, begun_ns = found
                self._spans.span(
                    "sink", parent, (topic, partition, record.offset), begun_ns, ended_ns
                )


def _source_offset(value: bytes) -> int:
    """The offset on `transactions` that a prediction names: its last field of that name is ours."""
    begin = value.rfind(_OFFSET) + len(_OFFSET)
    return int(value[begin : value.index(b",", begin)])
