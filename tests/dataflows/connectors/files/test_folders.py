"""Folders that pipelines write and read: contents, fencing, logs, and reading only new files."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataflows.connectors.contract import PublishOrder, WriterOrder
from dataflows.connectors.files.folder import Folder
from dataflows.connectors.files.log import FolderLog
from dataflows.connectors.files.manifest import Entry, FolderState, row_entry, row_of
from dataflows.connectors.files.seen import MAX_FILES, Seen
from dataflows.connectors.files.state import FilesState
from dataflows.connectors.files.store import Listed, LocalStore
from dataflows.connectors.files.writer import FilesSink
from dataflows.connectors.publication import publishing
from dataflows.connectors.state import Claim, RunRow
from dataflows.connectors.writing import OpenSplit
from dataflows.data.counters import Counters
from dataflows.data.cursors import CursorRule
from dataflows.data.splits import Split
from dataflows.data.tables import Column
from dataflows.runs.job import Job
from penstock.errors import AccessDenied, Fenced, InvalidDocument, PenstockError, Refused, SchemaMismatch, Unavailable
from penstock.models.connection import parse_connection
from tests.dataflows.connectors.files.conftest import read

if TYPE_CHECKING:
    from tests.dataflows.conftest import Launchers
    from tests.dataflows.connectors.files.conftest import Export, Files
    from tests.s3 import S3Server

    Make = Callable[..., Export]
    Completed = Callable[[dict[str, Any]], dict[str, Any]]

TYPES = """
CREATE TABLE IF NOT EXISTS typed (id bigint PRIMARY KEY, s smallint, i integer, r real, d double precision, b boolean,
  n numeric(38,10), t text, v varchar(40), c char(4), j json, jb jsonb, u uuid, day date, clock time, local timestamp,
  at timestamptz)"""
ROWS = """INSERT INTO typed VALUES
(1, -32768, 2147483647, 1.5, 1e-300, true, 1234567890123456789012345678.0123456789, E'\\u2603 "q" \\\\ \\n,;', 'v', 'c',
 '{"a": [1, 2.50, "x"]}', '{"k": null}', '00000000-0000-4000-8000-0000000000ff', '0001-01-01', '23:59:59.999999',
 '9999-12-31 23:59:59.999999', '0001-01-01 00:00:00+00'),
(2, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
(3, 0, 0, 'NaN', 'infinity', false, 0, '', '', '', '[]', '0', '00000000-0000-4000-8000-000000000000', '2024-02-29',
 '00:00', '1969-12-31 23:59:59.999999', '2024-06-30 12:00:00.000001+02')"""


def task(export: Export, source: dict[str, Any], sink: dict[str, Any], run: str) -> dict[str, Any]:
    made = export.task(run)
    spec = made["pipeline"]["spec"]
    spec["source"], spec["sink"] = source, sink
    return made


@pytest.mark.parametrize("ending", ["parquet", "csv.gz", "jsonl", "jsonl.zst"])
@pytest.mark.parametrize("kind", ["files", "s3"])
def test_every_type_survives_a_round_trip_through_files(
    export: Make, completed: Completed, kind: str, ending: str
) -> None:
    made = export(kind, "replace")
    made.session.execute(TYPES)
    made.session.execute("TRUNCATE typed")
    made.session.execute(ROWS)
    if ending.startswith("jsonl"):
        made.session.execute("UPDATE typed SET r = 0, d = 0 WHERE id = 3")
    folder = f"{made.target}/*.{ending}"
    completed(
        task(
            made,
            {"connection": "shop", "object": "public.typed"},
            {"connection": "lake", "object": folder, "write": "replace"},
            "r1",
        )
    )
    assert len(made.files.visible(made.target, ending)) == 1
    made.session.execute("DROP TABLE IF EXISTS w.back")
    back = export(kind, "replace")
    back.files = made.files
    completed(
        task(
            back,
            {"connection": "lake", "object": made.target},
            {"connection": "shop", "object": "w.back", "write": "replace"},
            "r1",
        )
    )
    have, want = (
        made.session.execute(f"SELECT t::text FROM {name} t ORDER BY id").fetchall()
        for name in ("w.back", "public.typed")
    )
    assert have == want
    types = "SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0"
    assert [made.session.execute(types, (name,)).fetchall() for name in ("w.back",)] == [
        made.session.execute(types, ("public.typed",)).fetchall()
    ]


def test_an_empty_table_is_an_empty_folder_with_columns(export: Make, completed: Completed) -> None:
    made = export("files", "replace")
    made.session.execute("CREATE TABLE IF NOT EXISTS nothing (id bigint PRIMARY KEY, t text)")
    completed(
        task(
            made,
            {"connection": "shop", "object": "public.nothing"},
            {"connection": "lake", "object": made.target, "write": "replace"},
            "r1",
        )
    )
    assert made.files.visible(made.target) == []
    described = made.files.source(made.target).describe()
    assert [column.name for column in described.columns if not column.hidden] == ["id", "t"]
    assert made.rows() == []


@pytest.mark.parametrize("kind", ["files", "s3"])
def test_each_file_is_read_once(export: Make, launchers: Launchers, completed: Completed, kind: str) -> None:
    made = export(kind, "append")
    table = f"w.landed{made.number}"
    made.session.execute(f"CREATE TABLE {table} (id bigint, path text)")

    def run(name: str, lag: str = "0s") -> dict[str, Any]:
        source = {"connection": "lake", "object": "in/*.csv", "cursor": {"field": "_modified", "lag": lag}}
        order = task(made, source, {"connection": "shop", "object": table, "write": "append"}, name)
        fields = [{"target": "id", "from": "id"}, {"target": "path", "from": "_path"}]
        order["pipeline"]["spec"]["mapping"] = {"fields": fields}
        return order

    made.files.write("in/b.csv", b"id\n1\n2\n")
    assert completed(run("r1"))["rows_in"] == 2
    assert completed(run("r2"))["rows_in"] == 0
    earlier = made.files.write("in/a.csv", b"id\n3\n")
    os.utime(earlier, (0, 0))  # copied with its old time, to a name that sorts before
    made.files.write("in/c.csv", b"id\n4\n")
    assert completed(run("r3", "1h"))["rows_in"] == 1
    assert launchers.run(run("r4"), "commit.done:0=kill")["killed"]
    assert completed(run("r4"))["rows_in"] == 1
    found = made.session.execute(f"SELECT id, path FROM {table} ORDER BY id").fetchall()
    assert found == [(1, "in/b.csv"), (2, "in/b.csv"), (3, "in/a.csv"), (4, "in/c.csv")]
    made.files.write("in/b.csv", b"id\n1\n2\n9\n")
    result = launchers.run(run("r5"))
    assert (result["status"], result["error"]["code"]) == ("failed", "refused")
    assert "in/b.csv has changed" in result["error"]["what"]


def test_files_are_read_by_modified_only(files: Files) -> None:
    files.write("in/a.csv", b"id\n1\n")
    source = files.source("in")
    with pytest.raises(Refused, match="only be read as a whole"):
        source.window(source.describe(), Column("id", "bigint"), None, CursorRule())


@pytest.mark.parametrize("write", ["merge", "scd2"])
def test_unsupported_modes_of_files_are_refused(files: Files, write: str) -> None:
    with pytest.raises(Refused, match=f"`{write}`"):
        files.target("out", write, key=["id"])


@pytest.mark.parametrize(
    ("name", "value"),
    [("encoding", "latin-1"), ("quote", "'"), ("escape", "\\"), ("header", False), ("null_values", ["-"])],
)
def test_an_option_that_written_files_do_not_follow_is_refused(files: Files, name: str, value: Any) -> None:
    form = {"type": "csv", "delimiter": ";", "encoding": "utf-8", "header": True}
    with pytest.raises(Refused, match=f"`{name}` of `format` is for reading only"):
        files.target("out", "append", format=form | {name: value})
    assert files.target("out", "append", format=form)


def test_a_format_is_refused_for_databases() -> None:
    source = {"connection": "shop", "object": "t", "format": {"type": "csv"}}
    sink = {"connection": "shop", "object": "u", "write": "replace"}
    kind = {"apiVersion": "penstock/v1", "kind": "Pipeline", "metadata": {"name": "p"}}
    pipeline = kind | {"spec": {"source": source, "sink": sink}}
    shop = {"type": "postgres", "dsn": "host=x"}
    with pytest.raises(Refused, match="has no files"):
        Job.from_task({"uid": "u", "run": "r1", "pipeline": pipeline, "connections": {"shop": shop}})


def test_without_exclusive_create_a_fenced_owner_overwrites_its_successor(tmp_path: Path) -> None:
    """Control test: the fence is that an entry is only created if it does not exist."""

    class Overwriting(LocalStore):
        def create(self, path: str, data: bytes, *, folder_exists: bool = False) -> bool:  # noqa: ARG002 - overwrites
            self.put(path, data)
            return True

    for store, fenced in ((LocalStore(tmp_path / "a", "here"), True), (Overwriting(tmp_path / "b", "here"), False)):
        store.root.mkdir()
        old, new = state(store), state(store)
        claim = old.claim(("00",), "r1")
        assert isinstance(claim, Claim)
        with old.owned(claim.generation):
            old.write_plan(RunRow("r1", "replace", None, None, None, Counters()), (Split(0),))
        assert isinstance(new.claim(("00",), "r1"), Claim)
        file = {"path": "x", "rows": 1, "bytes": 1}
        with pytest.raises(Fenced) if fenced else nullcontext():
            old.commit("r1", claim.generation, 0, Counters(1, 1, 0, 0, 1), file)
        known = FolderLog(store, "out", "here").refresh().pipeline("u")
        assert (known.generation, len(known.runs["r1"].done)) == ((2, 0) if fenced else (1, 1))


def test_a_folder_with_foreign_files_is_refused(files: Files) -> None:
    files.write("out/mine.parquet", b"precious")
    target = files.target("out")
    with pytest.raises(Refused, match="no pipeline wrote"):
        target.check(None, (Column("id", "bigint"),))
    assert files.store.get("out/mine.parquet") == b"precious"


@pytest.mark.parametrize(("kind", "name"), [("money", "out"), ("hstore", "out"), ("money[]", "out")])
def test_types_that_files_cannot_store_are_refused_by_name(new_files: Any, kind: str, name: str) -> None:
    with pytest.raises(SchemaMismatch, match="`v`"):
        new_files("files").target(name).check(None, (Column("v", kind),))


def test_nan_is_refused_in_json_lines(export: Make, launchers: Launchers) -> None:
    made = export("files", "replace")
    made.session.execute("CREATE TABLE IF NOT EXISTS nans AS SELECT 1 AS id, 'NaN'::float8 AS secret")
    result = launchers.run(
        task(
            made,
            {"connection": "shop", "object": "public.nans"},
            {"connection": "lake", "object": "out/*.jsonl", "write": "replace"},
            "r1",
        )
    )
    assert result["error"]["code"] == "data.bad"
    assert "`secret` contains NaN" in result["error"]["what"]
    assert made.files.visible("out", "jsonl") == []


def test_two_pipelines_share_a_folder(export: Make, completed: Completed) -> None:
    first, second = export("files", "append"), export("files", "append")
    second.files = first.files
    completed(first.task("r1"))
    order = second.task("r1")
    order["pipeline"]["spec"]["sink"]["object"] = first.target
    completed(order)
    assert len(first.rows()) == 2 * len(first.wanted())
    first.write = "replace"
    completed(first.task("r2"))
    assert first.differences() == {}


# -- the store and the log ---------------------------------------------------------------------------------------------


def test_only_one_of_concurrent_creates_succeeds(files: Files) -> None:
    won: list[list[int]] = [[] for _ in range(25)]

    def create(writer: int) -> None:
        store = files.source("x").store
        for number, winners in enumerate(won):
            if store.create(f"log/{number}", f"{writer}".encode()):
                winners.append(writer)

    threads = [threading.Thread(target=create, args=(writer,)) for writer in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(winners) for winners in won] == [1] * len(won)
    assert [files.store.get(f"log/{number}") for number in range(len(won))] == [f"{one}".encode() for (one,) in won]


def test_an_entry_whose_response_was_lost_is_recognized(files: Files) -> None:
    log = FolderLog(files.store, "out", "here")
    create = files.store.create

    class Lossy:
        """Reports each success as a failure, as a repeated request does."""

        def __getattr__(self, name: str) -> Any:
            return getattr(files.store, name)

        def create(self, path: str, data: bytes, *, folder_exists: bool = False) -> bool:
            create(path, data, folder_exists=folder_exists)
            return False

    log.store = Lossy()
    log.refresh()
    log.append("u", 1, lambda _: ({"do": "claim"},))
    assert (log.table.number, log.table.pipeline("u").generation) == (1, 1)
    assert FolderLog(files.store, "out", "here").refresh().number == 1


def state(store: Any, uid: str = "u") -> FilesState:
    return FilesState(uid, "src", FolderLog(store, "out", "here"), "here", ".parquet")


def claims(store: Any, count: int) -> None:
    one = state(store)
    for number in range(count):
        assert isinstance(one.claim(("00",), f"r{number}"), Claim)


def age(folder: Path, days: int) -> None:
    for path in folder.rglob("*.json"):
        at = (datetime.now(UTC) - timedelta(days=days)).timestamp()  # noqa: TID251 - the file system's own clock
        os.utime(path, (at, at))


def names(folder: Path) -> list[str]:
    return sorted(path.stem.lstrip("0") for path in folder.iterdir())


def test_the_log_is_read_from_its_checkpoints_and_trimmed(tmp_path: Path) -> None:
    store, kept = LocalStore(tmp_path, "here"), tmp_path / "out/_penstock"
    claims(store, 70)
    assert names(kept / "checkpoints") == ["64"]
    age(kept / "log", 8)
    claims(store, 1)
    assert len(names(kept / "log")) == 71  # a reader may not have reached the checkpoint yet
    age(kept, 8)
    claims(store, 1)
    assert (kept / "log" / f"{64:012d}.json").exists()
    assert len(names(kept / "log")) == 72 - 63
    fresh = state(store)
    assert fresh.log.refresh().number == 72
    assert FolderState.of(fresh.log.table.as_dict()).as_dict() == fresh.log.table.as_dict()


@pytest.mark.parametrize("place", ["log/000000000001", "checkpoints/000000000064"])
def test_a_log_with_a_name_twice_is_not_trusted(tmp_path: Path, place: str) -> None:
    store, kept = LocalStore(tmp_path, "here"), tmp_path / "out/_penstock"
    claims(store, 64 if "checkpoints" in place else 1)
    path = kept / f"{place}.json"
    path.write_text(path.read_text().replace('"generation":', '"generation":9,"generation":', 1))
    with pytest.raises(PenstockError, match="it cannot be read"):
        FolderLog(store, "out", "here").refresh()


def test_a_reader_reaches_the_end_while_others_trim(tmp_path: Path) -> None:
    """A reader would take a gap for the end, and write an entry that no one reads."""
    store, kept = LocalStore(tmp_path, "here"), tmp_path / "out/_penstock"
    claims(store, 127)
    age(kept, 8)
    log = FolderLog(store, "out", "here")

    class Slow:
        """Lets others write after the checkpoint was read."""

        def __getattr__(self, name: str) -> Any:
            return getattr(store, name)

        def get(self, path: str) -> bytes:
            data = store.get(path)
            if "checkpoints" in path:
                claims(store, 3)
            return data

    log.store = Slow()
    assert log.refresh().number == 130
    log.append("other", 1, lambda _: ({"do": "claim"},))
    assert FolderLog(store, "out", "here").refresh().pipeline("other").generation == 1


class Hanging:
    """A store on another machine that gets a file and answers no more."""

    remote = True

    def __init__(self, store: Any) -> None:
        self.store, self.hangs, self.released = store, threading.Event(), threading.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)

    def head(self, path: str) -> Any:
        self.hangs.set()
        self.released.wait(30)
        return self.store.head(path)


def stage(store: Any, order: WriterOrder) -> None:
    folder = Folder.parse("out", None, "here")
    with FilesSink.open(store, folder, state(store), order) as sink:
        sink.begin(0, None)
        sink.put(pa.RecordBatch.from_pydict({"id": [1]}))
        sink.commit(OpenSplit(0, "here", rows=1, read=1))


def test_a_sink_that_is_stopped_does_not_wait_for_a_store_that_hangs(tmp_path: Path) -> None:
    store = Hanging(LocalStore(tmp_path, "here"))

    def check() -> None:
        if store.hangs.is_set():
            raise Unavailable("stopped", where="here")

    order = WriterOrder("out", (Column("id", "bigint"),), True, "00", "r1", 1, check, lambda _: None)  # noqa: FBT003 - `arrow` is the third
    began = time.monotonic()
    try:
        with pytest.raises(Unavailable, match="stopped"):
            stage(store, order)
        assert time.monotonic() - began < 10
    finally:
        store.released.set()


def test_a_writer_paused_until_all_was_trimmed_is_refused(tmp_path: Path) -> None:
    store, kept = LocalStore(tmp_path, "here"), tmp_path / "out/_penstock"
    log = FolderLog(store, "out", "here")
    log.append("zombie", 1, lambda _: ({"do": "claim"},))
    claims(store, 70)
    age(kept, 8)
    claims(store, 1)
    assert not (kept / "log" / f"{2:012d}.json").exists()
    log._read_at -= timedelta(days=8)  # as if paused
    with pytest.raises(PenstockError, match="was paused"):
        log.append("zombie", 1, lambda _: ({"do": "plan"},))


def test_an_entry_of_an_older_generation_never_counts(tmp_path: Path) -> None:
    """Even if the newer entry that would block it was trimmed."""
    store = LocalStore(tmp_path, "here")
    old, new = state(store), state(store)
    first = old.claim(("00",), "r1")
    assert isinstance(first, Claim)
    with old.owned(first.generation):
        old.write_plan(RunRow("r1", "replace", None, None, None, Counters()), (Split(0),))
    assert isinstance(new.claim(("00",), "r2"), Claim)
    file = {"path": "x", "rows": 1, "bytes": 1}
    change = {"do": "commit", "run": "r1", "split": 0, "counted": [1, 1, 0, 0, 1], "file": file}
    late = Entry("u", first.generation, "late", (change,))
    table = new.log.refresh()
    assert not table.apply(late)
    assert table.pipeline("u").runs["r1"].done == {}
    with pytest.raises(Fenced):
        old.commit("r1", first.generation, 0, Counters(1, 1, 0, 0, 1), file)


@settings(max_examples=60, deadline=None)
@given(steps=st.lists(st.tuples(st.sampled_from(["claim", "commit", "finish"]), st.integers(0, 2)), max_size=25))
def test_property_only_the_last_claimant_can_write(tmp_path_factory: pytest.TempPathFactory, steps: list[Any]) -> None:
    """Three processes in any order: only the last to claim can write, each split once, and all read the same state."""
    store = LocalStore(tmp_path_factory.mktemp("log"), "here")
    writers = [state(store) for _ in range(3)]
    claimed: dict[int, tuple[int, str]] = {}
    owner, runs, done, rows = -1, 0, 0, 0
    for step, who in steps:
        writer = writers[who]
        if step == "claim":
            runs += 1
            claim = writer.claim(("00",), f"r{runs}")
            assert isinstance(claim, Claim)
            with writer.owned(claim.generation):
                if (older := writer.unfinished(f"r{runs}")) is not None:
                    writer.supersede(older.run, f"r{runs}")
                writer.write_plan(RunRow(f"r{runs}", "replace", None, None, None, Counters()), (Split(0), Split(1)))
            claimed[who], owner, done = (claim.generation, f"r{runs}"), who, 0
        elif who in claimed and step == "commit":
            generation, run = claimed[who]
            file = {"path": f"_penstock/data/u/{run}-{done}", "rows": 1, "bytes": 1}
            if who == owner and done < 2:
                writer.commit(run, generation, done, Counters(1, 1, 0, 0, 1), file)
                done += 1
            else:
                with pytest.raises(Fenced):
                    writer.commit(run, generation, done, Counters(1, 1, 0, 0, 1), file)
        elif who in claimed and step == "finish":
            generation, run = claimed[who]
            if who == owner and done == 2:
                finished(writer, generation, run)
                done, rows = 3, 2
            else:
                with pytest.raises((Fenced, Refused)):
                    finished(writer, generation, run)
    assert len({str(writer.log.refresh().as_dict()) for writer in [*writers, state(store)]}) == 1
    assert len(writers[0].log.table.files) == rows


def finished(writer: FilesState, generation: int, run: str) -> None:
    with publishing(writer, PublishOrder(run, generation, None, (), {}, None), "w") as found:
        if found.ended:
            raise Refused("was finished before")


def test_all_files_that_were_read_are_remembered_and_more_than_that_is_refused() -> None:
    start = datetime(2024, 1, 1, tzinfo=UTC)
    files = [Listed(f"f{n}", 1, start + timedelta(seconds=n), "v") for n in range(MAX_FILES)]
    seen = Seen.parse(Seen().with_files(files, files, "lake").text())
    assert (len(seen.files), seen.upto) == (MAX_FILES, None)
    old = Listed("copied with its old time", 1, start - timedelta(days=9), "v")
    assert all(seen.has(file) for file in files)
    assert not seen.has(old)
    assert seen.changed(Listed(files[-1].path, 2, start, "w"))
    with pytest.raises(Refused, match="more than a cursor on files can remember"):
        seen.with_files([old], [*files, old], "lake")
    moved = seen.with_files([old], [*files[5:], old], "lake")
    assert (len(moved.files), moved.has(old), moved.has(files[5])) == (MAX_FILES - 4, True, True)


# -- failures outside Penstock -----------------------------------------------------------------------------------------


def test_names_in_the_log_do_not_change() -> None:
    """A log outlives the code that wrote it: names in code may change, names in entries may not."""
    row = RunRow("r1", "append", "id", "1", "9", Counters(5, 5), split_key="k")
    entry = row_entry(row)
    assert {"field": "id", "by": "k", "lower": "1", "upper": "9"}.items() <= entry.items()
    assert row_of(entry) == row


def test_a_run_resumes_after_the_store_was_unreachable(
    export: Make, launchers: Launchers, completed: Completed, s3: S3Server
) -> None:
    made = export("s3", "append")
    order = made.task("r1")
    pid = launchers.stopped(order, "commit.before_fence:1")
    s3.stop()
    os.kill(pid, 18)
    assert launchers.wait(pid)["code"] == 1
    s3.start()
    result = json_of(order)
    assert (result["status"], result["error"]["transient"]) == ("failed", True), result
    completed(made.task("r1", attempt=2))
    assert made.differences() == {}


def json_of(order: dict[str, Any]) -> dict[str, Any]:
    import json

    return dict(json.loads(Path(order["result"]).read_text()))


def test_wrong_keys_are_reported_without_the_keys(new_files: Any) -> None:
    files: Files = new_files("s3")
    (files.secrets / "secret").write_text("not-the-secret")
    with pytest.raises(AccessDenied, match="secret key does not belong") as caught:
        list(files.store.list("x"))
    assert "not-the-secret" not in str(caught.value)


def test_an_unreachable_server_is_reported_soon(new_files: Any) -> None:
    files: Files = new_files("s3")
    files.connection["endpoint"] = "http://127.0.0.1:1"
    begin = time.monotonic()
    with pytest.raises(Unavailable, match="cannot be reached"):
        files.store.head("x")
    assert time.monotonic() - begin < 20


def test_a_failed_write_leaves_no_file(new_files: Any) -> None:
    files: Files = new_files("files")
    with pytest.raises(ValueError, match="closed"), files.store.writer("out/x") as stream:
        broken(stream)
    assert list(files.store.list("out")) == []
    assert list((files.root / "out").iterdir()) == []


def broken(stream: Any) -> None:
    stream.write(b"half")
    stream.close()
    stream.write(b"the other half")


def test_reading_needs_constant_memory(tmp_path: Path, new_files: Any) -> None:
    """Three times the rows need no more memory; a row group is never decoded as a whole."""
    from tests.dataflows.connectors.files.conftest import read

    files: Files = new_files("files")
    peaks = []
    for rows in (200_000, 600_000):
        table = pa.table({"id": pa.array(range(rows)), "t": pa.array([f"text {n}" for n in range(rows)])})
        (files.root / "in").mkdir(exist_ok=True)
        pq.write_table(table, files.root / "in" / f"{rows}.parquet", row_group_size=rows)
        del table
        source = files.source(f"in/{rows}.parquet")
        peaks.append(peak_of(source))
    assert peaks[1] < peaks[0] * 1.5 + 2e6, peaks
    assert read(files.source("in/200000.parquet"), ["id"]).num_rows == 200_000


def peak_of(source: Any) -> int:
    """Return the peak memory of Arrow in bytes while a source is read chunk by chunk."""
    from dataflows.connectors.contract import ReadOrder
    from dataflows.data.cursors import Window

    table = source.describe()
    schema = pa.schema([("id", pa.int64()), ("t", pa.string())])
    reader = source.reader(ReadOrder(table, ["id", "t"], None, schema, 65_536, lambda: None))
    before, top = pa.total_allocated_bytes(), 0
    for split in source.plan(table, None, Window(None, None), 100_000, 0):
        for _ in reader.read("00", split):
            top = max(top, pa.total_allocated_bytes() - before)
    return top


@pytest.mark.parametrize("prefix", ["a b", "a+b", "a%20b", "ü/日本", "a#b?c"])
def test_a_prefix_may_have_any_characters(new_files: Callable[[str], Files], prefix: str) -> None:
    files = new_files("s3")
    files.connection["url"] += f"/{prefix}"
    files.write("in/d e+f%20.csv", b"a\n1\n")
    assert [one.path for one in files.store.list("in")] == ["in/d e+f%20.csv"]
    assert read(files.source("in/*.csv")).to_pylist() == [{"a": 1}]


@pytest.mark.parametrize("prefix", ["a//b", "a/../b", "./a", "a\x07b"])
def test_an_invalid_prefix_is_refused_by_validate(prefix: str) -> None:
    with pytest.raises(InvalidDocument, match="url"):
        parse_connection("lake", {"type": "s3", "url": f"s3://lake/{prefix}"})


WRONG = [
    ({"url": "s3://nosuch/x"}, Refused, "no such bucket"),
    ({"access_key": "${file:OTHER}"}, AccessDenied, "does not know the access key"),
    ({"secret_key": "${file:OTHER}"}, AccessDenied, "secret key does not belong"),
    ({"region": "eu-west-1"}, Refused, "another region"),
]


@pytest.mark.parametrize(("change", "kind", "said"), WRONG, ids=range(len(WRONG)))
def test_problems_with_a_bucket_are_reported(
    new_files: Callable[[str], Files], change: dict[str, str], kind: type[PenstockError], said: str
) -> None:
    files = new_files("s3")
    (files.secrets / "other").write_text("another")
    files.connection |= {name: value.replace("OTHER", f"{files.secrets}/other") for name, value in change.items()}
    with pytest.raises(kind, match=said):
        list(files.store.list("in"))
    with pytest.raises(kind, match=said):
        files.store.put("in/a", b"1")


def test_files_outside_the_root_are_never_touched(new_files: Callable[[str], Files], tmp_path: Path) -> None:
    files = new_files("files")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/x.csv").write_bytes(b"a\n1\n")
    (files.root / "in").mkdir()
    (files.root / "in/link.csv").symlink_to(tmp_path / "outside/x.csv")
    (files.root / "folder").symlink_to(tmp_path / "outside")
    for name in ("in/link.csv", "in/*.csv", "folder/x.csv"):
        with pytest.raises(Refused, match="leads out of the connection's root"):
            read(files.source(name))
    for path in ("../outside/x.csv", "folder/x.csv"):
        with pytest.raises(Refused, match="leads out"):
            files.store.delete([path])
        with pytest.raises(Refused, match="leads out"):
            files.store.put(path, b"")
    assert (tmp_path / "outside/x.csv").read_bytes() == b"a\n1\n"
    (files.root / "in/link.csv").unlink()
    (files.root / "real.csv").write_bytes(b"a\n7\n")
    (files.root / "in/near.csv").symlink_to(files.root / "real.csv")
    assert read(files.source("in/*.csv")).to_pylist() == [{"a": 7}]


def test_a_log_that_names_files_outside_its_folder_is_refused(new_files: Callable[[str], Files]) -> None:
    files = new_files("files")
    log = FolderLog(files.store, "out", "here")
    for path in ("../../victim/x", "/etc/x", "a/../../x"):
        with pytest.raises(PenstockError, match="outside the folder"):
            log.at(path)


def test_a_pipe_is_refused_at_once(new_files: Callable[[str], Files]) -> None:
    files = new_files("files")
    os.mkfifo(files.root / "f.csv")
    with pytest.raises(Refused, match="not a regular file"):
        files.source("f.csv").describe()
