"""Folded changes do what the changes do one by one; transactions that are too large are refused by name."""

from __future__ import annotations

import csv
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataflows.connectors.postgres.cdc.fold import ROW_BYTES, Fold, Layout
from dataflows.connectors.postgres.cdc.pgoutput import UNCHANGED, Change
from dataflows.connectors.postgres.cdc.positions import PENDING, Position
from penstock.errors import PenstockError, Refused

NAMES = ("id", "a", "b")
LAYOUT = Layout(NAMES, (0, 1, 2), (0,))
Row = tuple[str, str, str]
Step = tuple[str, int, int, bool, bool]


@given(
    st.lists(st.tuples(st.sampled_from(["insert", "update", "move", "delete", "truncate"]), st.integers(0, 4),
                       st.integers(0, 4), st.booleans(), st.booleans()), max_size=25),
    st.lists(st.integers(0, 24), max_size=4),
)  # fmt: skip
def test_property_folded_changes_equal_the_changes(steps: list[Step], cuts: list[int]) -> None:
    source: dict[str, Row] = {str(key): (str(key), f"a{key}", f"b{key}") for key in range(3)}
    target, fold = dict(source), Fold("a table")
    for at, step in enumerate(steps):
        _do(source, fold, step, at)
        if at in cuts:
            target = _applied(target, fold)
            assert target == source
            fold = Fold("a table")
    assert _applied(target, fold) == source


def _do(source: dict[str, Row], fold: Fold, step: Step, at: int) -> None:
    """Change the source by one step, if it can be done, and fold the change as the server sends it."""
    kind, one, other, whole, keeps = step
    key, to = str(one), str(other)
    if kind == "truncate":
        source.clear()
        fold.truncate()
    elif kind == "insert" and key not in source:
        source[key] = (key, f"a{at}", f"b{at}")
        fold.add(Change(1, "insert", _sent(source[key])), LAYOUT)
    elif kind == "delete" and key in source:
        old = source.pop(key)
        fold.add(Change(1, "delete", None, _old(old, whole=whole), whole), LAYOUT)
    elif kind in {"update", "move"} and key in source and (kind == "update" or (to not in source and to != key)):
        old = source.pop(key)
        new = (to if kind == "move" else key, f"a{at}", old[2] if keeps else f"b{at}")
        source[new[0]] = new
        values = (*_sent(new)[:2], UNCHANGED if keeps else new[2].encode())
        fold.add(
            Change(1, "update", values, _old(old, whole=whole) if whole or kind == "move" else None, whole), LAYOUT
        )


def _sent(row: Row) -> tuple[bytes, ...]:
    return tuple(one.encode() for one in row)


def _old(row: Row, *, whole: bool) -> tuple[bytes | None, ...]:
    return _sent(row) if whole else (row[0].encode(), None, None)


def _applied(target: dict[str, Row], fold: Fold) -> dict[str, Row]:
    """Do what the sink does: first keep values, then delete, then write."""
    text = b"\n".join(fold.rows(NAMES, (0,))).decode()
    before, after, deleted, written = target, dict(target), [], []
    for *values, change in csv.reader(io.StringIO(text)):
        does = json.loads(change) if change else {"op": "put"}
        if does["op"] == "truncate":
            after = {}
        elif does["op"] == "delete":
            deleted.append(values[0])
        else:
            kept = before[does["key"][0] if "key" in does else values[0]] if does["op"] == "keep" else None
            one, two, three = (
                kept[at] if kept and name in does["columns"] else values[at] for at, name in enumerate(NAMES)
            )
            written.append((one, two, three))
    keys = [*deleted, *(row[0] for row in written)]
    assert len(keys) == len(set(keys))
    after = {key: row for key, row in after.items() if key not in deleted}
    return after | {row[0]: row for row in written}


def test_the_size_is_that_of_the_folded_rows() -> None:
    fold = Fold("a table")
    for at in range(1000):
        fold.add(Change(1, "update", (b"1", b"x" * 100, str(at).encode())), LAYOUT)
    assert len(fold) == 1
    assert 100 < fold.size < 1000
    fold.add(Change(1, "update", (b"2", b"y", b"z"), (b"1", None, None)), LAYOUT)
    assert fold.size < 1000
    fold = Fold("a table")
    for key in (b"1", b"2"):
        fold.add(Change(1, "insert", (key, b"a", b"x" * 5000)), LAYOUT)
        fold.add(Change(1, "update", (key, b"b", UNCHANGED)), LAYOUT)
    assert 10_000 < fold.size < 11_000, "a value that was not sent again is kept, too"
    fold.add(Change(1, "delete", None, (b"1", None, None)), LAYOUT)
    assert 5000 < fold.size < 6000


@pytest.mark.parametrize(("filled", "value"), [((), None), ((None, None, b"7"), b"7")])
def test_a_column_that_the_relation_does_not_have_is_null_or_filled(
    filled: tuple[bytes | None, ...], value: bytes | None
) -> None:
    assert Layout(NAMES, (1, 0, None), (1,), filled).read((b"a", b"1")) == [b"1", b"a", value]


@pytest.mark.parametrize("kind", ["update", "delete"])
def test_a_change_of_another_row_with_the_same_key_is_refused(kind: str) -> None:
    fold = Fold("a table")
    fold.add(Change(1, "insert", _sent(("1", "a", "b"))), LAYOUT)
    new = _sent(("1", "c", "b")) if kind == "update" else None
    with pytest.raises(Refused, match="two rows had the same key"):
        fold.add(Change(1, kind, new, _sent(("1", "other", "b")), whole=True), LAYOUT)


@pytest.mark.parametrize("kind", ["insert", "update"])
def test_a_row_that_takes_the_key_of_another_one_is_refused(kind: str) -> None:
    fold = Fold("a table")
    for key in ("1", "2"):
        fold.add(Change(1, "insert", _sent((key, "a", "b"))), LAYOUT)
    with pytest.raises(Refused, match="two rows had the same key"):
        fold.add(Change(1, kind, _sent(("2", "c", "d")), (b"1", None, None) if kind == "update" else None), LAYOUT)


def test_an_update_without_the_key_of_its_row_is_refused() -> None:
    with pytest.raises(PenstockError, match="without the key") as found:
        Fold("a table").add(Change(1, "update", (UNCHANGED, b"a", b"b")), LAYOUT)
    assert found.value.where == "a table"


def test_every_byte_of_a_row_is_counted_once() -> None:
    fold = Fold("a table")
    assert (fold.size, len(fold), fold.truncated, fold.times) == (0, 0, False, None)
    sizes = []
    for change in (
        Change(1, "insert", (b"1", b"abc", None)),
        Change(1, "update", (b"1", b"abcd", b"x")),
        Change(1, "delete", None, (b"1", None, None)),
        Change(1, "delete", None, (b"2", None, None)),
    ):
        fold.add(change, LAYOUT)
        sizes.append(fold.size)
    assert sizes == [ROW_BYTES + 4, ROW_BYTES + 6, ROW_BYTES, 2 * ROW_BYTES]
    fold.truncate()
    assert (fold.size, len(fold), fold.truncated) == (0, 1, True)
    for at in (7.0, 5.0, 9.0):
        fold.committed(at)
    assert fold.times == (5.0, 9.0)


def test_quotes_and_empty_texts_are_written_as_csv() -> None:
    fold = Fold("a table")
    fold.add(Change(1, "insert", (b"1", b'a "b"', b"")), LAYOUT)
    fold.add(Change(1, "insert", (b"2", None, b"x")), LAYOUT)
    assert [*fold.rows(NAMES, (0,))] == [b'"1","a ""b""","",', b'"2",,"x",']


def test_a_position_is_read_as_it_was_written() -> None:
    position = Position(
        2**33 + 7, "s", 1, "slot", 5, 6, {"id": (1, "bigint")}, ("id",), numbered=1, keys=(8,), file=9, emptied="77"
    )
    assert Position.parse(str(position)) == position
    assert Position.parse(str(position.at(9))) == position.at(9) != position
    assert Position.parse(PENDING) is None
