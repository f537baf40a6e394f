"""Which transactions are traced, by which ids, and that nothing else changes."""

import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from app.blocks.core.interfaces import Work
from app.blocks.core.partition import Computed
from app.errors import SettingsError
from app.metrics.trace_spans import Spans, spans_of
from app.settings import load_settings
from app.stages.tracing import TRACES, traced_cards, traced_scoring, traced_sink
from app.topics import Topics
from app.wire.enriched_records import EnrichedItem, encode_item, enriched_message
from tests.fakes import Rows

TOPICS = Topics(load_settings())
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-"


class Handler:
    """A stage with outputs that a test has given it."""

    counts = "its own"

    def __init__(self, outputs: Any, taken: int | None = None) -> None:
        self.outputs, self.taken = outputs, taken

    def compute(self, *_: Any) -> Computed:
        return Computed(self.outputs, taken=self.taken)


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Spans that were sent, once the end of them was asked for."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import SpanExportResult

    found: list[Any] = []

    def export(_: Any, spans: Any) -> SpanExportResult:
        found.extend(spans)
        return SpanExportResult.SUCCESS

    monkeypatch.setattr(OTLPSpanExporter, "export", export)
    return found


@pytest.fixture
def spans(sent: list[Any]) -> Iterator[Spans]:
    """Traces only what producers trace."""
    made = make()
    yield made
    made.close()


def make(share: float = 0.0) -> Spans:
    made = spans_of(load_settings({"trace_endpoint": "http://127.0.0.1:1/", "trace_share": share}))
    assert made is not None
    return made


def record(offset: int, *headers: tuple[str, bytes], value: bytes = b"") -> Any:
    return SimpleNamespace(
        offset=offset, timestamp=1_000 + offset, headers=headers, value=value, key=b"c"
    )


def item(offset: int) -> bytes:
    return encode_item(EnrichedItem(offset, 1, f"tx-{offset}", "c", "t", 1, 1, b"{}", [], []))


def enriched(*offsets: int) -> dict[Any, Any]:
    """Outputs of the first stage."""
    value = enriched_message("transactions", 2, [item(offset) for offset in offsets])
    return {(TOPICS.enriched.name, 0): [(None, value, [])]}


def prediction(offset: int) -> bytes:
    return orjson.dumps(
        {
            "source_offset_of_theirs": 1, "transaction_id": f"tx-{offset}", "model_version": "m@1",
            "action": "review", "source_offset": offset, "received_at": 1,
        }
    )  # fmt: skip


def test_without_it_stages_are_as_they_are() -> None:
    handler = Handler({})
    assert spans_of(load_settings()) is None
    assert traced_cards(None, TOPICS, handler) is traced_scoring(None, TOPICS, handler) is handler
    assert traced_sink(None, TOPICS, handler) == (handler, None)


def test_stages_keep_what_they_have(spans: Spans) -> None:
    assert traced_cards(spans, TOPICS, Handler({})).counts == "its own"
    assert not hasattr(traced_cards(spans, TOPICS, Handler({})), "prepare")


@pytest.mark.parametrize(
    ("header", "is_sampled"),
    [("01", True), ("00", False), ("03", True), ("zz", False), ("", False)],
    ids=["sampled", "not sampled", "sampled, random", "no flags", "cut off"],
)
def test_a_producer_decides(spans: Spans, header: str, is_sampled: bool) -> None:
    found = spans.sampled("t", 0, 1, 5, [("traceparent", (PARENT + header).encode())])
    assert (found is not None) is is_sampled
    if found is not None:
        assert (f"{found.trace_id:x}", f"{found.span_id:x}") == (
            "af7651916cd43dd8448eb211c80319c",
            "b7ad6b7169203331",
        )


def test_without_a_producers_the_share_decides_and_a_replay_decides_the_same(
    sent: list[Any],
) -> None:
    made, again, other = make(0.1), make(0.1), make(0.5)
    first = {n for n in range(2_000) if made.sampled("t", 0, n, 5, ()) is not None}
    assert 120 < len(first) < 280
    assert first == {n for n in range(2_000) if again.sampled("t", 0, n, 5, ()) is not None}
    assert first <= {n for n in range(2_000) if other.sampled("t", 0, n, 5, ()) is not None}
    for one in (made, again, other):
        one.close()


def test_blocks_that_are_computed_together_have_their_spans(spans: Spans, sent: list[Any]) -> None:
    outputs = {(TOPICS.predictions.name, 2): [(b"c", prediction(5), [])]}

    class Joining(Handler):
        def compute_many(self, works: Any) -> list[Computed]:
            return [Computed(outputs), Computed({})]

    header = ("traceparent", f"{PARENT}01".encode())
    cards = traced_cards(spans, TOPICS, Handler(enriched(5)))
    assert not hasattr(cards, "compute_many")
    computed = cards.compute(2, [record(5, header)], None)
    ((_, value, headers),) = computed.outputs[TOPICS.enriched.name, 0]
    works = [Work(0, [record(70, *headers, value=value)], Rows()), Work(1, [record(3)], Rows())]
    assert len(traced_scoring(spans, TOPICS, Joining({})).compute_many(works)) == 2
    assert outputs[TOPICS.predictions.name, 2][0][2]


def test_a_trace_leads_from_the_producer_to_the_row(spans: Spans, sent: list[Any]) -> None:
    header = ("traceparent", f"{PARENT}01".encode())
    state = ("tracestate", b"vendor=value")
    sources = [record(4), record(5, header, state), record(6, header)]
    handler = traced_cards(spans, TOPICS, Handler(enriched(4, 5)))
    computed = handler.compute(2, sources, None)
    ((_, value, headers),) = computed.outputs[TOPICS.enriched.name, 0]
    assert [name for name, _ in headers] == [TRACES]
    again = traced_cards(spans, TOPICS, Handler(enriched(4, 5))).compute(2, sources, None)
    assert again.outputs == computed.outputs  # computed once more after a crash: the same bytes

    outputs = {
        (TOPICS.predictions.name, 2): [(b"c", prediction(n), []) for n in (4, 5)],
        (TOPICS.predictions.name, 1): [(b"c", prediction(5), [])],  # another partition's offset 5
    }
    traced_scoring(spans, TOPICS, Handler(outputs)).compute(
        0, [record(70, *headers, value=value)], None
    )
    assert [bool(headers) for _, _, headers in outputs[TOPICS.predictions.name, 2]] == [False, True]
    assert not outputs[TOPICS.predictions.name, 1][0][2]
    (_, _, named) = outputs[TOPICS.predictions.name, 2][1]
    assert dict(named)["tracestate"] == b"vendor=value"

    last, stored = traced_sink(spans, TOPICS, Handler(rows := object()))
    assert stored is not None
    taken = [record(80), record(81, *named)]
    assert last.compute(2, taken, None).outputs is rows
    spans._provider.force_flush()
    assert "sink" not in {span.name for span in sent}  # not stored yet
    stored(2, taken)
    stored(2, taken)  # told of once
    spans._provider.force_flush()

    trace = {
        span.name: span
        for span in sent
        if span.attributes.get("fraudstream.outcome") != "not enriched"
    }
    assert {span.context.trace_id for span in sent} == {0x0AF7651916CD43DD8448EB211C80319C}
    assert trace["cards"].parent.span_id == 0xB7AD6B7169203331
    assert trace["scoring"].parent.span_id == trace["cards"].context.span_id
    assert trace["sink"].parent.span_id == trace["scoring"].context.span_id
    keys = (
        "messaging.destination.name",
        "messaging.destination.partition.id",
        "messaging.kafka.offset",
    )
    assert {name: tuple(span.attributes[key] for key in keys) for name, span in trace.items()} == {
        "cards": (TOPICS.transactions.name, "2", 5),
        "scoring": (TOPICS.enriched.name, "0", 70),
        "sink": (TOPICS.predictions.name, "2", 81),
    }
    assert (trace["scoring"].attributes["fraudstream.model"], trace["scoring"].attributes["fraudstream.action"]) == (
        "m@1", "review",
    )  # fmt: skip
    # the one that was not enriched, twice, under one id
    others = [
        span.context.span_id for span in sent if span.attributes.get("messaging.kafka.offset") == 6
    ]
    assert len(others) == 2
    assert len(set(others)) == 1


def test_records_that_were_not_taken_have_no_span(spans: Spans, sent: list[Any]) -> None:
    header = ("traceparent", f"{PARENT}01".encode())
    handler = Handler(enriched(4), taken=1)
    traced_cards(spans, TOPICS, handler).compute(2, [record(4, header), record(5, header)], None)
    spans._provider.force_flush()
    assert [span.attributes["messaging.kafka.offset"] for span in sent] == [4]


def test_a_fault_of_tracing_changes_nothing(spans: Spans, caplog: pytest.LogCaptureFixture) -> None:
    computed = traced_scoring(spans, TOPICS, Handler({})).compute(
        0, [record(1, (TRACES, b"{"))], None
    )
    assert computed == Computed({})
    assert "a trace was lost" in caplog.messages


@pytest.mark.parametrize(
    ("endpoint", "says"),
    [
        ("collector:4318", "write an address such as http://"),
        ("https://user:secret@collector/v1/traces", "OTEL_EXPORTER_OTLP_HEADERS"),
    ],
    ids=["no address", "password"],
)
def test_addresses_that_are_refused(endpoint: str, says: str) -> None:
    with pytest.raises(SettingsError, match=says) as caught:
        load_settings({"trace_endpoint": endpoint})
    assert "secret" not in str(caught.value)


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(SettingsError, match=r"pip install 'fraudstream\[tracing\]'"):
        make()
