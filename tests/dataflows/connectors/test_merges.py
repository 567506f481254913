"""`merge` and `scd2` on every sink that supports them, killed and stopped at any point; and columns that are added."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import count, product
from typing import TYPE_CHECKING, Any

import pytest

from tests.dataflows.connectors.conftest import CUTS, FORMATS, KEYED, SYSTEMS
from tests.pairs import soon

if TYPE_CHECKING:
    from tests.dataflows.connectors.conftest import Flow, SourceFile, System

    Flows = Callable[..., Flow]
    NewSystem = Callable[[str], System]
    Rows = list[tuple[Any, ...]]

IDS = 25
HISTORY = "id, name, v, valid_from, valid_to, is_current"


@dataclass(frozen=True)
class Keyed:
    """A pipeline that merges the source file's table `changes` into a system, and the rows expected there."""

    flow: Flow
    back: Flow
    source_file: SourceFile

    @property
    def history(self) -> bool:
        return bool(self.flow.sink["write"] == "scd2")

    def change(self, rows: int) -> None:
        """Add new versions of each id in turn; every seventh marks its row as deleted."""
        self.source_file.rows(
            "WITH RECURSIVE n(g) AS (SELECT (SELECT coalesce(max(v), 0) + 1 FROM changes) UNION ALL "
            "SELECT g + 1 FROM n LIMIT ?) "
            f"INSERT INTO changes SELECT g, g % {IDS}, 'größe ' || g, g % 7 = 3 FROM n",
            (rows,),
        )

    def wanted(self) -> Rows:
        """Return the expected rows by id and version."""
        changes = self.source_file.rows("SELECT id, name, v, gone FROM changes ORDER BY v")
        if not self.history:
            last = {one[0]: one for one in changes}
            return by_key(one[:3] for one in last.values() if not one[3])
        return by_key(one for id_ in range(IDS) for one in history([one for one in changes if one[0] == id_]))

    def rows(self) -> Rows:
        """Return the rows of the system, read by a pipeline."""
        self.back.completed(f"b{next(_numbers)}")
        found = self.source_file.rows(f"SELECT {HISTORY if self.history else 'id, name, v'} FROM back")
        return by_key(found)


_numbers = count(1)


def by_key(rows: Iterable[tuple[Any, ...]]) -> Rows:
    """Sort by id and version."""
    return sorted(rows, key=lambda row: (row[0], row[2]))


def history(versions: Rows) -> Iterator[tuple[Any, ...]]:
    """Yield the history of one id: each version is valid until the next."""
    for at, (id_, name, version, gone) in enumerate(versions):
        end = versions[at + 1][2] if at + 1 < len(versions) else None
        if not gone:
            yield id_, name, version, version, end, int(end is None)


@pytest.fixture
def keyed(source_file: SourceFile, into: Flows, out_of: Flows) -> Callable[..., Keyed]:
    def make(system: System, write: str) -> Keyed:
        source_file.rows("DROP TABLE IF EXISTS changes")
        source_file.rows("PRAGMA journal_mode = WAL")  # a process that is stopped while it reads locks out no writer
        source_file.rows("CREATE TABLE changes (v INTEGER PRIMARY KEY, id INTEGER NOT NULL, name TEXT, gone BOOLEAN)")
        flow = into(system, write, "changes", key=["id"], version="v", delete="gone")
        flow.source["cursor"] = {"field": "v"}
        flow.spec["mapping"] = {"fields": [{"target": name, "from": name} for name in ("id", "name", "v", "gone")]}
        return Keyed(flow, out_of(system, "replace"), source_file)

    return make


def survives(made: Keyed, system: System, cut: str, *, same: bool) -> None:
    made.change(60)
    assert made.flow.run("r1", f"{cut}=kill") == {"killed": signal.SIGKILL}, cut
    if not same:
        made.change(4)
    read = made.flow.completed("r1" if same else "r2")
    assert made.rows() == made.wanted(), cut
    assert read == 60 or not same, cut
    made.change(30)
    assert made.flow.completed("r3") == 30, cut
    assert (made.rows(), system.leftovers(made.flow.uid)) == (made.wanted(), []), cut


def cut_of(at: int) -> str:
    """Return a different failpoint for each sink."""
    return [cut for cut in CUTS if cut.startswith(("commit.", "publish."))][3 + at * 4]


@pytest.mark.parametrize(("kind", "write"), soon(KEYED, ("postgres", "scd2"), ("mysql", "merge")))
def test_killed_and_run_again(new_system: NewSystem, keyed: Callable[..., Keyed], kind: str, write: str) -> None:
    cut = cut_of(KEYED.index((kind, write)))
    survives(keyed(system := new_system(kind), write), system, cut, same=write == "merge")


@pytest.mark.parametrize("kind", [kind for kind, write in KEYED if write == "merge"])
def test_deleted_rows_stay_deleted(new_system: NewSystem, keyed: Callable[..., Keyed], kind: str) -> None:
    """Older versions, and rows without a version, do not restore a deleted row; a newer version does."""
    made = keyed(new_system(kind), "merge")
    made.source_file.rows("DROP TABLE changes")
    made.source_file.rows(
        "CREATE TABLE changes (n INTEGER PRIMARY KEY, id INTEGER NOT NULL, name TEXT, v INTEGER, gone BOOLEAN)"
    )
    made.flow.source["cursor"] = {"field": "n"}
    for number, changes, there in (
        (1, [(1, 1, "a", 5, 0), (2, 2, "b", 5, 0), (3, 2, "b", 6, 1)], [(1, "a", 5)]),
        (2, [(4, 1, "a", 5, 1), (5, 2, "older", 4, 0), (6, 3, "c", 1, 1)], []),
        (3, [(7, 1, "older", 3, 0), (8, 2, "older", 5, 1), (9, 3, "c", 0, 0)], []),
        (4, [(10, 2, "older", 5, 0), (11, 1, "none", None, 0), (12, 3, "c", 2, 0)], [(3, "c", 2)]),
    ):
        for change in changes:
            made.source_file.rows("INSERT INTO changes VALUES (?, ?, ?, ?, ?)", change)
        made.flow.completed(f"r{number}")
        assert made.rows() == there, number


@pytest.mark.parametrize(("kind", "write"), KEYED)
def test_a_deletion_that_is_not_true_or_false_is_refused(
    new_system: NewSystem, keyed: Callable[..., Keyed], kind: str, write: str
) -> None:
    made = keyed(new_system(kind), write)
    made.flow.sink["delete"] = "gone_at"
    at = "CASE WHEN gone THEN TIMESTAMP '2024-01-01' END"
    made.flow.spec["mapping"]["fields"][3] = {"target": "gone_at", "sql": at}
    error = made.flow.failed("r1")
    assert (error["code"], "`gone_at` is timestamp" in error["what"]) == ("schema.mismatch", True), error
    made.flow.spec["mapping"]["fields"][3] = {"target": "gone_at", "sql": "gone IS TRUE"}
    made.change(10)
    assert made.flow.completed("r2") == 10


@pytest.mark.parametrize("kind", [kind for kind, write in KEYED if write == "merge"])
def test_a_row_without_a_version_is_the_oldest(new_system: NewSystem, keyed: Callable[..., Keyed], kind: str) -> None:
    made = keyed(new_system(kind), "merge")
    made.source_file.rows("DROP TABLE changes")
    made.source_file.rows(
        "CREATE TABLE changes (n INTEGER PRIMARY KEY, id INTEGER NOT NULL, name TEXT, v INTEGER, gone BOOLEAN)"
    )
    made.flow.source["cursor"] = {"field": "n"}
    for number, changes in ((1, [(1, 1, "a", 5, 0), (2, 1, "b", None, 0)]), (2, [(3, 1, "c", None, 0)])):
        for change in changes:
            made.source_file.rows("INSERT INTO changes VALUES (?, ?, ?, ?, ?)", change)
        made.flow.completed(f"r{number}")
        assert made.rows() == [(1, "a", 5)]


@pytest.mark.chaos
@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize(("kind", "write"), KEYED)
def test_killed_or_stopped_at_every_point(
    new_system: NewSystem, keyed: Callable[..., Keyed], kind: str, write: str, same: bool
) -> None:
    for cut in CUTS:
        if cut != "prepare.shadow_made":
            survives(keyed(system := new_system(kind), write), system, cut, same=same)
    for point in STOPPED if same else ():
        sleeps_through(keyed(system := new_system(kind), write), system, point)


STOPPED = (
    "prepare.generation_raised", "prepare.planned", "read.block:1", "commit.begin:0", "commit.mid_copy:1",
    "commit.before_fence:1", "commit.sent:1", "flow.end", "publish.begin", "publish.locked", "publish.moved",
)  # fmt: skip


def sleeps_through(made: Keyed, system: System, point: str) -> None:
    """Stop a run, let its successor run with newer rows, and wake it.

    A run stopped while it holds the system's lock blocks its successor, so it is not a zombie.
    """
    made.change(60)
    task = made.flow.task("r1")
    zombie = made.flow.stopped(task, point)
    made.change(20)
    successor = made.flow.run("r2", without=("patience",))
    if successor["status"] == "completed":
        assert made.rows() == made.wanted(), point
        assert made.flow.woken(zombie, task)["status"] in {"fenced", "failed"}, point
    else:
        assert successor["error"]["transient"], successor
        assert made.flow.woken(zombie, task)["status"] == "completed", point
        made.flow.completed("r2")
    assert made.rows() == made.wanted(), point
    made.flow.completed("r3")
    assert (made.rows(), system.leftovers(made.flow.uid)) == (made.wanted(), []), point


@pytest.mark.parametrize(("kind", "write"), soon(KEYED, ("sqlite", "merge"), ("duckdb", "merge")))
def test_a_zombie_with_a_successor_merges_nothing(
    new_system: NewSystem, keyed: Callable[..., Keyed], kind: str, write: str
) -> None:
    point = ("commit.before_fence:1", "commit.mid_copy:1", "commit.begin:1")[KEYED.index((kind, write)) % 3]
    sleeps_through(keyed(system := new_system(kind), write), system, point)


REFUSING = [(name, write) for name in SYSTEMS for write in ("merge", "scd2") if (name, write) not in KEYED]


@pytest.mark.parametrize(("kind", "write"), soon(REFUSING, *(one for one in REFUSING if one[0] not in FORMATS)))
def test_unsupported_write_modes_are_refused(
    new_system: NewSystem, keyed: Callable[..., Keyed], kind: str, write: str
) -> None:
    made = keyed(system := new_system(kind), write)
    made.change(1)
    error = made.flow.failed("r1")
    assert (error["code"], write in error["what"]) == ("refused", True), error
    assert system.ids() == []


@pytest.mark.parametrize(("kind", "write"), soon(KEYED, ("postgres", "scd2"), ("sqlite", "merge"), ("mysql", "merge")))
def test_a_run_without_new_rows_keeps_the_cursor(
    new_system: NewSystem, keyed: Callable[..., Keyed], kind: str, write: str
) -> None:
    made = keyed(new_system(kind), write)
    read = []
    for turn, rows in enumerate((0, 6, 0, 0, 2, 0)):
        made.change(rows)
        read.append(made.flow.completed(f"r{turn}"))
    assert read == [0, 6, 0, 0, 2, 0]
    assert made.rows() == made.wanted()


@pytest.mark.parametrize(
    ("kind", "write"),
    soon(
        product(sorted({name for name, _ in KEYED}), ("append", "merge")),
        ("postgres", "merge"),
        ("mysql", "append"),
        ("sqlite", "merge"),
        ("duckdb", "append"),
    ),
)
def test_a_new_column_of_the_source_is_added_to_the_target(
    new_system: NewSystem, source_file: SourceFile, into: Flows, out_of: Flows, kind: str, write: str
) -> None:
    system = new_system(kind)
    source_file.add(40)
    made = into(system, write, key=["id"])
    made.source["cursor"] = {"field": "id"}
    made.spec["schema"] = {"additive": "apply"}
    made.completed("r1")
    source_file.rows("ALTER TABLE items ADD COLUMN note TEXT")
    source_file.rows("INSERT INTO items SELECT id + 40, name, price, 'note ' || id FROM items")
    assert made.run("r2", "prepare.planned=kill") == {"killed": signal.SIGKILL}
    assert made.completed("r2") == 40
    out_of(system, "replace").completed("r1")
    assert source_file.rows("SELECT id, name, price, note FROM back ORDER BY id") == source_file.rows(
        "SELECT * FROM items ORDER BY id"
    )


@pytest.mark.parametrize("kind", soon(sorted(set(SYSTEMS) - {name for name, _ in KEYED}), "parquet"))
def test_adding_columns_to_files_is_refused(
    new_system: NewSystem, source_file: SourceFile, into: Flows, kind: str
) -> None:
    system = new_system(kind)
    source_file.add(5)
    made = into(system, "append")
    made.spec["schema"] = {"additive": "apply"}
    made.completed("r1")
    source_file.rows("ALTER TABLE items ADD COLUMN note TEXT")
    error = made.failed("r2")
    assert (error["code"], "`note`" in error["what"]) == ("refused", True), error
    assert system.ids() == source_file.ids()
