"""Spans of chunks: bounded in number, in the run's trace for a batch, in traces of their own for a stream."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from dataflows.connectors.tracing import Tracing
from dataflows.data.chunks import Chunk
from dataflows.pipeline import BatchPipelineEngine
from penstock import telemetry
from penstock.telemetry import span


@dataclass
class Rows:
    """Reads splits of chunks without rows."""

    splits: int
    chunks_each: int

    def chunks(self) -> Iterator[Chunk]:
        for split in range(self.splits):
            for number in range(self.chunks_each):
                yield Chunk("00", split, number, None, 0)
            yield Chunk("00", split, self.chunks_each, None, 0, last=True)

    def close(self) -> None:
        """Nothing is open."""


@dataclass
class Written:
    """Keeps what it is given; fails at a chunk, if it is told to."""

    fails_at: int | None = None
    chunks: list[Chunk] = field(default_factory=list)

    def done(self) -> None:
        """Nothing is opened, and nothing has to end."""

    open = idle = close = done

    def write(self, chunk: Chunk) -> None:
        if len(self.chunks) == self.fails_at:
            raise ValueError("secret")
        self.chunks.append(chunk)


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(telemetry, "_provider", provider)
    return exporter


def flow(rows: Rows, *, endless: bool, written: Written | None = None) -> tuple[str, Tracing]:
    """Let all chunks pass; return the trace of the run."""
    with span("flow") as parent:
        tracing = Tracing.begin(endless=endless)
        assert tracing
        step, writer = tracing.step(0, lambda chunk: chunk), tracing.writer(written or Written())
        for chunk in tracing.reader(rows).chunks():
            writer.write(step(chunk))
        return parent.trace_id, tracing


def trace_of(one: ReadableSpan) -> str:
    return f"{one.context.trace_id:032x}"


def test_spans_of_a_long_run_are_few_and_in_its_trace(exported: InMemorySpanExporter) -> None:
    trace, tracing = flow(Rows(200, 10), endless=False)
    spans = exported.get_finished_spans()
    assert {trace_of(one) for one in spans} == {trace}
    counts = {name: sum(one.name == name for one in spans) for name in ("read", "transform 0", "write", "commit")}
    chunks, commits = 16 + 7, 16 + 4  # of 2000 and 200: the first 16, and the powers of two from 16 on
    assert counts == {"read": chunks + commits, "transform 0": chunks + commits, "write": chunks, "commit": commits}
    assert tracing.parents == {}


def test_a_split_of_a_stream_has_a_trace_that_names_the_run_and_not_every_split_has_one(
    exported: InMemorySpanExporter,
) -> None:
    trace, tracing = flow(Rows(50, 3), endless=True)
    spans = [one for one in exported.get_finished_spans() if one.name != "flow"]
    (split,) = (one for one in spans if one.name == "split")
    assert {trace_of(one) for one in spans} == {trace_of(split)} != {trace}
    assert [f"{link.context.trace_id:032x}" for link in split.links] == [trace]
    assert [one.name for one in spans].count("write") == 3
    assert [one.name for one in spans].count("commit") == 1
    assert (tracing.parents, tracing.splits) == ({}, {})


def test_the_span_of_a_chunk_that_fails_names_the_error_and_no_value(exported: InMemorySpanExporter) -> None:
    with pytest.raises(ValueError, match="secret"):
        flow(Rows(1, 3), endless=False, written=Written(fails_at=1))
    spans = [one for one in exported.get_finished_spans() if one.name == "write"]
    assert [(one.attributes or {}).get("error") for one in spans] == [None, "ValueError"]
    assert "secret" not in str([one.to_json() for one in spans])


def test_without_an_exporter_chunks_pass_as_they_are() -> None:
    readers, steps, writers = {"00": Rows(1, 1)}, (lambda chunk: chunk,), {"00": Written()}
    engine = BatchPipelineEngine(readers, writers, steps)
    engine.run()
    assert (engine.readers, engine.steps, engine.writers) == (readers, steps, writers)
    assert len(writers["00"].chunks) == 2
