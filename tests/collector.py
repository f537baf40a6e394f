"""An OpenTelemetry collector for tests: takes OTLP over HTTP, and keeps the spans."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)


class Collector:
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

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                collector.take(body)
                answer = ExportTraceServiceResponse().SerializeToString()
                self.send_response(200)
                self.send_header("content-type", "application/x-protobuf")
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1/traces"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

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
