"""Files of a folder that Penstock writes to, and the state of its pipelines: plain data, folded from log entries.

An entry is one atomic step of a writer: a claim, a plan, the commit of a split, the end of a run. It counts only if its
generation was the pipeline's latest when it was written; every reader skips other entries, so that even an entry
written by mistake changes nothing.

The rows of a run become visible in the folder all at once, by its `finish` entry; until then its files are staged. A
stream's rows become visible with each commit, whose entry moves the stream's positions too.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Final
from urllib.parse import quote

from dataflows.connectors.state import RunRow
from dataflows.data.counters import COUNTED, Counters

__all__ = [
    "STAGED",
    "Change",
    "Entry",
    "FolderState",
    "Pipeline",
    "StoredRun",
    "published",
    "row_entry",
    "row_of",
    "staged",
]

VERSION: Final = 1
MAX_ENDED_RUNS: Final = 100
STAGED: Final = "_penstock/data/"
Change = dict[str, Any]
"""One change of an entry, as JSON; its key `do` names the kind."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One atomic step of a writer; by the unique `token` the writer recognizes its own entry."""

    uid: str
    generation: int
    token: str
    changes: tuple[Change, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the entry as JSON."""
        return {
            "v": VERSION,
            "uid": self.uid,
            "generation": self.generation,
            "token": self.token,
            "changes": list(self.changes),
        }

    @classmethod
    def of(cls, data: dict[str, Any]) -> Entry:
        """Parse the JSON of `as_dict`."""
        return cls(data["uid"], data["generation"], data["token"], tuple(data["changes"]))


def staged(uid: str, run: str, split: int, generation: int, ending: str) -> str:
    """Return the path of a split's file until its run is published.

    The name contains the generation, so that a process that was taken for dead cannot overwrite a file that its
    successor has committed.
    """
    return f"{STAGED}{uid}/{quote(run, safe='')}-{split:06d}-{generation}{ending}"


def published(path: str) -> str:
    """Return the path of a staged file once its run is published, next to the folder's other files."""
    uid, _, name = path.removeprefix(STAGED).partition("/")
    return f"part-{uid}-{name}"


_ENTRY_NAMES: Final = {"cursor": "field", "split_key": "by"}
"""Fields of a run with other names in the log: logs outlive the code that wrote them."""
_ROW_NAMES: Final = {entry: name for name, entry in _ENTRY_NAMES.items()}


def row_entry(row: RunRow) -> dict[str, Any]:
    """Return a run as stored in the log."""
    return {_ENTRY_NAMES.get(name, name): value for name, value in asdict(row).items()}


def row_of(entry: dict[str, Any]) -> RunRow:
    """Parse a run stored in the log."""
    named = {_ROW_NAMES.get(name, name): value for name, value in entry.items()}
    return RunRow(**{**named, "base": Counters(**entry["base"])})


@dataclass(slots=True)
class StoredRun:
    """A run. `splits` maps numbers to bounds; `done` maps finished ones to their staged file, None without rows."""

    source: str
    row: RunRow
    splits: dict[int, list[Any]] = field(default_factory=dict)
    done: dict[int, dict[str, Any] | None] = field(default_factory=dict)

    @property
    def files(self) -> list[dict[str, Any]]:
        """Staged files of the finished splits."""
        return [one for _, one in sorted(self.done.items()) if one is not None]

    def as_dict(self) -> dict[str, Any]:
        """Return it as stored in a checkpoint."""
        done = {str(number): one for number, one in self.done.items()}
        splits = {str(number): bounds for number, bounds in self.splits.items()}
        return {"source": self.source, "row": row_entry(self.row), "splits": splits, "done": done}

    @classmethod
    def of(cls, data: dict[str, Any]) -> StoredRun:
        """Parse the JSON of `as_dict`."""
        row = row_of(data["row"])
        splits = {int(number): bounds for number, bounds in data["splits"].items()}
        return cls(data["source"], row, splits, {int(number): one for number, one in data["done"].items()})


@dataclass(slots=True)
class Pipeline:
    """State of one pipeline; `sources` has, for each source object, how its rows were loaded, and counters.

    For a stream it also has `positions`, by partition, and `split`, the number of the last committed split.
    """

    generation: int = 0
    dropped: bool = False
    sources: dict[str, dict[str, Any]] = field(default_factory=dict)
    runs: dict[str, StoredRun] = field(default_factory=dict)

    def source(self, name: str) -> dict[str, Any]:
        """Return the state of a source object."""
        return self.sources.get(name) or {**_NOT_LOADED, "counters": [0] * len(COUNTED)}


_NOT_LOADED: Final = {"write": None, "field": None, "cursor": None}


@dataclass(slots=True)
class FolderState:
    """A folder after `number` entries. `files` have its rows; `replaced` files had older ones, and may still exist."""

    number: int = 0
    columns: list[dict[str, Any]] | None = None
    ending: str | None = None
    files: list[dict[str, Any]] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    pipelines: dict[str, Pipeline] = field(default_factory=dict)

    def pipeline(self, uid: str) -> Pipeline:
        """Return the pipeline of that id."""
        return self.pipelines.setdefault(uid, Pipeline())

    def apply(self, entry: Entry) -> bool:
        """Apply the next entry; return True if it counted."""
        self.number += 1
        pipeline = self.pipeline(entry.uid)
        claims = any(change["do"] == "claim" for change in entry.changes)
        if pipeline.dropped or entry.generation != pipeline.generation + claims:
            return False
        for change in entry.changes:
            _CHANGES[change["do"]](self, pipeline, entry, change)
        return True

    def is_as_made(self, uid: str) -> bool:
        """True if the folder has columns and no rows, not even staged ones, and only this pipeline uses it."""
        ours = self.pipeline(uid).runs.values()
        others = any(not one.dropped for other, one in self.pipelines.items() if other != uid)
        return self.columns is not None and not (self.files or others or any(one.done for one in ours))

    def referenced(self, uid: str) -> set[str]:
        """Return all paths of the pipeline's files that are or may become part of the folder, staged or published."""
        files = [one["path"] for run in self.pipeline(uid).runs.values() if not run.row.ended for one in run.files]
        return {*files, *map(published, files), *(one["path"] for one in self.files)}

    def as_dict(self) -> dict[str, Any]:
        """Return it as stored in a checkpoint."""
        pipelines = {
            uid: {
                "generation": one.generation,
                "dropped": one.dropped,
                "sources": one.sources,
                "runs": {run: stored.as_dict() for run, stored in one.runs.items()},
            }
            for uid, one in self.pipelines.items()
        }
        return {
            "v": VERSION,
            "number": self.number,
            "columns": self.columns,
            "ending": self.ending,
            "files": self.files,
            "replaced": self.replaced,
            "pipelines": pipelines,
        }

    @classmethod
    def of(cls, data: dict[str, Any]) -> FolderState:
        """Parse the JSON of `as_dict`."""
        pipelines = {
            uid: Pipeline(
                one["generation"],
                one["dropped"],
                one["sources"],
                {run: StoredRun.of(stored) for run, stored in one["runs"].items()},
            )
            for uid, one in data["pipelines"].items()
        }
        return cls(data["number"], data["columns"], data["ending"], data["files"], data["replaced"], pipelines)


def _make(table: FolderState, _: Pipeline, __: Entry, change: Change) -> None:
    if table.columns is None:
        table.columns, table.ending = change["columns"], change["ending"]


def _unmake(table: FolderState, _: Pipeline, __: Entry, ___: Change) -> None:
    if not table.files:
        table.columns, table.ending = None, None


def _claim(_: FolderState, pipeline: Pipeline, entry: Entry, __: Change) -> None:
    pipeline.generation = entry.generation


def _plan(_: FolderState, pipeline: Pipeline, __: Entry, change: Change) -> None:
    row = row_of(change["row"])
    splits = {number: [lower, upper] for number, lower, upper in change["splits"]}
    pipeline.runs[row.run] = StoredRun(change["source"], row, splits)


def _take_over(table: FolderState, pipeline: Pipeline, entry: Entry, change: Change) -> None:
    older, run = pipeline.runs[change["older"]], pipeline.runs[change["run"]]
    run.splits |= older.splits
    run.done |= older.done
    _supersede(table, pipeline, entry, change)


def _supersede(_: FolderState, pipeline: Pipeline, __: Entry, change: Change) -> None:
    older = pipeline.runs[change["older"]]
    row = older.row
    ended = RunRow(row.run, row.write, row.cursor, row.lower, row.upper, row.base, "superseded", None, change["run"])
    pipeline.runs[row.run] = StoredRun(older.source, ended)


def _forget(_: FolderState, pipeline: Pipeline, __: Entry, change: Change) -> None:
    pipeline.runs.pop(change["run"], None)


def _commit(_: FolderState, pipeline: Pipeline, __: Entry, change: Change) -> None:
    run = pipeline.runs.get(change["run"])
    if run is None or run.row.ended or change["split"] not in run.splits or change["split"] in run.done:
        return
    run.done[change["split"]] = change["file"]
    source = pipeline.source(run.source)
    counters = [have + more for have, more in zip(source["counters"], change["counted"], strict=True)]
    pipeline.sources[run.source] = {**source, "counters": counters}


def _begin(_: FolderState, pipeline: Pipeline, __: Entry, change: Change) -> None:
    source = pipeline.source(change["source"])
    known = {} if change["anew"] else source.get("positions", {})
    pipeline.sources[change["source"]] = {**source, "positions": change["positions"] | known}


def _move(table: FolderState, pipeline: Pipeline, _: Entry, change: Change) -> None:
    run = pipeline.runs.get(change["run"])
    source = pipeline.source(run.source) if run is not None else {}
    positions = dict(source.get("positions", {}))
    if run is None or run.row.ended or any(positions.get(part) != start for part, start, _ in change["moves"]):
        return
    positions |= {part: end for part, _, end in change["moves"]}
    counters = [have + more for have, more in zip(source["counters"], change["counted"], strict=True)]
    pipeline.sources[run.source] = {
        **source,
        "counters": counters,
        "positions": positions,
        "split": change["split"],
    }
    table.files += [change["file"]] if change["file"] is not None else []


def _finish(table: FolderState, pipeline: Pipeline, _: Entry, change: Change) -> None:
    run = pipeline.runs[change["run"]]
    row, cursor = run.row, change["cursor"]
    files = [one | {"path": published(one["path"])} for one in run.files]
    if row.write == "replace":
        table.replaced += [one["path"] for one in table.files]
        table.files, table.ending = files, change["ending"]
    else:
        table.files += files
    if row.write == "replace" or cursor is not None:
        loaded = {"write": row.write, "field": row.cursor, "cursor": cursor}
        pipeline.sources[run.source] = pipeline.source(run.source) | loaded
    ended = RunRow(row.run, row.write, row.cursor, row.lower, row.upper, row.base, "finished", change["result"])
    del pipeline.runs[row.run]
    pipeline.runs[row.run] = StoredRun(run.source, ended)
    over = [name for name, one in pipeline.runs.items() if one.row.ended][:-MAX_ENDED_RUNS]
    for name in over:
        del pipeline.runs[name]


def _swept(table: FolderState, _: Pipeline, __: Entry, change: Change) -> None:
    gone = set(change["paths"])
    table.replaced = [path for path in table.replaced if path not in gone]


def _drop(table: FolderState, pipeline: Pipeline, _: Entry, change: Change) -> None:
    pipeline.dropped, pipeline.sources, pipeline.runs = True, {}, {}
    if change["table"]:
        table.replaced += [one["path"] for one in table.files]
        table.files, table.columns, table.ending = [], None, None


_CHANGES: Final = {
    "make": _make, "claim": _claim, "plan": _plan, "take_over": _take_over, "supersede": _supersede, "forget": _forget,
    "commit": _commit, "finish": _finish, "swept": _swept, "drop": _drop,
    "begin": _begin, "move": _move, "unmake": _unmake,
}  # fmt: skip
