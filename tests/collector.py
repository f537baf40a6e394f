"""An OpenTelemetry collector for tests: takes OTLP over HTTP, and keeps the spans."""

from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from tests.local_http_server import LocalHttpServer, QuietHandler


class Collector(LocalHttpServer):
    """A server for the length of a block.

    Attributes:
        url: for `FRAUDSTREAM_TRACE_ENDPOINT`.
        spans: what came: the worker's address, and the span as OTLP has it.
        raw: every byte that came.
    """

    def __init__(self) -> None:
        self.spans: list[tuple[str, Any]] = []
        self.raw = b""
        collector = self

        class Handler(QuietHandler):
            def do_POST(self) -> None:  # noqa: N802 -- a name of http.server
                body = self.rfile.read(int(self.headers["content-length"]))
                collector.take(body)
                answer = ExportTraceServiceResponse().SerializeToString()
                self.answer(200, answer, "application/x-protobuf")

        super().__init__(Handler)
        self.url = f"http://127.0.0.1:{self.port}/v1/traces"

    def take(self, body: bytes) -> None:
        """Keep what one request brought."""
        self.raw += body
        for of_resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            whose = attributes(of_resource.resource)["service.instance.id"]
            for scope in of_resource.scope_spans:
                self.spans += [(whose, span) for span in scope.spans]

    def of(self, trace_id: str) -> dict[str, Any]:
        """The spans of a trace, by their names."""
        return {span.name: span for _, span in self.spans if span.trace_id.hex() == trace_id}


def attributes(holder: Any) -> dict[str, Any]:
    """Those of a span or a resource."""
    return {
        one.key: one.value.int_value
        if one.value.WhichOneof("value") == "int_value"
        else one.value.string_value
        for one in holder.attributes
    }
