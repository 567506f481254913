"""Dead letters are redriven into each sink that can hold what earlier runs wrote: once each, also after kills."""

from __future__ import annotations

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

MODES = [*((name, "append") for name in SYSTEMS), *(one for one in KEYED if one[1] == "merge")]
SOON = [
    ("mysql", "append"),
    ("mysql", "merge"),
    ("sqlite", "append"),
    ("duckdb", "merge"),
    ("parquet", "append"),
    ("s3", "append"),
]
CUTS = ("redrive.claimed", "commit.before_fence:1", "commit.done:1", "publish.begin", "redrive.written")


@pytest.mark.parametrize(("kind", "write"), soon(MODES, *SOON))
def test_letters_are_redriven_once_into_each_sink(
    new_system: NewSystem, source_file: SourceFile, into: Flows, catalog: str, kind: str, write: str
) -> None:
    system = new_system(kind)
    source_file.add(60)
    made = into(system, write, **({"key": ["id"], "version": "id"} if write == "merge" else {}))
    made.letters = catalog
    made.spec |= {"validate": {"checks": {"low": "id % 3 <> 0"}}, "errors": {"dead_letter": {"fail_above": "50%"}}}
    assert made.completed("r1") == 60
    assert system.ids() == [id_ for id_ in source_file.ids() if id_ % 3]
    source_file.add(20)
    made.split_rows = 5

    def redrive(cut: str | None = None) -> dict[str, Any]:
        order = {"action": "replay", "fix": {"set": {"id": "1000 + id * 3 + 1"}, "where": "id > 3"}}
        return made.launchers.run(made.task("d1") | {"kind": "letters", "redrive": order}, cut and f"{cut}=kill")

    for cut in CUTS:
        assert redrive(cut) == {"killed": signal.SIGKILL}, cut
        if cut == "commit.done:1":
            made.completed("r2")
    done = redrive()
    assert done["status"] == "completed", done["error"]
    assert {name: done["letters"][name] for name in ("chosen", "written", "refused")} == {
        "chosen": 20, "written": 19, "refused": 1,
    }  # fmt: skip
    expected = [id_ for id_ in source_file.ids() if id_ % 3] + [1000 + id_ * 3 + 1 for id_ in range(6, 61, 3)]
    assert system.ids() == sorted(expected)
    with psycopg.connect(catalog) as session:
        query = "SELECT (\"values\"->>'id')::int, redrive FROM ops.dead_letters WHERE run = %s"
        assert session.execute(query, ("r1",)).fetchall() == [(3, None)]


@pytest.mark.parametrize(
    ("kind", "sink", "said"),
    [
        ("sqlite", {"write": "replace"}, "reads all rows at each run"),
        ("postgres", {"write": "scd2", "key": ["id"], "version": "id"}, "a history is written in order"),
        ("sqlite", {"write": "merge", "key": ["id"]}, "without a version nothing shows which is newer"),
        ("sqlite", {"write": "merge", "key": ["id"], "version": "id", "delete": "gone"}, "would come back"),
    ],
)
def test_what_a_redrive_could_undo_is_refused_by_name(
    new_system: NewSystem,
    source_file: SourceFile,
    into: Flows,
    catalog: str,
    kind: str,
    sink: dict[str, Any],
    said: str,
) -> None:
    source_file.add(10)
    made = into(new_system(kind), **sink)
    made.letters = catalog
    if "delete" in sink:
        made.spec |= {"transforms": [{"name": "gone", "set": {"gone": "id < 0"}}]}
    made.completed("r1")
    done = made.launchers.run(made.task("d1") | {"kind": "letters", "redrive": {"action": "replay"}})
    assert (done["status"], said in str(done["error"])) == ("failed", True), done
