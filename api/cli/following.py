"""Follow runs until they end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from shlex import quote

from api.cli.board import Board
from api.cli.results import Result
from api.vigil import Halted
from api.watch import Watch
from catalog.entries import RunEntry
from penstock.errors import PenstockError, error_from_report
from penstock.records.execution import RunProgress

__all__ = ["finish", "follow"]


def follow(watch: Watch, runs: Mapping[str, str], board: Board) -> Iterator[Result]:
    """Follow `runs` (run: pipeline) and show their progress; yield the result of each as it ends.

    Raises:
        Unavailable: the control process has ended.
    """
    for event in watch.follow(runs):
        if isinstance(event, RunProgress):
            board.progress(event)
        elif isinstance(event, RunEntry | Halted):
            yield _result(runs, event)
        else:
            board.note(event)


def finish(watch: Watch, run: str, board: Board) -> RunEntry:
    """Follow one run to its end; return its entry.

    Raises:
        PenstockError: of the kind that the run failed with, or because it cannot continue.
    """
    (result,) = follow(watch, {run: ""}, board)
    if result.entry is None or result.error is not None:
        raise result.error or AssertionError("a run that is followed ends with its entry")
    return result.entry


def _result(runs: Mapping[str, str], event: RunEntry | Halted) -> Result:
    if isinstance(event, Halted):
        return Result(runs[event.run], event.run, error=event.error)
    return Result(runs[event.id], event.id, event, _error(event))


def _error(entry: RunEntry) -> PenstockError | None:
    if entry.status == "completed":
        return None
    hint = f"penstock status {quote(entry.pipeline)}"
    return error_from_report(entry.error or {"code": "refused", "what": f"the run is {entry.status}", "hint": hint})
