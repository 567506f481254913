"""Traces: each record carries a W3C `traceparent`, so a command can be followed through every process that serves it.

Trace ids are created and passed on even where nothing is exported; that takes microseconds and imports no library.
OpenTelemetry is loaded by `set_up` alone, and only if ``PENSTOCK_TRACES`` or ``OTEL_TRACES_EXPORTER`` asks for it.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import threading
import time
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

__all__ = [
    "STANDARD", "VARIABLE", "Span", "add_trace_ids", "current_traceparent", "exporting", "flush", "open_span",
    "otlp_exporter", "record", "set_up", "shut_down", "span",
]  # fmt: skip

VARIABLE = "PENSTOCK_TRACES"
STANDARD = "OTEL_TRACES_EXPORTER"
"""OpenTelemetry's own variable for the same; the other comes first."""
FLUSH_SECONDS, SHUT_DOWN_SECONDS = 1.0, 5.0
"""Longest waits for a receiver, after a task and at the end of a process: one that does not answer holds up no work."""

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

    def link(self, traceparent: str | None) -> None:
        """Name a span of another trace that this one goes back to; a malformed `traceparent` is ignored."""
        other = _parsed(traceparent or "")
        if self.exported is not None and other is not None:
            self.exported.add_link(_foreign(other))

    def close(self) -> None:
        """End a span that `open_span` has begun."""
        if self.exported is not None:
            self.exported.end()

    def note(self, **attributes: Attribute | None) -> None:
        """Add attributes. None is left out; never pass a row's value or a secret."""
        if self.exported is not None:
            self.exported.set_attributes({name: value for name, value in attributes.items() if value is not None})


_current: ContextVar[Span | None] = ContextVar("penstock_span", default=None)
_everywhere: Span | None = None
"""The span that holds in threads which have none."""
_provider: TracerProvider | None = None
_flushing: threading.Thread | None = None


def set_up(service: str, environ: Mapping[str, str] | None = None) -> None:
    """Export spans as the variables say: ``none`` (the default), ``console`` (standard error) or ``otlp``.

    `service` names this process in the traces, such as ``penstock-worker``. A second call replaces the first.
    OpenTelemetry's own variables (``OTEL_EXPORTER_OTLP_ENDPOINT``, ``OTEL_TRACES_SAMPLER`` and others) hold, too.

    Raises:
        SettingsError: an unknown exporter, or ``otlp`` without its package.
    """
    global _provider  # noqa: PLW0603 - one exporter for the whole process
    given = os.environ if environ is None else environ
    where = VARIABLE if given.get(VARIABLE) else STANDARD
    off = given.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    wanted = "none" if off else given.get(where, "").strip() or "none"
    if wanted not in _EXPORTERS:
        hint = did_you_mean(wanted, _EXPORTERS) or f"one of {', '.join(_EXPORTERS)}"
        raise SettingsError("no such exporter of traces", where=where, value=wanted, hint=hint)
    exporter = _EXPORTERS[wanted](where, given)
    shut_down()
    _provider = None if exporter is None else _provide(service, exporter, at_once=wanted == "console")


def shut_down() -> None:
    """Export the spans that are still queued, and stop. Without an exporter it does nothing."""
    global _provider
    provider, _provider = _provider, None
    if provider is not None:
        _started(provider.shutdown).join(SHUT_DOWN_SECONDS)


def flush() -> None:
    """Hand over the spans that still wait. Without an exporter it does nothing."""
    global _flushing  # noqa: PLW0603 - one exporter for the whole process
    if _provider is not None and (_flushing is None or not _flushing.is_alive()):
        _flushing = _started(_provider.force_flush)
        _flushing.join(FLUSH_SECONDS)


def _started(do: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=do, name="traces", daemon=True)
    thread.start()
    return thread


def exporting() -> bool:
    """True if spans are exported: what only they need is not worth its time otherwise."""
    return _provider is not None


def current_traceparent() -> str:
    """Return the `traceparent` of the current span; outside of a span, that of a new trace."""
    here = _here()
    return (here.identity if here is not None else _child(None)).traceparent


def _here() -> Span | None:
    return _current.get() or _everywhere


def add_trace_ids(handler: logging.Handler, layout: str = "%(message)s") -> None:
    """Let each line of a handler end with the id of the trace that it belongs to, if there is any.

    That is the `traceparent` that the line was logged with (by ``extra``), else the current span's.
    """

    def look_up(line: logging.LogRecord) -> bool:
        known = _parsed(getattr(line, "traceparent", None) or "")
        here = _here()
        found = known.trace if known is not None else here.trace_id if here is not None else None
        line.trace = f" (trace {found})" if found else ""
        return True

    handler.addFilter(look_up)
    handler.setFormatter(logging.Formatter(f"{layout}%(trace)s"))


def open_span(
    name: str, traceparent: str | None, /, *, at: int | None = None, **attributes: Attribute | None
) -> Span | None:
    """Begin a span that any thread may close, below `traceparent`, or in a trace of its own; None without an exporter.

    `at` is its begin in nanoseconds since the epoch; now, if it is not given.
    """
    if _provider is None:
        return None
    parent = _parsed(traceparent) if traceparent else None
    exported = _provider.get_tracer("penstock").start_span(name, context=_context(parent), start_time=at)
    opened = Span(_identity(exported), exported)
    opened.note(**attributes)
    return opened


def record(name: str, traceparent: str | None, /, at: int, **attributes: Attribute | None) -> None:
    """Export a span from `at`, in nanoseconds since the epoch, until now; nothing without an exporter."""
    if (opened := open_span(name, traceparent, at=min(at, time.time_ns()), **attributes)) is not None:
        opened.close()


@contextmanager
def span(
    name: str, /, traceparent: str | None = None, *, everywhere: bool = False, **attributes: Attribute | None
) -> Iterator[Span]:
    """Run the `with` block as one span.

    It continues the trace of `traceparent` (a record's), else of the current span, else it starts a trace. A malformed
    `traceparent` is ignored, as W3C requires. An exception marks the span as failed with its code or its class,
    never with its text, which may contain data, and is raised again. `everywhere`: in all threads that have no span.
    """
    global _everywhere  # noqa: PLW0603 - as `everywhere` says
    parent = _parsed(traceparent) if traceparent else None
    if parent is None and (here := _here()) is not None:
        parent = here.identity
    made = _entered(Span(_child(parent))) if _provider is None else _exported(_provider, name, parent, attributes)
    with made as entered:
        if not everywhere:
            yield entered
            return
        before, _everywhere = _everywhere, entered
        try:
            yield entered
        finally:
            _everywhere = before


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
    entered = Span(_identity(exported), exported)
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
    return trace.set_span_in_context(trace.NonRecordingSpan(_foreign(parent)), Context())


def _foreign(other: _Identity) -> Any:
    """Return a span of another process as OpenTelemetry's."""
    from opentelemetry import trace

    return trace.SpanContext(int(other.trace, 16), int(other.span, 16), True, trace.TraceFlags(other.flags))  # noqa: FBT003 - is_remote


def _identity(exported: ExportedSpan) -> _Identity:
    given = exported.get_span_context()
    return _Identity(f"{given.trace_id:032x}", f"{given.span_id:016x}", int(given.trace_flags))


def _provide(service: str, exporter: SpanExporter, *, at_once: bool) -> TracerProvider:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor

    named = Resource.create({"penstock.process": service})
    if str(named.attributes.get("service.name", "")).startswith("unknown_service"):  # no variable names it
        named = named.merge(Resource({"service.name": service}))
    provider = TracerProvider(resource=named, shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter) if at_once else BatchSpanProcessor(exporter))
    return provider


def _no_exporter(_where: str, _environ: Mapping[str, str]) -> None:
    return None


def _console(_where: str, _environ: Mapping[str, str]) -> SpanExporter:
    from opentelemetry.sdk.trace.export import ConsoleSpanExporter

    return ConsoleSpanExporter(out=sys.stderr)


def _otlp(where: str, environ: Mapping[str, str]) -> SpanExporter:
    exporter: SpanExporter = otlp_exporter("trace_exporter", "OTLPSpanExporter", where, environ)
    return exporter


def otlp_exporter(module: str, name: str, variable: str, environ: Mapping[str, str] = os.environ) -> Any:
    """Create an exporter of OTLP's package, by the protocol that is set, else by HTTP or gRPC, whichever is installed.

    `variable` has asked for it.

    Raises:
        SettingsError: its package is not installed.
    """
    signal = "TRACES" if module.startswith("trace") else "METRICS"
    names = (f"OTEL_EXPORTER_OTLP_{signal}_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
    asked = next((environ[one].partition("/")[0] for one in names if environ.get(one)), None)
    for protocol in (asked,) if asked else ("http", "grpc"):
        try:
            found = import_module(f"opentelemetry.exporter.otlp.proto.{protocol}.{module}")
        except ModuleNotFoundError:
            continue
        return getattr(found, name)()
    hint = f"pip install opentelemetry-exporter-otlp-proto-{asked or 'http'}"
    raise SettingsError("the exporter's package is not installed", where=variable, value="otlp", hint=hint)


_EXPORTERS: Mapping[str, Callable[[str, Mapping[str, str]], SpanExporter | None]] = {
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
