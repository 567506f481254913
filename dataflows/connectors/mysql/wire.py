"""Convert rows as the server sends them to Arrow arrays of texts or bytes: numpy locates the values, without a copy.

A row is one packet of MySQL's text protocol: for each value its length and the characters that the server writes for
it, so that the driver decodes no types. Per row, Python only steps from packet to packet.

https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_com_query_response_text_resultset.html
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import pyarrow as pa

__all__ = ["Packets", "arrays"]

_HEAD: Final = struct.Struct("<I").unpack_from
_LARGEST: Final = 0xFFFFFF
_END: Final = 0xFE
_ERROR: Final = 0xFF
_ENDS: Final = 9
"""A packet of fewer bytes that begins with `_END` is the end of the rows, or the server's error."""
_NULL: Final = 0xFB
_LENGTHS: Final = ((0xFC, 2), (0xFD, 3), (0xFE, 8))
_INLINE: Final = 12
_PAD: Final = b"\0" * 16
_VIEW: Final = np.dtype([("length", "<i4"), ("head", "<u4"), ("rest", "<u8")])
"""An entry of Arrow's string view: up to twelve bytes inline, else four of them, the buffer and the offset in it."""
_HEADS: Final = np.array([(1 << 8 * size) - 1 for size in range(5)], "<u4")
_RESTS: Final = np.array([(1 << 8 * size) - 1 for size in range(9)], "<u8")


@dataclass(slots=True)
class Packets:
    """Buffer of a result's rows; `found` are the offsets of rows in `held`."""

    held: bytearray = field(default_factory=bytearray)
    found: list[int] = field(default_factory=list)
    last: bytes | None = None
    """The packet that ended the rows."""
    at: int = 0

    def scan(self, most: int) -> None:
        """Locate complete rows, at most `most` in all."""
        held, found, at, end = self.held, self.found, self.at, len(self.held)
        while end - at >= 4 and len(found) < most:  # noqa: PLR2004 - the size of a header
            size = _HEAD(held, at)[0] & _LARGEST
            first = at + 4
            if size == _LARGEST:
                joined = self._joined(at)
                if joined is None:
                    break
                size, end = joined, len(held)
            if first + size > end:
                break
            if size and ((size < _ENDS and held[first] == _END) or held[first] == _ERROR):
                self.last = bytes(held[first : first + size])
                break
            found.append(first)
            at = first + size
        self.at = at

    def _joined(self, at: int) -> int | None:
        """Remove the headers inside a row of several packets; return its size, None if it is incomplete."""
        heads, place, size = [], at, _LARGEST
        total = 0
        while size == _LARGEST:
            if place + 4 > len(self.held):
                return None
            size = _HEAD(self.held, place)[0] & _LARGEST
            heads.append(place)
            total += size
            place += 4 + size
        if place > len(self.held):
            return None
        for place in reversed(heads[1:]):
            del self.held[place : place + 4]
        return total

    def take(self) -> tuple[bytes, list[int]]:
        """Return the bytes and offsets of the rows located so far; the rest stays."""
        block, places = bytes(self.held[: self.at]) + _PAD, self.found
        del self.held[: self.at]
        self.found, self.at = [], 0
        return block, places


def arrays(block: bytes, places: Sequence[int], binary: Sequence[bool]) -> list[pa.Array]:
    """Return the columns of rows that begin at `places`, as views into `block`: bytes if `binary`, else texts."""
    raw = np.frombuffer(block, np.uint8)
    heads: Any = np.ndarray((len(raw) - 3,), "<u4", block, 0, (1,))
    rests: Any = np.ndarray((len(raw) - 7,), "<u8", block, 0, (1,))
    at = np.array(places, np.int64)
    made = []
    for bytes_ in binary:
        first = raw[at]
        size, begin, valid = first.astype(np.int64), at + 1, None
        odd = np.flatnonzero(first >= _NULL)
        if len(odd):
            null = first == _NULL
            size[null] = 0
            if null.any():
                valid = pa.py_buffer(np.packbits(~null, bitorder="little").tobytes())
            for mark, width in _LENGTHS:
                these = odd[first[odd] == mark]
                size[these] = (rests[at[these] + 1] & _RESTS[width]).astype(np.int64)
                begin[these] += width
        views = np.empty(len(at), _VIEW)
        views["length"] = size
        views["head"] = heads[begin] & _HEADS[np.minimum(size, 4)]
        inline = rests[np.minimum(begin + 4, len(rests) - 1)] & _RESTS[np.clip(size - 4, 0, 8)]
        views["rest"] = np.where(size > _INLINE, begin.astype(np.uint64) << np.uint64(32), inline)
        kind = pa.binary_view() if bytes_ else pa.string_view()
        made.append(pa.Array.from_buffers(kind, len(at), [valid, pa.py_buffer(views), pa.py_buffer(block)]))
        at = begin + size
    return made
