"""Progress of runs: on a terminal one table with a line for each running one, elsewhere a line a phase."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from api.cli.console import Output, escape
from api.cli.results import Result
from api.vigil import Waiting
from penstock.records.execution import RunProgress, TaskFailed

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

__all__ = ["Board", "board"]


class Board:
    """Shows no progress, for machines and without --watch; the base of the others. `names` maps runs to pipelines."""

    def __init__(self, output: Output, names: Mapping[str, str]) -> None:
        self._output, self._names = output, names

    def progress(self, progress: RunProgress) -> None:
        """Show how far a run is."""

    def note(self, event: TaskFailed | Waiting) -> None:
        """Print what a run waits for, or an attempt that failed and may be repeated."""
        name = self._names.get(event.run or "", "")
        lead = f"{name}: " if name and len(self._names) > 1 else ""
        if isinstance(event, Waiting):
            self.say(f"[yellow]![/yellow] {escape(lead + event.what)}")
        elif event.error.transient:
            where = f"{event.error.where}: " if event.error.where else ""
            self.say(f"[yellow]![/yellow] {escape(f'{lead}attempt {event.attempt} failed: {where}{event.error.what}')}")

    def end(self, result: Result) -> None:
        """Print the result of a run that has ended or was refused."""
        self.say(result.line)

    def say(self, line: str) -> None:
        """Print a line for people."""
        self._output.say(line)


class _Lines(Board):
    """Prints a line at each phase of each run."""

    def __init__(self, output: Output, names: Mapping[str, str]) -> None:
        super().__init__(output, names)
        self._phases: dict[str, str] = {}

    def progress(self, progress: RunProgress) -> None:
        if self._phases.get(progress.run) != progress.phase:
            self._phases[progress.run] = progress.phase
            self.say(f"  {progress.pipeline}: {progress.phase}, {progress.rows_out:,} rows")


class _Table(Board):
    """Shows a bar, rows, rate and time left for each run at work; results are printed above."""

    def __init__(self, output: Output, names: Mapping[str, str], progress: Progress) -> None:
        super().__init__(output, names)
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}
        total = len(names)
        self._all = progress.add_task(f"{total} runs", total=total, rows=0, rate=0.0) if total > 1 else None
        self._rows: dict[str, int] = {}

    def progress(self, progress: RunProgress) -> None:
        task = self._tasks.get(progress.run)
        if task is None:
            task = self._tasks[progress.run] = self._progress.add_task(progress.pipeline, rows=0, rate=0.0)
        total = max(progress.estimate or 0, progress.rows_in) or None
        self._progress.update(task, total=total, completed=progress.rows_in, rows=progress.rows_in)
        speed = next((one.speed for one in self._progress.tasks if one.id == task), None)
        self._progress.update(task, rate=speed or 0.0, description=f"{progress.pipeline} ({progress.phase})")
        self._rows[progress.run] = progress.rows_in
        if self._all is not None:
            self._progress.update(self._all, rows=sum(self._rows.values()))

    def end(self, result: Result) -> None:
        if result.run in self._tasks:
            self._progress.remove_task(self._tasks.pop(result.run))
        if self._all is not None and result.run in self._names:
            self._progress.advance(self._all)
        super().end(result)


@contextmanager
def board(output: Output, names: Mapping[str, str], *, shown: bool = True) -> Iterator[Board]:
    """Open a board for the runs of `names` (run: pipeline); at the end only its lines stay."""
    if not shown or output.as_json:
        yield Board(output, names)
    elif not output.is_terminal:
        yield _Lines(output, names)
    else:
        with _table(output) as progress:
            yield _Table(output, names, progress)


def _table(output: Output) -> Progress:
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[rows]:>12,} rows"),
        TextColumn("{task.fields[rate]:>9,.0f}/s"),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=output.console, transient=True)
