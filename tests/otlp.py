"""A receiver of OTLP over HTTP on the loopback interface: it keeps all spans and metrics that it is sent."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass(frozen=True)
class Span:
    """A span as it arrived; ids are hexadecimal."""

    name: str
    trace: str
    id: str
    parent: str
    begin: int
    end: int
    service: str
    attributes: dict[str, Any]
    links: tuple[str, ...]
    """The traces that it names."""


@dataclass
class Receiver:
    """What has arrived, and where it listens."""

    endpoint: str = ""
    spans: list[Span] = field(default_factory=list)
    metrics: list[Any] = field(default_factory=list)
    """As they arrived."""
    headers: list[dict[str, str]] = field(default_factory=list)

    def named(self, name: str) -> list[Span]:
        return [one for one in self.spans if one.name == name]

    def measured(self, body: bytes) -> None:
        for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
            self.metrics += [one for scope in resource.scope_metrics for one in scope.metrics]

    def traced(self, body: bytes) -> None:
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            of = {one.key: one.value.string_value for one in resource.resource.attributes}
            for scope in resource.scope_spans:
                self.spans += [_span(one, of["service.name"]) for one in scope.spans]


def _span(sent: Any, service: str) -> Span:
    return Span(
        name=sent.name,
        trace=sent.trace_id.hex(),
        id=sent.span_id.hex(),
        parent=sent.parent_span_id.hex(),
        begin=sent.start_time_unix_nano,
        end=sent.end_time_unix_nano,
        service=service,
        attributes={one.key: getattr(one.value, one.value.WhichOneof("value")) for one in sent.attributes},
        links=tuple(one.trace_id.hex() for one in sent.links),
    )


@contextmanager
def receiver() -> Iterator[Receiver]:
    """Listen until the end of the context."""
    found = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            found.headers.append(dict(self.headers))
            take = {"/v1/traces": found.traced, "/v1/metrics": found.measured}.get(self.path)
            is_known = take is not None and self.headers["Content-Type"] == "application/x-protobuf"
            if take is not None and is_known:
                take(gzip.decompress(body) if self.headers["Content-Encoding"] == "gzip" else body)
            self.send_response(200 if is_known else 404)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        found.endpoint = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, name="otlp", daemon=True).start()
        yield found
        server.shutdown()
