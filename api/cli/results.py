"""Result of a run: a line for people, and a document for machines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from api.cli.console import escape, plain
from penstock.errors import PenstockError

if TYPE_CHECKING:
    from catalog.entries import RunEntry

__all__ = ["Result"]


@dataclass(frozen=True, slots=True)
class Result:
    """Result of a run that was asked for: its entry once it has ended, and the error if it did not complete."""

    pipeline: str
    run: str | None = None
    entry: RunEntry | None = None
    error: PenstockError | None = None

    @property
    def line(self) -> str:
        """The result for people."""
        if self.error is not None:
            text = str(self.error).removeprefix("pipeline ").removeprefix(f"{self.pipeline}: ")
            return f"{escape(self.pipeline)}: [red]failed:[/red] {escape(text)}"
        if self.entry is None:
            return f"{escape(self.pipeline)}: run {self.run} is asked for"
        seconds, rows = sum((self.entry.seconds or {}).values()), self.entry.counters.get("rows_out", 0)
        rate = f", {rows / seconds:,.0f} rows/s" if seconds and rows else ""
        notes = "".join(f"\n  [yellow]note:[/yellow] {escape(note)}" for note in self.entry.notes or ())
        letters = f", [yellow]{count:,} dead letter{'s' * (count > 1)}[/yellow]" if (count := self.dead) else ""
        return f"{escape(self.pipeline)}: {rows:,} rows{letters} in {seconds:.1f} s{rate}{notes}"

    @property
    def dead(self) -> int:
        """How many rows went to the dead letters."""
        return 0 if self.entry is None else self.entry.counters.get("dead", 0)

    def to_dict(self) -> dict[str, Any]:
        """Return the entry of the run; before it has one, its id, pipeline and status."""
        if self.entry is not None:
            found: dict[str, Any] = plain(self.entry)
            return found
        error = self.error and {name: getattr(self.error, name) for name in ("code", "what", "where", "hint")}
        status = "queued" if error is None else "failed"
        return {"id": self.run, "pipeline": self.pipeline, "status": status, "error": error}
