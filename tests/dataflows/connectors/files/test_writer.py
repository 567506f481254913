"""The files of splits: staged until a commit names them, and at once in their place if they are a stream's."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from dataflows.connectors.contract import WriterOrder
from dataflows.connectors.files.folder import Folder
from dataflows.connectors.files.log import FolderLog
from dataflows.connectors.files.state import FilesState
from dataflows.connectors.files.store import LocalStore
from dataflows.connectors.files.writer import FilesSink
from dataflows.connectors.state import Claim, RunRow
from dataflows.connectors.writing import OpenSplit
from dataflows.data.counters import Counters
from dataflows.data.positions import Move
from dataflows.data.splits import Split
from dataflows.data.tables import Column
from penstock.errors import Fenced, PenstockError, Unavailable
from penstock.models.formats import CsvFormat, JsonlFormat, ParquetFormat

FORMS: dict[str, Any] = {
    "csv.gz": CsvFormat(type="csv", compression="gzip"), "jsonl": JsonlFormat(type="jsonl"),
    "parquet": ParquetFormat(type="parquet"),
}  # fmt: skip
MOVES = (Move("t/0", "1", "2"),)


class Ends:
    """A folder with a planned run, and a sink of it."""

    def __init__(self, root: Path, form: str = "jsonl") -> None:
        self.root, self.store = root, LocalStore(root, "here")
        self.folder = Folder.parse("out", FORMS[form], "here")
        self.state = self.another()
        self.generation = self.claimed()
        with self.state.owned(self.generation):
            self.state.write_plan(RunRow("r1", "append", None, None, None, Counters()), (Split(0), Split(1)))
            self.state.begin({"t/0": "1"})
        self.checks = 0

    def another(self) -> FilesState:
        return FilesState("u", "src", FolderLog(self.store, "out", "here"), "here", self.folder.ending)

    def claimed(self, run: str = "r1") -> int:
        claim = self.another().claim(("00",), run)
        assert isinstance(claim, Claim)
        return claim.generation

    def check(self) -> None:
        self.checks += 1

    @contextmanager
    def sink(self) -> Iterator[FilesSink]:
        columns = (Column("id", "bigint"),)
        order = WriterOrder("out", columns, True, "00", "r1", self.generation, self.check, lambda _: None)  # noqa: FBT003 - `arrow` is the third
        with FilesSink.open(self.store, self.folder, self.another(), order) as sink:
            yield sink

    def files(self) -> list[str]:
        """Return the folder's files, without those of the log, staged ones in brackets."""
        found = [one for one in (self.root / "out").rglob("*") if one.is_file() and one.suffix != ".json"]
        return sorted(f"({one.name})" if "_penstock" in one.parts else one.name for one in found)


@pytest.fixture
def ends(tmp_path: Path) -> Ends:
    return Ends(tmp_path)


def rows(*ids: int) -> pa.RecordBatch:
    return pa.record_batch({"id": pa.array(ids, pa.int64())})


def test_a_split_is_one_staged_file_that_its_commit_describes(ends: Ends) -> None:
    with ends.sink() as sink:
        sink.begin(0, None)
        for ids in ((1, 2), (), (3,)):
            sink.put(rows(*ids))
        counted = sink.commit(OpenSplit(0, "here", rows=3, read=5, dead=1, bytes=7))
        assert counted == Counters(5, 3, 1, 1, 7)
        sink.begin(1, None)
        sink.put(rows())
        assert sink.commit(OpenSplit(1, "here", rows=0, read=1, dead=1)) == Counters(1, 0, 0, 1, 0)
    (file,) = ends.another().files("r1")
    path = ends.root / "out" / file["path"]
    assert (file["rows"], file["bytes"]) == (3, path.stat().st_size)
    assert path.name == f"r1-000000-{ends.generation}.jsonl"
    assert path.read_text() == '{"id":1}\n{"id":2}\n{"id":3}\n'
    assert ends.another().pending("r1") == ((), 2)
    assert ends.files() == [f"({path.name})"]


@pytest.mark.parametrize("form", FORMS)
def test_a_file_is_whole_in_each_format(tmp_path: Path, form: str) -> None:
    ends = Ends(tmp_path, form)
    with ends.sink() as sink:
        for number in (0, 1):
            sink.begin(number, None)
            sink.put(rows(7, 8))
            sink.commit(OpenSplit(number, "here", rows=2, read=2))
    first, second = [(tmp_path / "out" / one["path"]) for one in ends.another().files("r1")]
    assert first.read_bytes() == second.read_bytes()
    if form == "csv.gz":
        assert gzip.decompress(first.read_bytes()) == b'"id"\n7\n8\n'
    elif form == "parquet":
        import pyarrow.parquet as pq

        assert pq.read_table(first).to_pydict() == {"id": [7, 8]}


def test_what_is_not_committed_leaves_no_file(ends: Ends) -> None:
    with pytest.raises(PenstockError, match="does not add up"), ends.sink() as sink:  # noqa: PT012 - it fails at the end
        sink.begin(0, None)
        sink.put(rows(1))
        sink.commit(OpenSplit(0, "here", rows=2, read=2))
    left = ends.files()
    with ends.sink() as sink:
        sink.begin(0, None)
        sink.put(rows(1))
    assert ends.files() == left, "of the first, what its commit had closed; of this one nothing"
    assert ends.another().pending("r1")[0] == (Split(0), Split(1))
    ends.generation = ends.claimed("r2")
    ends.generation -= 1
    with pytest.raises(Fenced), ends.sink() as sink:  # noqa: PT012 - as above
        sink.begin(0, None)
        sink.put(rows(1))
        sink.commit(OpenSplit(0, "here", rows=1, read=1))


def test_a_split_of_a_stream_is_in_its_place_at_once(ends: Ends) -> None:
    with ends.sink() as sink:
        sink.begin(1, None)
        sink.put(rows(1, 2))
        assert sink.commit(OpenSplit(1, "here", rows=2, read=2, moves=MOVES)) == Counters(2, 2, 0, 0, 0)
        table = ends.another().current()
        assert ends.files() == [one["path"] for one in table.files] == [f"part-u-r1-000001-{ends.generation}.jsonl"]
        assert ends.another().positions() == {"t/0": "2"}
        sink.begin(2, None)
        sink.commit(OpenSplit(2, "here", rows=0, read=0, moves=(Move("t/0", "2", "3"),)))
    assert (ends.another().positions(), ends.another().last_split()) == ({"t/0": "3"}, 2)
    assert len(ends.files()) == len(ends.another().current().files) == 1
    assert ends.checks == 8, "before each request"


@pytest.mark.parametrize("with_rows", [True, False])
def test_a_split_that_another_run_has_moved_leaves_no_file_in_the_folder(ends: Ends, with_rows: bool) -> None:
    ids = (1,) if with_rows else ()
    with pytest.raises(Fenced, match="moved by another run"), ends.sink() as sink:  # noqa: PT012 - it fails at the end
        sink.begin(1, None)
        sink.put(rows(*ids))
        sink.commit(OpenSplit(1, "here", rows=len(ids), read=len(ids), moves=(Move("t/0", "0", "2"),)))
    assert [one for one in ends.files() if not one.startswith("(")] == []
    assert ends.another().positions() == {"t/0": "1"}


@pytest.mark.parametrize("fenced", [True, False])
def test_a_staged_file_that_is_gone_was_swept_by_a_newer_run_or_with_the_folder(ends: Ends, fenced: bool) -> None:
    with pytest.raises(Fenced if fenced else Unavailable) as found, ends.sink() as sink:  # noqa: PT012 - as above
        sink.begin(1, None)
        sink.put(rows(1))
        file = sink._close_file()
        assert file is not None
        (ends.root / "out" / file["path"]).unlink()
        if fenced:
            ends.claimed("r2")
        sink._move(OpenSplit(1, "here", rows=1, read=1, moves=MOVES), Counters(1, 1), file)
    assert fenced or "deleted or emptied" in str(found.value)
