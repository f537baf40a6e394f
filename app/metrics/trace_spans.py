"""Spans of sampled transactions, sent to an OpenTelemetry collector; the SDK is loaded only where tracing is on.

Nothing waits for the collector: spans wait in a bounded queue of the SDK's own thread, and are dropped when it is full
or the collector does not answer.

Ids are made of positions in the log, not drawn: a record that is computed once more after a crash has the same trace
and the same spans, and its outputs have the same headers to the byte.
"""

import atexit
import logging
import os
import threading
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from app.encrypted_credentials import Sending, others_can_read
from app.errors import SettingsError
from app.repeated_warnings import RepeatedWarning
from app.settings import Settings

if TYPE_CHECKING:
    from opentelemetry.trace import SpanContext

logger = logging.getLogger("fraudstream")

#: Headers of a Kafka record, as W3C names them (https://www.w3.org/TR/trace-context/).
TRACEPARENT, TRACESTATE = "traceparent", "tracestate"
#: Characters of a `tracestate` that are passed on: as many as everybody must; a longer one is left out.
_STATE_CHARACTERS = 512
#: An attempt to send spans.
_EXPORT_SECONDS = 2
#: What the end of a worker waits for spans to be sent.
_FLUSH_SECONDS = 2.0


class Spans:
    """Makes and sends spans. Belongs to one thread.

    Args:
        settings: the deployment; `trace_endpoint` is set.

    Raises:
        SettingsError: the SDK is not installed, or others could read the headers that it sends.
    """

    def __init__(self, settings: Settings) -> None:
        try:
            from opentelemetry import trace
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk import trace as sdk
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult
            from opentelemetry.sdk.trace.id_generator import IdGenerator
            from opentelemetry.sdk.trace.sampling import ALWAYS_ON, TraceIdRatioBased
            from opentelemetry.trace.propagation import tracecontext
        except ImportError as error:
            msg = (
                "FRAUDSTREAM_TRACE_ENDPOINT needs the extra tracing: pip install 'fraudstream[tracing]' "
                f"({error.name} is missing)"
            )
            raise SettingsError(msg) from error

        endpoint = urlsplit(settings.trace_endpoint or "")
        secret = any(
            os.environ.get(f"OTEL_EXPORTER_OTLP_{name}HEADERS") for name in ("", "TRACES_")
        )
        host, allowed = endpoint.hostname or "", settings.allow_unencrypted_credentials
        if secret and endpoint.scheme == "http" and others_can_read(host, allowed=allowed):
            who, what = "FRAUDSTREAM_TRACE_ENDPOINT", "OTEL_EXPORTER_OTLP_HEADERS"
            raise SettingsError(str(Sending(who, what, host, "use https")))

        class Ids(IdGenerator):
            """Gives what `span` has decided."""

            trace_id = span_id = 0

            def generate_trace_id(self) -> int:
                return self.trace_id

            def generate_span_id(self) -> int:
                return self.span_id

        class Exporter(OTLPSpanExporter):
            """Says in one line of ours, now and then, that the collector takes nothing."""

            reminder = RepeatedWarning()

            def export(self, spans: Any) -> SpanExportResult:
                result = super().export(spans)
                if result is not SpanExportResult.SUCCESS and self.reminder.due():
                    logger.warning(
                        "FRAUDSTREAM_TRACE_ENDPOINT does not accept spans: they are dropped; scoring continues"
                    )
                return result

        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # a line for each attempt
        self._trace, self._ids = trace, Ids()
        self._format = tracecontext.TraceContextTextMapPropagator()
        self._deployment = settings.deployment
        self._bound = TraceIdRatioBased.get_bound_for_rate(settings.trace_share)
        self._mask = TraceIdRatioBased.TRACE_ID_LIMIT
        here = f"{settings.advertised_host or settings.web_host}:{settings.web_port}"
        self._provider = sdk.TracerProvider(
            sampler=ALWAYS_ON,  # whoever calls `span` has sampled
            resource=Resource.create(
                {"service.name": settings.deployment, "service.instance.id": here}
            ),
            id_generator=self._ids,
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(
            BatchSpanProcessor(
                Exporter(endpoint=settings.trace_endpoint, timeout=_EXPORT_SECONDS),
                schedule_delay_millis=1_000,
            )
        )
        self._tracer = self._provider.get_tracer("fraudstream")
        atexit.register(self.close)

    def sampled(
        self, topic: str, partition: int, offset: int, time_ms: int, headers: Iterable[Any]
    ) -> "SpanContext | None":
        """What the first span of a source record continues; None: the record is not traced.

        A `traceparent` header decides by its sampled flag. Without one, the share of traces decides, by a trace id
        that is made of the record's position and the broker's time.
        """
        for name, _ in headers:
            if name == TRACEPARENT:
                parent = self.parent(headers)
                if parent is not None:
                    return parent if parent.trace_flags.sampled else None
                break
        if not self._bound:
            return None
        named = f"{self._deployment}/{topic}/{partition}/{offset}/{time_ms}".encode()
        trace_id = int.from_bytes(blake2b(named, digest_size=16).digest(), "big")
        if trace_id & self._mask >= self._bound:
            return None
        sampled = self._trace.TraceFlags(self._trace.TraceFlags.SAMPLED)
        return self._trace.SpanContext(trace_id, 0, is_remote=False, trace_flags=sampled)

    def parent(self, headers: Iterable[tuple[str, Any]]) -> "SpanContext | None":
        """The span that W3C headers name; None without valid ones."""
        carrier = {
            name: (value or b"").decode("latin-1") if isinstance(value, bytes | None) else value
            for name, value in headers
            if name in (TRACEPARENT, TRACESTATE)
        }
        context = self._format.extract(carrier)
        found = self._trace.get_current_span(context).get_span_context()
        return found if found.is_valid else None

    def headers(self, span: "SpanContext") -> dict[str, str]:
        """W3C headers that name a span."""
        carrier: dict[str, str] = {}
        self._format.inject(carrier, self._trace.set_span_in_context(self._known(span)))
        if len(carrier.get(TRACESTATE, "")) > _STATE_CHARACTERS:
            del carrier[TRACESTATE]
        return carrier

    def span(
        self,
        name: str,
        parent: "SpanContext",
        position: tuple[str, int, int],
        begun_ns: int,
        ended_ns: int,
        **attributes: str | int,
    ) -> "SpanContext":
        """Make a span that has ended; returns what the next stage's continues.

        Args:
            name: the stage.
            parent: from `sampled` or an earlier stage.
            position: topic, partition and offset of the record that the stage read.
            begun_ns: when the stage began, epoch nanoseconds.
            ended_ns: when it had ended.
            attributes: more of them, under `fraudstream.`.
        """
        topic, partition, offset = position
        named = f"{name}/{topic}/{partition}/{offset}/{parent.trace_id:x}/{parent.span_id:x}"
        self._ids.trace_id = parent.trace_id
        self._ids.span_id = int.from_bytes(blake2b(named.encode(), digest_size=8).digest(), "big")
        span = self._tracer.start_span(
            name,
            self._trace.set_span_in_context(self._known(parent)),
            self._trace.SpanKind.CONSUMER,
            {
                "messaging.system": "kafka",
                "messaging.operation.type": "process",
                "messaging.destination.name": topic,
                "messaging.destination.partition.id": str(partition),
                "messaging.kafka.offset": offset,
                **{f"fraudstream.{key}": value for key, value in attributes.items()},
            },
            start_time=begun_ns,
        )
        span.end(ended_ns)
        return span.get_span_context()

    def close(self) -> None:
        """Send what waits, for no longer than seconds: a collector may not answer."""
        atexit.unregister(self.close)
        closing = threading.Thread(target=self._provider.shutdown, daemon=True)
        closing.start()
        closing.join(_FLUSH_SECONDS)

    def _known(self, span: "SpanContext") -> Any:
        return self._trace.NonRecordingSpan(span)


def spans_of(settings: Settings) -> Spans | None:
    """What sends spans; None where tracing is off.

    Raises:
        SettingsError: the extra is not installed.
    """
    return Spans(settings) if settings.trace_endpoint else None


def as_record_headers(carried: Mapping[str, str]) -> list[tuple[str, bytes]]:
    """Headers for a Kafka record."""
    return [(name, value.encode("ascii", "replace")) for name, value in carried.items()]
