"""Output of a command: tables and sentences for people, JSON for machines, and a `next:` hint at the end."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, is_dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, TextIO

from penstock.clock import now
from penstock.errors import InvalidDocument, PenstockError

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "Output",
    "ago",
    "ahead",
    "clipped",
    "counted",
    "error_line",
    "escape",
    "hinted_line",
    "length",
    "plain",
    "seconds",
    "size",
    "stopped_by_hand",
    "visible",
]


_UNSAFE: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff"
    "\U000e0000-\U000e007f]"
)
_MARKUP: Final = frozenset("[\\")
"""Characters without which a text has no markup."""
PIPE_WIDTH: Final = 10_000
"""Columns of a pipe: a table in it is never folded."""


class Output:
    """Standard output and error of one command: colours only on a terminal; with `as_json`, JSON documents."""

    def __init__(self, *, as_json: bool = False) -> None:
        self.as_json = as_json

    @cached_property
    def console(self) -> Console:
        """Standard output."""
        return _console(sys.stdout)

    @cached_property
    def errors(self) -> Console:
        """Standard error."""
        return _console(sys.stderr)

    @property
    def is_terminal(self) -> bool:
        """True if what is printed may be redrawn, and have colours."""
        return not _is_plain(sys.stdout) and self.console.is_terminal

    def say(self, text: str) -> None:
        """Print a sentence for people."""
        if self.as_json:
            return
        if _is_plain(sys.stdout) and not _MARKUP & {*text}:
            print(visible(text), flush=True)
        else:
            self.console.print(visible(text))

    def data(self, value: Any) -> None:
        """Print a document for machines."""
        if self.as_json:
            sys.stdout.write(json.dumps(plain(value), ensure_ascii=sys.stdout.isatty()) + "\n")
            sys.stdout.flush()

    def table(
        self, columns: Sequence[str], rows: Sequence[Sequence[object]], *, empty: str, title: str | None = None
    ) -> None:
        """Print a table for people, or `empty` if there are no rows."""
        if self.as_json:
            return
        if not rows:
            self.console.print(empty)
            return
        header = [_cell(column.removeprefix("#")) for column in columns]
        to_the_right = [column.startswith("#") for column in columns]
        cells = [["" if cell is None else _cell(str(cell)) for cell in row] for row in rows]
        if _is_plain(sys.stdout):
            above = [] if title is None else [visible(title)]
            print(*above, *_lines(to_the_right, [header, *cells]), sep="\n", flush=True)
            return
        from rich.table import Table

        table = Table(
            title=None if title is None else escape(title),
            title_justify="left",
            box=None,
            pad_edge=False,
            header_style="bold",
        )
        for name, right in zip(header, to_the_right, strict=True):
            table.add_column(escape(name), justify="right" if right else "left", overflow="fold")
        for row_cells in cells:
            table.add_row(*(escape(cell) for cell in row_cells))
        self.console.print(table)

    @contextmanager
    def progress(self, what: str, total: int) -> Iterator[Callable[[int], None]]:
        """Show a bar while something long is done, if standard error is a terminal; yield what learns how far it is."""
        if _is_plain(sys.stderr) or not self.errors.is_terminal:
            yield lambda _: None
            return
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=self.errors, transient=True) as shown:
            task = shown.add_task(what, total=total)
            yield lambda done: shown.update(task, completed=done)

    def hint(self, text: str) -> None:
        """Print the next step."""
        if self.as_json:
            return
        if _is_plain(sys.stdout):
            print(f"next: {visible(text)}", flush=True)
        else:
            self.console.print(f"[dim]next: {escape(text)}[/dim]")

    def failed(self, error: PenstockError) -> None:
        """Print the error, a line for each issue; for machines as JSON on standard output."""
        if self.as_json:
            issues = (
                [{"path": i.path, "message": i.message} for i in error.issues]
                if isinstance(error, InvalidDocument)
                else []
            )
            document = {
                "code": error.code,
                "what": error.what,
                "where": error.where,
                "value": error.value,
                "hint": error.hint,
                "issues": issues,
                "notes": list(getattr(error, "__notes__", ())),
            }
            sys.stdout.write(json.dumps({"error": document}, ensure_ascii=sys.stdout.isatty(), default=str) + "\n")
            return
        lines = [str(issue) for issue in error.issues] if isinstance(error, InvalidDocument) else [_without_hint(error)]
        for line in lines:
            self.errors.print(f"[red]error:[/red] {escape(line)}")
        for note in getattr(error, "__notes__", ()):
            self.errors.print(f"[yellow]note:[/yellow] {escape(note)}")
        if error.hint:
            self.errors.print(f"[dim]next: {escape(error.hint)}[/dim]")


def _is_plain(stream: TextIO) -> bool:
    """True if nothing asks for colours: then Rich, which takes 50 ms to load, is not needed."""
    return not (stream.isatty() or os.environ.get("FORCE_COLOR") or os.environ.get("TTY_COMPATIBLE"))


def _lines(to_the_right: Sequence[bool], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Return the lines of a table as text, its columns two spaces apart."""
    widths = [max(map(_width, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        gaps = [" " * (width - _width(cell)) for width, cell in zip(widths, row, strict=True)]
        parts = (gap + cell if right else cell + gap for gap, cell, right in zip(gaps, row, to_the_right, strict=True))
        yield "  ".join(parts).rstrip()


def _width(text: str) -> int:
    """Return how many columns of a terminal it takes: some characters take two, some none."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def _console(stream: TextIO) -> Console:
    from rich.console import Console

    return Console(file=stream, highlight=False, soft_wrap=True, width=None if stream.isatty() else PIPE_WIDTH)


@contextmanager
def stopped_by_hand() -> Iterator[None]:
    """End the block quietly on Ctrl-C."""
    with suppress(KeyboardInterrupt):
        yield


def escape(text: str) -> str:
    """Return `text` without meaning as markup or to a terminal; see `visible`."""
    if not _MARKUP & {*text}:
        return visible(text)
    from rich.markup import escape

    return escape(visible(text))


def visible(text: str) -> str:
    r"""Return `text` with control characters, and those that change its direction, as ``\x1b`` or ``\u202e``.

    Breaks of lines and tabs stay.
    """
    return _UNSAFE.sub(lambda found: found[0].encode("unicode_escape", "surrogatepass").decode(), text)


def _cell(text: str) -> str:
    """Return `text` in one line."""
    return visible(text.replace("\n", "\\n").replace("\t", "\\t"))


def _without_hint(error: PenstockError) -> str:
    text = str(error)
    return text.removesuffix(f"; {error.hint}") if error.hint else text


def plain(value: Any) -> Any:  # noqa: PLR0911 - a case a line
    """Return `value` as JSON types: dataclasses and models as objects, times in ISO 8601."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if hasattr(value, "to_dict"):
        return value.to_dict()
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set):
        return [plain(inner) for inner in value]
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def ago(at: datetime | None) -> str:
    """Return ``3 min ago``; nothing for None."""
    if at is None:
        return ""
    gone = (now() - at).total_seconds()
    for size, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if gone >= size:
            return f"{int(gone // size)} {name} ago"
    return f"{max(0, int(gone))} s ago"


def ahead(at: datetime | None) -> str:
    """Return ``in 3 min``; ``now`` for a time that has come, nothing for None."""
    if at is None:
        return ""
    left = (at - now()).total_seconds()
    for size, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if left >= size:
            return f"in {int(left // size)} {name}"
    return f"in {int(left)} s" if left >= 1 else "now"


def size(count: int) -> str:
    """Return ``4.7 MB``."""
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if count >= unit:
            return f"{count / unit:,.1f} {name}"
    return f"{count} B"


def counted(count: int, noun: str) -> str:
    """Return ``1 object`` or ``2,000 objects``."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def clipped(text: str, width: int) -> str:
    """Return `text`, cut to `width` characters if it is longer."""
    return text if len(text) <= width else text[: width - 1] + "…"


def length(taken: float) -> str:
    """Return ``7.7 s``, ``18 min``, ``5.2 h``, ``3.0 d``: a duration in the unit that suits it."""
    for unit, name in ((172800, "d"), (7200, "h"), (120, "min")):
        if taken >= unit:
            return f"{taken / {'d': 86400, 'h': 3600, 'min': 60}[name]:.1f} {name}"
    return f"{taken:.1f} s"


def error_line(error: Mapping[str, Any]) -> str:
    """Return a recorded error in a line: where, and what."""
    return f"{error['where']}: {error['what']}" if error.get("where") else str(error.get("what", ""))


def hinted_line(error: Mapping[str, Any]) -> str:
    """Return a recorded error in a line, with its hint."""
    hint = error.get("hint")
    return error_line(error) + (f"; {hint}" if hint else "")


def seconds(begin: datetime | None, end: datetime | None) -> str:
    """Return ``4.2 s`` between two moments."""
    return f"{(end - begin).total_seconds():.1f} s" if begin and end else ""
