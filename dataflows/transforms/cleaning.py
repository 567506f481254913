"""Mend at the door what some target cannot hold: the characters with code 0 of texts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["Cleaning", "holds_nul"]

_ESCAPED: Final = r"((?:^|[^\\])(?:\\\\)*)\\u0000"
"""A NUL as JSON writes it, with what stands before it."""
_PUT: Final = {"strip": "", "replace": "\ufffd"}


@dataclass(frozen=True, slots=True)
class Cleaning:
    """Takes NUL out of all texts, or puts U+FFFD in its place; `documents` are the columns that hold JSON."""

    nul: str
    documents: frozenset[str]

    def __call__(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The batch with mended texts."""
        columns = [self._mended(name, batch.column(name)) for name in batch.schema.names]
        return pa.RecordBatch.from_arrays(columns, schema=batch.schema)

    def _mended(self, name: str, texts: pa.Array) -> pa.Array:
        if not pa.types.is_string(texts.type):
            return texts
        if name not in self.documents:
            return pc.replace_substring(texts, "\0", _PUT[self.nul]) if _any(holds_nul(texts)) else texts
        while _any(holds_nul(texts, document=True)):  # one that follows another at once comes in the next turn
            texts = pc.replace_substring_regex(texts, _ESCAPED, rf"\1{_PUT[self.nul]}")
        return texts


def holds_nul(texts: pa.Array, *, document: bool = False) -> pa.Array:
    """A mask of the texts with a NUL; of JSON `document`s, with one as JSON writes it."""
    match: Callable[[pa.Array, str], pa.Array] = pc.match_substring_regex if document else pc.match_substring
    return pc.fill_null(match(texts, _ESCAPED if document else "\0"), fill_value=False)


def _any(mask: pa.Array) -> bool:
    return bool(pc.any(mask).as_py())
