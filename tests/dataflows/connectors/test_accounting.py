"""Bad rows among good ones, in each sink and mode: every row is accounted for, and the good ones keep their order."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from tests.dataflows.connectors.conftest import KEYED, SYSTEMS
from tests.pairs import soon

if TYPE_CHECKING:
    from tests.dataflows.connectors.conftest import Flow, SourceFile, System

    Flows = Callable[..., Flow]
    NewSystem = Callable[[str], System]

STEPS = [
    {"name": "open", "filter": "id % 10 <> 3"},
    {"name": "share", "set": {"price": "CAST(100 / (id % 20) AS double precision)"}},
    {"name": "hide", "mask": {"name": "redact"}},
]
CHECKS = {"checks": {"odd": "id % 25 <> 4"}, "not_null": ["name"]}
MODES = [*((name, write) for name in SYSTEMS for write in ("append", "replace")), *KEYED]
SOON = [
    ("postgres", "append"), ("postgres", "scd2"), ("mysql", "replace"), ("mysql", "merge"), ("sqlite", "append"),
    ("duckdb", "replace"), ("duckdb", "merge"), ("parquet", "append"), ("s3", "replace"),
]  # fmt: skip
"""Each system and each mode."""


def expected_outcome(id_: int) -> tuple[str, str] | None:
    """Return the step that refuses a row and its reason; ``open`` if it is filtered, None if it is written."""
    if id_ % 10 == 3:
        return "open", ""
    if id_ % 20 == 0:
        return "share", "division by zero"
    if id_ % 7 == 0:
        return "validate", "`name` is NULL"
    return ("validate", "check `odd` failed") if id_ % 25 == 4 else None


@pytest.mark.parametrize(("kind", "write"), soon(MODES, *SOON))
def test_each_row_is_written_filtered_or_a_dead_letter(
    new_system: NewSystem, source_file: SourceFile, into: Flows, out_of: Flows, catalog: str, kind: str, write: str
) -> None:
    system = new_system(kind)
    source_file.add(100)
    made = into(system, write, **({"key": ["id"], "version": "id"} if (kind, write) in KEYED else {}))
    made.letters = catalog
    made.spec |= {"transforms": STEPS, "validate": CHECKS, "errors": {"dead_letter": {"fail_above": "50%"}}}
    assert made.run("r1", "commit.done:1=kill") == {"killed": signal.SIGKILL}
    half = committed(system, made)
    assert half is None or half["rows_in"] == half["rows_out"] + half["filtered"] + half["dead"] == 40
    found = made.run("r1")
    assert found["status"] == "completed", found
    expected = {id_: expected_outcome(id_) for id_ in source_file.ids()}
    good = [id_ for id_, one in expected.items() if one is None]
    dead = {id_: one for id_, one in expected.items() if one is not None and one[0] != "open"}
    counters = found["counters"]
    assert [counters[name] for name in ("rows_in", "rows_out", "filtered", "dead")] == [100, len(good), 10, len(dead)]
    assert system.ids() == good
    with psycopg.connect(catalog) as session:
        rows = session.execute('SELECT step, code, reason, split, "row", "values" FROM ops.dead_letters').fetchall()
    assert sorted(row[-1]["id"] for row in rows) == sorted(dead)
    for step, code, reason, split, row, values in rows:
        wanted, words = dead[values["id"]]
        assert (step, words in reason, bool(code)) == (wanted, True, True), (step, reason)
        assert values["id"] == split * 20 + row + 1, (split, row, values)
        assert values["name"] in {"***", None}, values
        assert set(values) == {"id", "name"}, values
    back = out_of(system, "replace")
    back.completed("r1")
    assert [row[0] for row in source_file.rows("SELECT id FROM back ORDER BY rowid")] == good or write == "merge"


def committed(system: System, made: Flow) -> dict[str, Any] | None:
    """Return what the killed run has committed, as reported by a next attempt that fails before its first commit."""
    found = made.launchers.run(made.task("r1"), "read.begin=raise")
    assert found["status"] == "failed", json.dumps(found)
    return dict(found["counters"])
