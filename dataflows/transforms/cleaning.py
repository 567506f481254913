"""Remove or replace NUL characters in text as it is read, since some targets cannot store them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["Cleaning", "holds_nul"]

_ESCAPED: Final = r"((?:^|[^\\])(?:\\\\)*)\\u0000"
"""A NUL as JSON escapes it, with the characters before it."""
_PUT: Final = {"strip": "", "replace": "\ufffd"}


@dataclass(frozen=True, slots=True)
class Cleaning:
    """Strips NUL from all text, or replaces it by U+FFFD; `documents` are the JSON columns."""

    nul: str
    documents: frozenset[str]

    def __call__(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Return the batch without NUL characters."""
        columns = [self._cleaned(name, batch.column(name)) for name in batch.schema.names]
        return pa.RecordBatch.from_arrays(columns, schema=batch.schema)

    def _cleaned(self, name: str, texts: pa.Array) -> pa.Array:
        if not pa.types.is_string(texts.type):
            return texts
        if name not in self.documents:
            return pc.replace_substring(texts, "\0", _PUT[self.nul]) if _any(holds_nul(texts)) else texts
        while _any(holds_nul(texts, document=True)):  # of two adjacent escapes, one pass replaces only the first
            texts = pc.replace_substring_regex(texts, _ESCAPED, rf"\1{_PUT[self.nul]}")
        return texts


def holds_nul(texts: pa.Array, *, document: bool = False) -> pa.Array:
    """Return a mask of the texts that contain NUL; in a JSON `document`, NUL as JSON escapes it."""
    match: Callable[[pa.Array, str], pa.Array] = pc.match_substring_regex if document else pc.match_substring
    return pc.fill_null(match(texts, _ESCAPED if document else "\0"), fill_value=False)


def _any(mask: pa.Array) -> bool:
    return bool(pc.any(mask).as_py())
