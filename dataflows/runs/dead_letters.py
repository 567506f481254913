"""Rows that a step refused, on their way to the dead letters: durable before the split that they come from is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pyarrow as pa

from dataflows.connectors.contract import Writer
from dataflows.data.chunks import Chunk

if TYPE_CHECKING:
    from catalog.letters import DeadLetters, Letter

__all__ = ["LetterWriter"]


@dataclass(slots=True)
class LetterWriter:
    """A writer that keeps the refused rows of a chunk before it hands the chunk on to `inner`."""

    inner: Writer
    connect: Callable[[], DeadLetters]
    token: str
    run: str
    _letters: DeadLetters | None = field(default=None, init=False)

    def open(self) -> None:
        """Open the writer; the letters' own session is made when the first row is refused."""
        self.inner.open()

    def write(self, chunk: Chunk) -> None:
        """Keep the chunk's refused rows, then write it.

        Raises:
            Fenced: somebody else has taken the pipeline's letters over.
        """
        if chunk.refused is not None and chunk.refused.num_rows:
            self._letters = self._letters or self.connect()
            self._letters.put(self.token, self.run, chunk.split, letters_of(chunk.refused))
        self.inner.write(chunk)

    def idle(self) -> None:
        """Let the writer watch its session."""
        self.inner.idle()

    def done(self) -> None:
        """Let the writer check that nothing is open."""
        self.inner.done()

    def close(self) -> None:
        """End both sessions."""
        try:
            self.inner.close()
        finally:
            if self._letters is not None:
                self._letters.close()
                self._letters = None


def letters_of(refused: pa.RecordBatch) -> Iterator[Letter]:
    """The letters of a batch of refused rows."""
    columns = [refused.column(name).to_pylist() for name in ("row", "step", "code", "reason", "values")]
    from catalog.letters import Letter

    for row, step, code, reason, values in zip(*columns, strict=True):
        yield Letter(row, step, code, reason, values)
