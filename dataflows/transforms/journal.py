"""The journal of a step's state: frames and what goes with them as texts, each complete in itself.

A piece is an Arrow stream, compressed and in base64, so that any sink can keep it in a column of text. Its schema has
the rest of the state as JSON. Integers of 128 bits travel as decimals, which Arrow knows.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import polars as pl
import pyarrow as pa

from dataflows.data.state import StateChange
from dataflows.data.types import ARROW_DIGITS

__all__ = ["Journal", "read_piece"]

PIECE_BYTES: Final = 4 << 20
"""Bytes of a frame in one piece: every sink takes texts of that size."""
LEAST_BYTES: Final = 64 << 10
"""Length of changes up to which the whole state is not written again, however small it is."""
VERSION: Final = 1


@dataclass(slots=True)
class Journal:
    """Decides when the whole state is written again: once the changes since then are as long as it was."""

    step: str
    whole: int = 0
    """Characters of the whole state when it was last written."""
    changed: int = 0
    """Characters of the changes since then."""

    def loaded(self, pieces: Sequence[str]) -> None:
        """Learn what the sink has."""
        self.changed = sum(map(len, pieces))

    def change(self, delta: pl.DataFrame, state: pl.DataFrame, rest: Mapping[str, Any]) -> StateChange:
        """Return what a commit keeps of `delta`, or of all of `state`."""
        if self.changed <= max(self.whole, LEAST_BYTES):
            pieces = _pieces(delta, rest)
            self.changed += sum(map(len, pieces))
            return StateChange(self.step, pieces)
        pieces = _pieces(state, rest)
        self.whole, self.changed = sum(map(len, pieces)), 0
        return StateChange(self.step, pieces, whole=True)


def _pieces(frame: pl.DataFrame, rest: Mapping[str, Any]) -> tuple[str, ...]:
    exact = frame.with_columns(pl.col(pl.Int128).cast(pl.Decimal(ARROW_DIGITS, 0)))
    count = max(1, -(-int(exact.estimated_size()) // PIECE_BYTES))
    rows = max(1, -(-exact.height // count))
    return tuple(_piece(exact.slice(at, rows), rest) for at in range(0, max(1, exact.height), rows))


def _piece(frame: pl.DataFrame, rest: Mapping[str, Any]) -> str:
    table = frame.to_arrow(compat_level=pl.CompatLevel.oldest())
    table = table.replace_schema_metadata({"penstock": json.dumps({"v": VERSION, **rest})})
    to = pa.BufferOutputStream()
    with pa.ipc.new_stream(to, table.schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as stream:
        stream.write_table(table)
    return base64.b64encode(to.getvalue()).decode()


def read_piece(text: str, schema: Mapping[str, Any]) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Return the frame of a piece, with the types of `schema`, and the rest of the state."""
    with pa.ipc.open_stream(base64.b64decode(text)) as stream:
        table = stream.read_all()
    frame: Any = pl.from_arrow(table)
    wide = [pl.col(name).to_physical() for name, kind in schema.items() if kind == pl.Int128]
    return frame.with_columns(wide).cast(dict(schema)), json.loads(table.schema.metadata[b"penstock"])
