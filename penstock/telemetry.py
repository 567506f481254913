"""Traces: each record carries a W3C `traceparent`, so a command can be followed through every process that serves it.

Trace ids are created and passed on even where nothing is exported; that takes microseconds and imports no library.
OpenTelemetry is loaded by `set_up` alone, and only if ``PENSTOCK_TRACES`` asks for an exporter.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

from penstock.errors import PenstockError, SettingsError, did_you_mean

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span as ExportedSpan

__all__ = ["VARIABLE", "Span", "current_traceparent", "flush", "otlp_exporter", "set_up", "shut_down", "span"]

VARIABLE = "PENSTOCK_TRACES"

Attribute = str | bool | int | float | Sequence[str] | Sequence[bool] | Sequence[int] | Sequence[float]

# https://www.w3.org/TR/trace-context/#traceparent-header: version ff and ids of zeros are invalid, versions above 00
# may be longer, and upper case is refused.
_TRACEPARENT = re.compile(
    r"(?P<version>(?!ff)[0-9a-f]{2})-(?P<trace>(?!0{32})[0-9a-f]{32})-(?P<span>(?!0{16})[0-9a-f]{16})-"
    r"(?P<flags>[0-9a-f]{2})(?P<rest>-.*)?"
)
_SAMPLED = 1


class _Identity(NamedTuple):
    """Ids as hexadecimal text, flags as a number."""

    trace: str
    span: str
    flags: int

    @property
    def traceparent(self) -> str:
        return f"00-{self.trace}-{self.span}-{self.flags:02x}"


@dataclass(frozen=True, slots=True)
class Span:
    """One unit of work in a trace. The records that it writes carry its `traceparent`."""

    identity: _Identity
    exported: ExportedSpan | None = None

    @property
    def traceparent(self) -> str:
        """This span as a W3C `traceparent`."""
        return self.identity.traceparent

    @property
    def trace_id(self) -> str:
        """The trace's id, 32 hexadecimal digits."""
        return self.identity.trace

    def note(self, **attributes: Attribute | None) -> None:
        """Add attributes. None is left out; never pass a row's value or a secret."""
        if self.exported is not None:
            self.exported.set_attributes({name: value for name, value in attributes.items() if value is not None})


_current: ContextVar[Span | None] = ContextVar("penstock_span", default=None)
_provider: TracerProvider | None = None


def set_up(service: str, environ: Mapping[str, str] | None = None) -> None:
    """Export spans as ``PENSTOCK_TRACES`` says: ``none`` (the default), ``console`` (standard error) or ``otlp``.

    `service` names this process in the traces, such as ``penstock-worker``. A second call replaces the first.
    OpenTelemetry's own variables (``OTEL_EXPORTER_OTLP_ENDPOINT`` and others) say where OTLP is sent.

    Raises:
        SettingsError: an unknown exporter, or ``otlp`` without its package.
    """
    global _provider  # noqa: PLW0603 - one exporter for the whole process
    wanted = (os.environ if environ is None else environ).get(VARIABLE) or "none"
    if wanted not in _EXPORTERS:
        hint = did_you_mean(wanted, _EXPORTERS) or f"one of {', '.join(_EXPORTERS)}"
        raise SettingsError("no such exporter of traces", where=VARIABLE, value=wanted, hint=hint)
    exporter = _EXPORTERS[wanted]()
    shut_down()
    _provider = None if exporter is None else _provide(service, exporter, at_once=wanted == "console")


def shut_down() -> None:
    """Export the spans that are still queued, and stop. Without an exporter it does nothing."""
    global _provider
    provider, _provider = _provider, None
    if provider is not None:
        provider.shutdown()


def flush() -> None:
    """Hand over the spans that still wait. Without an exporter it does nothing."""
    if _provider is not None:
        _provider.force_flush()


def current_traceparent() -> str:
    """Return the `traceparent` of the current span; outside of a span, that of a new trace."""
    here = _current.get()
    return (here.identity if here is not None else _child(None)).traceparent


@contextmanager
def span(name: str, /, traceparent: str | None = None, **attributes: Attribute | None) -> Iterator[Span]:
    """Run the `with` block as one span.

    It continues the trace of `traceparent` (a record's), else of the current span, else it starts a trace. A malformed
    `traceparent` is ignored, as W3C requires. An exception marks the span as failed with its code or its class,
    never with its text, which may contain data, and is raised again.
    """
    parent = _parsed(traceparent) if traceparent else None
    if parent is None and (here := _current.get()) is not None:
        parent = here.identity
    if _provider is None:
        with _entered(Span(_child(parent))) as entered:
            yield entered
    else:
        with _exported(_provider, name, parent, attributes) as entered:
            yield entered


@contextmanager
def _entered(entered: Span) -> Iterator[Span]:
    token = _current.set(entered)
    try:
        yield entered
    finally:
        _current.reset(token)


@contextmanager
def _exported(
    provider: TracerProvider, name: str, parent: _Identity | None, attributes: Mapping[str, Attribute | None]
) -> Iterator[Span]:
    from opentelemetry import trace

    exported = provider.get_tracer("penstock").start_span(name, context=_context(parent))
    given = exported.get_span_context()
    identity = _Identity(f"{given.trace_id:032x}", f"{given.span_id:016x}", int(given.trace_flags))
    entered = Span(identity, exported)
    entered.note(**attributes)
    inside = trace.use_span(exported, end_on_exit=True, record_exception=False, set_status_on_exception=False)
    with inside, _entered(entered):
        try:
            yield entered
        except BaseException as error:
            what = error.code if isinstance(error, PenstockError) else type(error).__name__
            exported.set_status(trace.StatusCode.ERROR, what)
            raise


def _context(parent: _Identity | None) -> Any:
    """Return the parent as OpenTelemetry's context: an empty one starts a trace."""
    from opentelemetry import trace
    from opentelemetry.context import Context

    if parent is None:
        return Context()
    ids = trace.SpanContext(int(parent.trace, 16), int(parent.span, 16), True, trace.TraceFlags(parent.flags))  # noqa: FBT003 - is_remote
    return trace.set_span_in_context(trace.NonRecordingSpan(ids), Context())


def _provide(service: str, exporter: SpanExporter, *, at_once: bool) -> TracerProvider:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor

    provider = TracerProvider(resource=Resource.create({"service.name": service}))
    provider.add_span_processor(SimpleSpanProcessor(exporter) if at_once else BatchSpanProcessor(exporter))
    return provider


def _no_exporter() -> None:
    return None


def _console() -> SpanExporter:
    from opentelemetry.sdk.trace.export import ConsoleSpanExporter

    return ConsoleSpanExporter(out=sys.stderr)


def _otlp() -> SpanExporter:
    exporter: SpanExporter = otlp_exporter("trace_exporter", "OTLPSpanExporter", VARIABLE)
    return exporter


def otlp_exporter(module: str, name: str, variable: str) -> Any:
    """Create an exporter of OTLP's package, over HTTP or gRPC, whichever is installed; `variable` has asked for it.

    Raises:
        SettingsError: neither is installed.
    """
    for protocol in ("http", "grpc"):
        try:
            found = import_module(f"opentelemetry.exporter.otlp.proto.{protocol}.{module}")
        except ModuleNotFoundError:
            continue
        return getattr(found, name)()
    hint = "pip install opentelemetry-exporter-otlp-proto-http"
    raise SettingsError("the exporter's package is not installed", where=variable, value="otlp", hint=hint)


_EXPORTERS: Mapping[str, Callable[[], SpanExporter | None]] = {
    "none": _no_exporter,
    "console": _console,
    "otlp": _otlp,
}


def _child(parent: _Identity | None) -> _Identity:
    """Return a new span below `parent`, or a new trace, marked as sampled so that a process that exports shows it."""
    if parent is not None:
        return _Identity(parent.trace, os.urandom(8).hex(), parent.flags)
    return _Identity(os.urandom(16).hex(), os.urandom(8).hex(), _SAMPLED)


def _parsed(traceparent: str) -> _Identity | None:
    found = _TRACEPARENT.fullmatch(traceparent)
    if found is None or (found["version"] == "00" and found["rest"]):
        return None
    return _Identity(found["trace"], found["span"], int(found["flags"], 16) & _SAMPLED)
