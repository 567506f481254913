"""The rows of a batch, and those that are remembered between batches."""

from __future__ import annotations

from collections.abc import Callable

import orjson
import pytest

from catalog import rows as module
from catalog import tables
from catalog.rows import Change, Entry, Row, RowCache, Rows, parsed, storable


def status(word: str) -> Callable[[Row, Rows], None]:
    return lambda row, _: row.update(status=word)


def changed(cache: RowCache, *keys: str) -> None:
    rows = Rows()
    for key in keys:
        rows.apply(Change(tables.tasks, key, lambda row, _: row.update(status="queued")), 7)
        rows.apply(Change(tables.policies, key, lambda row, _: row.update(name="x")), 7)
    cache.keep(rows)


def test_the_rows_that_were_touched_last_are_remembered_and_of_their_tables_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "KEPT", 3)
    cache = RowCache((tables.tasks, tables.runs))
    changed(cache, "a", "b", "c")
    assert list(cache) == [("tasks", "a"), ("tasks", "b"), ("tasks", "c")]
    assert cache["tasks", "a"]["changed"] == 7
    changed(cache, "a")
    changed(cache, "d")
    assert list(cache) == [("tasks", "c"), ("tasks", "a"), ("tasks", "d")]


def test_keys_of_history_are_remembered_until_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT_KEYS", 2)
    cache = RowCache((tables.tasks,), (tables.errors,))

    def added(*keys: str) -> set[tuple[str, ...]]:
        rows = Rows()
        for key in keys:
            rows.apply(Entry(tables.errors, {"id": key, "what": "x"}), 1)
            rows.apply(Entry(tables.faults, {"fingerprint": key}), 1)
        cache.keep(rows)
        return {tuple(map(str, one)) for one in cache.entries[tables.errors]}

    assert (added("a"), added("b"), added("a")) == ({("a",)}, {("a",), ("b",)}, {("a",), ("b",)})
    assert list(cache.entries) == [tables.errors]
    assert added("c") == set()
    changed(cache, "t")
    assert added("d") == {("d",)}
    cache.clear()
    assert (dict(cache), cache.entries) == ({}, {tables.errors: set()})


def test_the_first_row_of_a_key_of_history_and_a_change_for_once_win() -> None:
    rows = Rows()
    for name in ("one", "two"):
        rows.apply(Entry(tables.errors, {"id": "e", "what": name}), 1)
        rows.apply(Change(tables.tasks, "t", status(name), once=True), 2)
    rows.apply(Change(tables.tasks, "u", status("one")), 3)
    rows.apply(Change(tables.tasks, "u", status("two")), 4)
    assert [(row["status"], row["changed"]) for row in rows.live.values()] == [("one", 2), ("two", 4)]
    assert [row["what"] for row in rows.history[tables.errors].values()] == ["one"]


def test_a_row_that_is_dropped_is_not_written_again_unless_it_changes_later() -> None:
    rows = Rows()
    rows.apply(Change(tables.tasks, "t", lambda row, _: row.update(status="one", worker="w")), 1)
    rows.derive(tables.runs, "r", dict)
    rows.drop(tables.tasks, "t")
    rows.drop(tables.runs, "r")
    assert (rows.written(), rows.dropped) == ({}, {tables.tasks: {"t"}, tables.runs: {"r"}})
    rows.apply(Change(tables.tasks, "t", status("two")), 2)
    (text,) = rows.written().values()
    (row,) = orjson.loads(text)
    assert (row["status"], "worker" in row) == ("two", False)


def test_documents_are_stored_without_nul_and_read_as_they_are() -> None:
    document = {"a": "x"}
    assert storable(document) is document
    assert storable({"a": "x\0", "b": "\\u0000"}) == {"a": "x\ufffd", "b": "\\u0000"}
    assert (parsed(orjson.Fragment(b'{"n": 1}')), parsed(document)) == ({"n": 1}, document)
