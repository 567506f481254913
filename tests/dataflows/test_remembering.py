"""Steps that remember rows: windows, sessions and deduplication equal plain Python, whatever the cuts and restarts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_UP, Context, Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.cli.gauges import shown
from dataflows.connectors.isolation import RowRefused
from dataflows.data.chunks import Chunk
from dataflows.data.movement import Movement
from dataflows.data.splits import Split
from dataflows.data.tables import Column, Table
from dataflows.runs.dead_letters import LetterBox, LetterWriter
from dataflows.runs.gauges import Gauges
from dataflows.runs.job import refuse_what_is_missing
from dataflows.transforms import kept
from dataflows.transforms.mapping import Rules, bind, output_columns
from dataflows.transforms.stateful import MADE, KeptReader, StatefulChain
from penstock.clock import now
from penstock.errors import PenstockError, Refused, SchemaMismatch
from penstock.models.pipeline import PipelineSpec
from penstock.models.transforms import TransformStep
from penstock.records.execution import StreamProgress

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
EPOCH = int(BEGIN.timestamp())
EXAMPLES = 15
COLUMNS = (
    Column("key", "text"),
    Column("at", "timestamp with time zone"),
    Column("value", "bigint"),
    Column("price", "numeric(12,2)"),
    Column("big", "numeric(38,0)"),
    Column("size", "double precision"),
    Column("_topic", "text", hidden=True),
    Column("_partition", "integer", hidden=True),
)
SOURCE = Table("events", "topic", COLUMNS)
SCHEMA = pa.schema(
    [
        ("key", pa.string()), ("at", pa.timestamp("us", "UTC")), ("value", pa.int64()), ("price", pa.decimal128(12, 2)),
        ("big", pa.decimal128(38, 0)), ("size", pa.float64()), ("_topic", pa.string()), ("_partition", pa.int32()),
    ]
)  # fmt: skip
AGGREGATES = {
    "rows": "count", "values": "count(value)", "total": "sum(value)", "paid": "sum(price)", "mean": "avg(price)",
    "least": "min(value)", "most": "max(price)", "last": "max(at)",
}  # fmt: skip


def second(at: float) -> datetime:
    return BEGIN + timedelta(seconds=at)


@dataclass(frozen=True)
class Event:
    """One row: its second, partition, key, and value."""

    at: int | None
    part: int = 0
    key: str | None = "a"
    value: int | None = 1

    def row(self) -> dict[str, Any]:
        price = None if self.value is None else Decimal(self.value) / 100
        return {
            "key": self.key, "at": None if self.at is None else second(self.at), "value": self.value, "price": price,
            "_topic": "t", "_partition": self.part,
        }  # fmt: skip


def batch_of(rows: Sequence[dict[str, Any]]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist([dict.fromkeys(SCHEMA.names) | row for row in rows], schema=SCHEMA)


def bound(*steps: dict[str, Any], source: Table = SOURCE) -> StatefulChain:
    rules = Rules(None, tuple(TransformStep.parse(one) for one in steps))
    target = Table("target", "r", output_columns(rules, source, "items"))
    chain = bind(rules, source, target, "items", undecoded=False).chain
    assert isinstance(chain, StatefulChain)
    return chain


@dataclass
class Run:
    """A stream into a list: each split is one commit, and `restart` goes on from what was committed."""

    make: Callable[[], StatefulChain]
    parts: int = 1
    rows: list[dict[str, Any]] = field(default_factory=list)
    letters: list[dict[str, Any]] = field(default_factory=list)
    pieces: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    split: int = 0
    counted: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self.chain = self.make()
        self.chain.load(self.pieces)
        self.chain.start([f"t/{part}" for part in range(self.parts)], dict)

    def take(self, *chunks: Sequence[dict[str, Any]]) -> None:
        """Take the chunks of one split, and commit it."""
        self.split += 1
        rows: list[dict[str, Any]] = []
        letters: list[dict[str, Any]] = []
        for number, events in enumerate(chunks):
            chunk = Chunk("00", self.split, number, batch_of(events), len(events), read=len(events))
            done = self.chain(chunk)
            assert isinstance(done.data, pa.RecordBatch)
            rows += done.data.to_pylist()
            letters += [] if done.refused is None else done.refused.to_pylist()
            self.counted += Counter(read=done.read, rows=done.rows, dead=done.dead)
            assert done.read - done.dead - done.rows >= 0
        marker = self.chain.end(Chunk("00", self.split, len(chunks), None, 0, last=True))
        assert [one for chunk in self.chain.kept[self.split] for one in rows_of(chunk)] == rows
        self.chain.committed(self.split)
        for change in marker.state:
            known = self.pieces.setdefault(change.step, [])
            self.pieces[change.step] = [] if change.whole else known
            self.pieces[change.step] += [(self.split, piece) for piece in change.pieces]
        self.rows += rows
        self.letters += letters


def rows_of(chunk: Chunk) -> list[dict[str, Any]]:
    return chunk.data.to_pylist() if isinstance(chunk.data, pa.RecordBatch) else []


# -- the reference: row by row, over all rows of a window --


@dataclass
class Reference:
    """Windows in plain Python. A window is (key, begin), with its events."""

    lateness: int
    parts: int
    watermark: int | None = None
    newest: dict[int, int] = field(default_factory=dict)
    open: dict[tuple[str | None, int], list[Event]] = field(default_factory=dict)
    out: list[tuple[str | None, int, int, list[Event]]] = field(default_factory=list)
    late: list[Event] = field(default_factory=list)

    def advance(self, events: Sequence[Event]) -> None:
        for one in events:
            if one.at is not None:
                self.newest[one.part] = max(one.at, self.newest.get(one.part, one.at))
        if len(self.newest) == self.parts:
            at = min(self.newest.values()) - self.lateness
            self.watermark = at if self.watermark is None else max(at, self.watermark)

    def is_over(self, end: int) -> bool:
        return self.watermark is not None and end <= self.watermark


@dataclass
class Overlapping(Reference):
    """Windows of `size` that begin at each multiple of `every`."""

    every: int = 1
    size: int = 1

    def take(self, events: Sequence[Event]) -> None:
        for one in events:
            if one.at is None:
                self.late.append(one)
                continue
            begins = [begin for begin in range(one.at - self.size + 1, one.at + 1) if (EPOCH + begin) % self.every == 0]
            if self.is_over(min(begins) + self.size):
                self.late.append(one)
                continue
            for begin in begins:
                self.open.setdefault((one.key, begin), []).append(one)
        self.advance(events)
        for key, begin in [each for each in self.open if self.is_over(each[1] + self.size)]:
            self.out.append((key, begin, begin + self.size, self.open.pop((key, begin))))


@dataclass
class InSessions(Reference):
    """Sessions of rows less than `gap` apart."""

    gap: int = 1

    def take(self, events: Sequence[Event]) -> None:
        for one in events:
            if one.at is None or self.is_over(one.at + self.gap):
                self.late.append(one)
                continue
            joined, at = [one], one.at
            near = [
                each
                for each, those in self.open.items()
                if each[0] == one.key and any(abs(other.at - at) < self.gap for other in those)  # type: ignore[operator]
            ]
            for each in near:
                joined += self.open.pop(each)
            self.open[one.key, min(other.at for other in joined)] = joined  # type: ignore[type-var, index]
        self.advance(events)
        for key, begin in list(self.open):
            end = max(other.at for other in self.open[key, begin]) + self.gap  # type: ignore[type-var, operator]
            if self.is_over(end):
                self.out.append((key, begin, end, self.open.pop((key, begin))))


def made(key: str | None, begin: int, end: int, events: Sequence[Event]) -> dict[str, Any]:
    """Return the row of a window."""
    values = [one.value for one in events if one.value is not None]
    total = Decimal(sum(values))
    mean = None
    if values:
        mean = (total / 100 / len(values)).quantize(Decimal("1e-12"), ROUND_HALF_UP, Context(prec=60))
    return {
        "key": key, "window_start": second(begin), "window_end": second(end), "rows": len(events),
        "values": len(values), "total": total if values else None, "paid": total / 100 if values else None,
        "mean": mean, "least": min(values, default=None),
        "most": Decimal(max(values)) / 100 if values else None, "last": second(max(one.at or 0 for one in events)),
    }  # fmt: skip


def in_order(rows: Sequence[dict[str, Any]]) -> list[str]:
    return sorted(repr(sorted((name, exact(value)) for name, value in row.items())) for row in rows)


def exact(value: Any) -> Any:
    """Return a value as it compares: numbers by their value, times by their moment."""
    if isinstance(value, datetime):
        return value.timestamp()
    return value.normalize() if isinstance(value, Decimal) else value


EVENTS = st.builds(
    Event,
    at=st.integers(0, 60) | st.none() | st.integers(0, 20),
    part=st.integers(0, 1),
    key=st.sampled_from(["a", "b", None]),
    value=st.none() | st.integers(-(10**9), 10**9),
)
SPLITS = st.lists(st.tuples(st.lists(st.lists(EVENTS, max_size=8), min_size=1, max_size=2), st.booleans()), max_size=6)
"""For each split its chunks, and whether the stream is restarted after it."""


def run_both(step: dict[str, Any], reference: Any, splits: Any, *, whole: bool) -> Run:
    run = Run(lambda: written(bound({"name": "w", "window": step}), whole=whole), parts=2)
    for chunks, restarts in splits:
        run.take(*([one.row() for one in chunk] for chunk in chunks))
        for chunk in chunks:
            reference.take(chunk)
        if restarts:
            run.restart()
    assert in_order(run.rows) == in_order([made(*one) for one in reference.out])
    assert len(run.letters) == len(reference.late)
    counts = run.chain.counts()["w"]["counts"]
    taken = sum(len(chunk) for chunks, _ in splits for chunk in chunks) - len(reference.late)
    assert counts.get("rows", 0) == taken
    assert counts.get("windows", 0) == len(reference.out)
    assert sum(counts.get(code, 0) for code in ("late", "no_time")) == len(reference.late)
    return run


def written(chain: StatefulChain, *, whole: bool) -> StatefulChain:
    """Let the state be written as a whole each time, if `whole`."""
    if whole:
        for step in chain.steps:
            step.memory.journal.changed = 1 << 40
    return chain


@given(SPLITS, st.integers(0, 30), st.sampled_from([(10, 10), (5, 15), (7, 7), (4, 20)]), st.booleans())
@settings(max_examples=EXAMPLES, deadline=None)
def test_property_windows_equal_plain_python_for_any_cuts_and_restarts(
    splits: Any, lateness: int, sizes: tuple[int, int], whole: bool
) -> None:
    every, size = sizes
    step = {"time": "at", "every": f"{every}s", "size": f"{size}s", "by": ["key"], "aggregates": AGGREGATES}
    reference = Overlapping(lateness, 2, every=every, size=size)
    run_both(step | {"lateness": f"{lateness}s"}, reference, splits, whole=whole)


@given(SPLITS, st.integers(0, 30), st.integers(1, 12), st.booleans())
@settings(max_examples=EXAMPLES, deadline=None)
def test_property_sessions_equal_plain_python_for_any_cuts_and_restarts(
    splits: Any, lateness: int, gap: int, whole: bool
) -> None:
    step = {"time": "at", "gap": f"{gap}s", "by": ["key"], "aggregates": AGGREGATES, "lateness": f"{lateness}s"}
    run_both(step, InSessions(lateness, 2, gap=gap), splits, whole=whole)


@given(SPLITS, st.integers(0, 30), st.integers(1, 20), st.booleans())
@settings(max_examples=EXAMPLES, deadline=None)
def test_property_deduplication_equals_plain_python_for_any_cuts_and_restarts(
    splits: Any, lateness: int, within: int, whole: bool
) -> None:
    rule = {"by": ["key"], "within": f"{within}s", "time": "at", "lateness": f"{lateness}s"}
    run = Run(lambda: written(bound({"name": "once", "deduplicate": rule}), whole=whole), parts=2)
    reference = Reference(lateness, 2)
    passed: list[Event] = []
    twice = late = 0
    for chunks, restarts in splits:
        run.take(*([one.row() for one in chunk] for chunk in chunks))
        for chunk in chunks:
            for one in chunk:
                if one.at is None or (reference.watermark is not None and one.at < reference.watermark):
                    late += 1
                elif any(each.key == one.key and abs((each.at or 0) - one.at) < within for each in passed):
                    twice += 1
                else:
                    passed.append(one)
            reference.advance(chunk)
        if restarts:
            run.restart()
    assert [(row["key"], row["at"], row["value"]) for row in run.rows] == [
        (one.key, second(one.at or 0), one.value) for one in passed
    ]
    assert (len(run.letters), run.chain.counts()["once"]["counts"].get("deduplicated", 0)) == (late, twice)


# -- one by one --

MINUTE = {"time": "at", "every": "1m", "by": ["key"], "aggregates": {"rows": "count"}}


def window(**changes: Any) -> dict[str, Any]:
    return {"name": "w", "window": MINUTE | changes}


def test_sums_and_averages_are_exact_beyond_64_bits() -> None:
    aggregates = {
        "v": "sum(value)",
        "b": "sum(big)",
        "a": "avg(big)",
        "p": "avg(price)",
        "s": "sum(size)",
        "m": "max(big)",
    }
    run = Run(lambda: bound(window(aggregates=aggregates)))
    big, less = Decimal("1" + "0" * 35 + "07"), Decimal("1" + "0" * 35 + "04")
    rows = [
        {
            "key": "a",
            "at": second(1),
            "value": 2**63 - 1,
            "big": big,
            "price": Decimal("0.01"),
            "size": 0.5,
            "_topic": "t",
            "_partition": 0,
        },
        {
            "key": "a",
            "at": second(2),
            "value": 2**63 - 1,
            "big": -3,
            "price": Decimal("0.02"),
            "size": 0.25,
            "_topic": "t",
            "_partition": 0,
        },
    ]
    run.take(rows, [Event(100).row()])
    (found,) = run.rows
    assert (found["v"], found["b"], found["m"], found["s"]) == (Decimal(2**64 - 2), less, big, 0.75)
    assert (found["a"], found["p"]) == (Decimal("5" + "0" * 35 + "2"), Decimal("0.015"))


def test_a_sum_of_more_than_38_digits_is_a_dead_letter_and_the_others_go_on() -> None:
    run = Run(lambda: bound(window(aggregates={"b": "sum(big)"})))
    most = Decimal("9" * 38)
    rows = [
        {"key": key, "at": second(at), "big": most, "_topic": "t", "_partition": 0}
        for key, at in (("a", 1), ("a", 2), ("b", 3))
    ]
    run.take(rows)
    run.take([Event(100).row()])
    assert [(row["key"], row["b"]) for row in run.rows] == [("b", most)]
    assert [(one["step"], one["code"], one["row"]) for one in run.letters] == [("w", "overflow", MADE)]
    assert json.loads(run.letters[0]["values"])["key"] == "a"


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"time": "key"}, "a time is needed"),
        ({"time": "att"}, "no such column"),
        ({"by": ["size"]}, "cannot be a key"),
        ({"aggregates": {"x": "sum(key)"}}, "there is no `sum` of text"),
        ({"aggregates": {"x": "sum(nothing)"}}, "no such column"),
        ({"aggregates": {"x": "median(value)"}}, "is no aggregate"),
        ({"aggregates": {"key": "count"}}, "two columns would be named `key`"),
        ({"aggregates": {"window_end": "count"}}, "two columns would be named"),
        ({"gap": "1m"}, "exactly one of `every` and `gap`"),
        ({"size": "90s"}, "must be a multiple of `every`"),
        ({"every": "0s"}, "greater than"),
    ],
)
def test_a_window_that_cannot_be_is_refused_with_its_place(changes: dict[str, Any], what: str) -> None:
    with pytest.raises(PenstockError) as caught:
        bound(window(**changes))
    assert what in str(caught.value)


def test_what_comes_after_a_window_cannot_remember_rows() -> None:
    with pytest.raises(Refused, match="after a window"):
        bound(window(), {"name": "again", "window": MINUTE | {"time": "window_end", "aggregates": {"n": "count"}}})


@pytest.mark.parametrize(
    ("rule", "what"),
    [
        ({"within": "1h"}, "`within` and `time` go together"),
        ({"within": "1h", "time": "at", "keep": "last"}, "keeps the first row"),
        ({"lateness": "1h"}, "goes with `within`"),
    ],
)
def test_a_deduplication_that_cannot_be_is_refused(rule: dict[str, Any], what: str) -> None:
    with pytest.raises(PenstockError, match=what):
        bound({"name": "once", "deduplicate": {"by": ["key"], **rule}})


@pytest.mark.parametrize(
    ("changes", "first"),
    [({"every": "10s"}, 20), ({"every": "5s", "size": "10s"}, 20), ({"every": None, "gap": "10s"}, 11)],
)
def test_a_row_is_late_from_the_moment_on_at_which_its_window_ends(changes: dict[str, Any], first: int) -> None:
    run = Run(lambda: bound(window(**changes)))
    run.take([Event(20, key="clock").row()], [Event(first - 1, key="late").row(), Event(first, key="in time").row()])
    assert [json.loads(one["values"])["key"] for one in run.letters] == ["late"]
    run.take([Event(100).row()])
    assert sorted({row["key"] for row in run.rows}) == ["clock", "in time"]


def test_an_event_of_the_future_closes_no_window() -> None:
    run = Run(lambda: bound(window(ahead="1h")))
    at = int((now() - BEGIN).total_seconds())
    run.take([Event(at).row(), Event(at + 7200).row() | {"key": "clock"}])
    run.take([Event(at + 1).row()])
    assert [(one["code"], json.loads(one["values"])["key"]) for one in run.letters] == [("ahead", "clock")]
    assert run.chain.counts()["w"]["counts"]["rows"] == 2


def test_a_quiet_partition_is_waited_for_until_it_is_idle_and_read_to_its_end() -> None:
    clock, behind = [0.0], {"t/1": 5}

    def make() -> StatefulChain:
        chain = bound(window(idle="30s"))
        (step,) = chain.steps
        step.memory.watermark.clock = lambda: clock[0]
        return chain

    run = Run(make, parts=2)
    run.chain.start(["t/0", "t/1"], lambda: behind)
    run.take([Event(1).row(), Event(200).row()])
    assert run.rows == [], "partition 1 has had no event"
    clock[0] = 31.0
    run.take([Event(201).row()])
    assert run.rows == [], "partition 1 still has messages to read"
    behind.clear()
    run.take([Event(202).row()])
    assert [row["rows"] for row in run.rows] == [1]
    run.chain.begin(["t/2"])
    run.take([Event(500).row()])
    assert len(run.rows) == 1, "a new partition is waited for"
    clock[0] = 62.0
    run.take([Event(5, part=1).row(), Event(600).row()])
    assert len(run.letters) == 1, "what an idle partition brings may be late"


def test_the_state_of_another_definition_is_refused() -> None:
    run = Run(lambda: bound(window()))
    run.take([Event(1).row()])
    for changed in (window(every="2m"), window(by=[]), window(aggregates={"rows": "sum(value)"})):
        with pytest.raises(Refused, match="has been changed"):
            bound(changed).load(run.pieces)
    bound(window(lateness="5m", idle="1h", ahead="1d")).load(run.pieces)


def test_dead_letters_show_what_the_source_sent_and_hide_what_is_masked() -> None:
    steps = (
        {"name": "double", "set": {"value": "value * 2"}},
        {"name": "once", "deduplicate": {"by": ["value"], "within": "1m", "time": "at", "lateness": "0s"}},
        {"name": "few", "set": {"value": "10 / (value - 4)"}},
        {"name": "hidden", "mask": {"key": "redact"}},
        window(by=["value"]),
    )
    run = Run(lambda: bound(*steps))
    run.take([Event(100, value=1).row()])
    run.take([Event(101, value=1).row(), Event(90, value=3).row(), Event(102, value=2).row()])
    shown = [(one["step"], one["row"], json.loads(one["values"])) for one in run.letters]
    assert [(step, row, values["value"], values["key"]) for step, row, values in shown] == [
        ("once", 1, 3, "***"), ("few", 2, 2, "***"),
    ]  # fmt: skip
    assert not any(name.startswith("_penstock") for _, _, values in shown for name in values)


def test_a_window_without_a_key_counts_all_rows() -> None:
    run = Run(lambda: bound(window(by=[], gap=None, aggregates={"n": "count"})))
    run.take([Event(at, key=key).row() for at, key in ((1, "a"), (2, "b"), (61, "a"))])
    run.restart()
    run.take([Event(3).row(), Event(130).row()])
    assert [row["n"] for row in run.rows] == [2, 1]
    assert [one["code"] for one in run.letters] == ["late"]


def test_the_journal_is_written_as_a_whole_once_the_changes_outgrow_it() -> None:
    run = Run(lambda: bound(window()))
    most = 0
    for number in range(80):
        run.take([Event(number % 50, key=f"k{number}-{one}").row() for one in range(50)])
        most = max(most, sum(len(piece) for _, piece in run.pieces["w"]))
    assert most < 800_000, "at most twice what is remembered"
    run.restart()
    assert run.chain.counts()["w"]["counts"]["open"] == 4000


def test_a_pipelines_own_tests_end_all_windows() -> None:
    chain = bound({"name": "once", "deduplicate": {"by": ["value"], "within": "1m", "time": "at"}}, window())
    out, refused, added = chain.apply(
        batch_of([Event(1, value=1).row(), Event(2, value=1).row(), Event(3, value=2).row()])
    )
    assert (out.to_pylist()[0]["rows"], refused, added) == (2, None, 1)


def test_lineage_goes_back_to_the_source() -> None:
    rules = Rules(
        None,
        (
            TransformStep.parse({"name": "v", "set": {"twice": "value * 2"}}),
            TransformStep.parse(window(aggregates={"n": "sum(twice)"})),
        ),
    )
    target = Table("target", "r", output_columns(rules, SOURCE, "items"))
    mapping = bind(rules, SOURCE, target, "items", undecoded=False)
    assert mapping.lineage["n"] == (("value",), ("v", "w"))
    assert mapping.lineage["key"] == (("key",), ())
    assert mapping.reads == ("key", "at", "value", "_topic", "_partition")


def test_types_are_checked_before_anything_runs() -> None:
    with pytest.raises(SchemaMismatch, match="cast it to numeric"):
        bound(window(aggregates={"x": "sum(n)"}), source=replace(SOURCE, columns=(*COLUMNS, Column("n", "numeric"))))


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"mode": "batch"}, "only a stream remembers rows"),
        ({"limits": {"workers": 2}}, "several workers cannot remember rows together"),
    ],
)
@pytest.mark.parametrize(
    "step", [window(), {"name": "once", "deduplicate": {"by": ["key"], "within": "1h", "time": "at"}}]
)
def test_batches_and_several_workers_are_refused_with_the_step(
    step: dict[str, Any], changes: dict[str, Any], what: str
) -> None:
    source, sink = {"connection": "a", "object": "events"}, {"connection": "b", "object": "t"}
    spec = {"mode": "stream", "source": source, "sink": sink, "transforms": [step], **changes}
    with pytest.raises(Refused, match=what) as caught:
        refuse_what_is_missing("items", PipelineSpec.parse(spec))
    assert "spec.transforms[0]" in str(caught.value)


def test_status_counts_what_the_steps_set_aside_and_remember() -> None:
    once = {"name": "once", "deduplicate": {"by": ["value"], "within": "1m", "time": "at", "lateness": "0s"}}
    run = Run(lambda: bound(once, window()))
    run.take([Event(10, value=1).row(), Event(11, value=1).row(), Event(130, value=2).row()])
    run.take([Event(20, value=3).row(), Event(None).row()])
    gauges = Gauges(Movement(), steps=run.chain.counts)
    stream = StreamProgress.parse(gauges.as_dict())
    told = shown(stream, now())
    assert "step once: 1 deduplicated, 1 remembered, 1 late, 1 without a time" in told
    assert "step w: 1 windows made, 1 open" in told


def test_a_partition_whose_rows_are_all_filtered_does_not_hold_windows_back_for_ever() -> None:
    clock = [0.0]

    def make() -> StatefulChain:
        chain = bound({"name": "some", "filter": "key <> 'noise'"}, window(idle="30s"))
        (step,) = chain.steps
        step.memory.watermark.clock = lambda: clock[0]
        return chain

    run = Run(make, parts=2)
    run.chain.start(["t/0", "t/1"], lambda: {"t/1": 1000})
    for at in range(0, 40, 10):
        clock[0] = float(at)
        run.take([Event(1).row(), Event(200).row()] if at == 0 else [Event(200 + at).row()])
        run.take([Event(1, part=1, key="noise").row()])
        assert len(run.rows) == (1 if at == 30 else 0)
    fresh = Run(make, parts=2)
    fresh.chain.start(["t/0", "t/1"], lambda: {"t/1": 1000})
    fresh.take([Event(1).row(), Event(200).row(), Event(1, part=1, key="noise").row()])
    clock[0] += 300
    fresh.take([Event(201).row()])
    assert fresh.rows == [], "partition 1 was not read for long, and has more to read"
    fresh.take([Event(202).row(), Event(1, part=1, key="noise").row()])
    assert fresh.rows == [], "it was not read all that time"


def test_a_partition_that_is_left_out_is_waited_for_no_more() -> None:
    run = Run(lambda: bound(window(idle="1d")), parts=2)
    run.take([Event(1).row(), Event(1, part=1).row()])
    run.parts = 1
    run.restart()
    run.take([Event(200).row()])
    assert [row["rows"] for row in run.rows] == [2]


def test_what_is_kept_of_a_large_split_is_in_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "MEMORY_BYTES", 300)
    run = Run(lambda: bound({"name": "once", "deduplicate": {"by": ["value"], "within": "1m", "time": "at"}}))
    run.take(*([Event(at, value=at).row() for at in range(begin, begin + 5)] for begin in (0, 3, 6)))
    assert [row["value"] for row in run.rows] == list(range(11))


@dataclass
class Refusing:
    """A writer whose target refuses the rows of its first split, and says so in the midst of it."""

    at_once: bool
    written: list[int] = field(default_factory=list)

    def open(self) -> None:
        self.written.append(0)

    def write(self, chunk: Chunk) -> None:
        if chunk.split == 1 and self.at_once:
            self.idle()
        self.written.append(chunk.split)

    def idle(self) -> None:
        raise RowRefused("no", where="here")

    def done(self) -> None: ...

    def close(self) -> None: ...


@pytest.mark.parametrize("at_once", [True, False])
def test_what_the_steps_have_made_is_written_again_once_all_of_a_split_is_there(at_once: bool) -> None:
    """Before that, the rest of the split would be left out, and its position moved past it."""
    chain = bound({"name": "once", "deduplicate": {"by": ["value"], "within": "1m", "time": "at"}})
    again: list[int] = []

    def rewrite(number: int, _: RowRefused) -> None:
        again.extend(len(rows_of(chunk)) for chunk in KeptReader(chain).read("00", Split(number)))

    def chunk(split: int, number: int) -> Chunk:
        return chain(Chunk("00", split, number, batch_of([Event(number, value=10 * split + number).row()]), 1, read=1))

    inner = Refusing(at_once)
    writer = LetterWriter(inner, LetterBox(lambda: pytest.fail("no letters"), "token", "r1"), rewrite, complete=True)
    writer.open()
    writer.write(chunk(1, 0))
    writer.idle()
    writer.write(chunk(1, 1))
    assert again == []
    writer.write(chain.end(Chunk("00", 1, 2, None, 2, last=True)))
    assert again == [1, 1, 0]
    writer.write(chunk(2, 0))
    assert inner.written == [0, *([] if at_once else [1]), 0, 2]
