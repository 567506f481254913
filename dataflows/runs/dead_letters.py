"""Store refused rows as dead letters, durably, before the split that they come from is committed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import pyarrow as pa

from dataflows.connectors.contract import Writer
from dataflows.connectors.isolation import RowRefused
from dataflows.data.chunks import Chunk
from dataflows.runs.overtaking import Overtaking

if TYPE_CHECKING:
    from catalog.letters import DeadLetters, Letter

__all__ = ["LetterBox", "LetterWriter"]

TRIES: Final = 20
"""Attempts to commit a split next to a stream that changes the same rows."""


@dataclass(slots=True)
class LetterBox:
    """Dead letters of a run; their session is opened when the first row is refused."""

    connect: Callable[[], DeadLetters]
    token: str
    run: str
    overtaking: Overtaking | None = None
    """Of a stream of changes: what it says of letters."""
    _letters: DeadLetters | None = field(default=None, init=False)

    @property
    def letters(self) -> DeadLetters:
        """The session."""
        self._letters = self._letters or self.connect()
        return self._letters

    def put(self, split: int, refused: pa.RecordBatch | pa.Table, *, instead: bool = False) -> None:
        """Store the refused rows of a split; `instead` replaces those it has.

        Raises:
            Fenced: another process has taken over the pipeline's letters.
        """
        found: Iterable[Letter] = letters_of(refused)
        if self.overtaking is not None:
            found = self.overtaking.described(split, list(found), instead=instead)
        self.letters.put(self.token, self.run, split, found, instead=instead)

    def close(self) -> None:
        """End the session."""
        if self._letters is not None:
            self._letters.close()
            self._letters = None


@dataclass(slots=True)
class LetterWriter:
    """Writer that stores the refused rows of a chunk, then passes the chunk on to `inner`.

    If the target refuses a row, its split is written again by `rewrite`, without such rows: at once, or, if only what
    has come here can be given once more (`complete`), after its marker has come. So is one with a change that has to be
    set aside, and one that was overtaken by a stream that writes the same rows.
    """

    inner: Writer
    box: LetterBox
    rewrite: Callable[[int, RowRefused], None]
    complete: bool = False
    _split: int = field(default=-1, init=False)
    _refused: RowRefused | None = field(default=None, init=False)
    """The first refusal of the current split, if it is not written again yet."""
    _written: bool = field(default=False, init=False)
    """True if the current split is already written, so that its remaining chunks are skipped."""

    def open(self) -> None:
        """Open the writer."""
        self.inner.open()

    def write(self, chunk: Chunk) -> None:
        """Store the chunk's refused rows, then write it.

        Raises:
            Fenced: another process has taken over the pipeline's letters.
        """
        self._split, overtaking = chunk.split, self.box.overtaking
        if overtaking is not None and chunk.sequence == 0:
            self._begin(overtaking, chunk.split)
        if not self._written:
            if self._refused is None:
                if chunk.refused is not None and chunk.refused.num_rows:
                    self.box.put(chunk.split, chunk.refused)
                if overtaking is not None and chunk.last:
                    overtaking.ends(chunk.split)
                self._try(lambda: self.inner.write(chunk))
            self._rewrite(now=chunk.last or not self.complete)
        self._written &= not chunk.last
        if overtaking is not None and chunk.last:
            overtaking.committed()

    def _begin(self, overtaking: Overtaking, split: int) -> None:
        """Begin a split of changes."""
        if (error := overtaking.begun(split)) is not None:
            self.inner.close()
            self._refused = error

    def _try(self, work: Callable[[], None]) -> None:
        """Do `work`; if it reveals a refused row, drop what is written of the split."""
        try:
            work()
        except RowRefused as error:
            self.inner.close()
            self._refused = error

    def _rewrite(self, *, now: bool) -> None:
        """Write the split again if a row of it was refused."""
        if self._refused is not None and now:
            error, self._refused = self._refused, None
            self._rewritten(error)
            self.inner.open()
            self._written = True

    def _rewritten(self, error: RowRefused) -> None:
        """Write the split again, and once more if a stream has overtaken it meanwhile."""
        for _ in range(TRIES):
            try:
                self.rewrite(self._split, error)
            except RowRefused as again:
                if again.state != "overtaken":
                    raise
                error = again
            else:
                return
        raise error

    def idle(self) -> None:
        """Let the writer check its session."""
        if self._refused is None:
            self._try(self.inner.idle)
        self._rewrite(now=not self.complete)

    def done(self) -> None:
        """Let the writer check that no split is open."""
        self.inner.done()

    def close(self) -> None:
        """Close both sessions."""
        try:
            self.inner.close()
        finally:
            self.box.close()


def letters_of(refused: pa.RecordBatch | pa.Table) -> Iterator[Letter]:
    """Yield a letter for each refused row."""
    columns = [refused.column(name).to_pylist() for name in ("row", "step", "code", "reason", "values")]
    from catalog.letters import Letter

    for row, step, code, reason, values in zip(*columns, strict=True):
        yield Letter(row, step, code, reason, values)
