"""NULLs in a sample of the rows that pass undecoded: a few rows of each block of COPY messages are looked at.

A block may begin in the middle of a message. A place counts as the begin of one if three messages follow each other
there, and the first has a row with the right number of fields.
"""

from __future__ import annotations

import struct
from typing import Final

__all__ = ["null_sample"]

FIRST: Final = 200
"""Rows of the first block of a split that are looked at; tables that are smaller are counted in full."""
LATER: Final = 4
"""Rows of each further block."""
SEARCHED: Final = (1 << 12, 1 << 16)
"""Bytes at the begin of a block that are searched for the begin of a message: few first, for most rows are small."""
CHAIN: Final = 3
_SIGNATURE: Final = b"PGCOPY\n\xff\r\n\x00"
_KIND: Final = ord("d")
_HEADER: Final = 5
_length = struct.Struct(">i").unpack_from
_count = struct.Struct(">h").unpack_from


def null_sample(block: memoryview, columns: int, *, text: bool, first: bool) -> tuple[int, list[int]]:
    """Return how many rows of a block were looked at, and the NULLs of each column among them.

    `text`: the rows have the text form of COPY, not the binary one. `first`: the block begins with a message.
    """
    counts, rows = [0] * columns, 0
    at = 0 if first else _begin(block, columns, text=text)
    most = FIRST if first else LATER
    while at >= 0 and at + _HEADER <= len(block) and block[at] == _KIND and rows < most:
        end = at + 1 + _length(block, at + 1)[0]
        if not at + _HEADER < end <= len(block):
            break
        body = block[at + _HEADER : end]
        rows += (_of_text if text else _of_binary)(body, counts, most - rows)
        at = end
    return rows, counts


def _of_text(body: memoryview, counts: list[int], most: int) -> int:
    rows = 0
    for line in bytes(body).split(b"\n")[:most]:
        fields = line.split(b"\t")
        if len(fields) == len(counts) and line:
            rows += 1
            for number, value in enumerate(fields):
                counts[number] += value == b"\\N"
    return rows


def _of_binary(body: memoryview, counts: list[int], most: int) -> int:
    at, rows = 0, 0
    if bytes(body[: len(_SIGNATURE)]) == _SIGNATURE:
        at = len(_SIGNATURE) + 8 + _length(body, len(_SIGNATURE) + 4)[0]
    while rows < most and (found := _row(body, at, len(counts))) is not None:
        nulls, at = found
        rows += 1
        for number in nulls:
            counts[number] += 1
    return rows


def _row(body: memoryview, at: int, columns: int) -> tuple[list[int], int] | None:
    """Return which fields of the row at a place are NULL, and where the row ends; None if there is no such row."""
    if at < 0 or at + 2 > len(body) or _count(body, at)[0] != columns:
        return None
    nulls, at, last = [], at + 2, len(body) - 4
    for number in range(columns):
        if at > last:
            return None
        length = _length(body, at)[0]
        at += 4
        if length >= 0:
            at += length
        else:
            nulls.append(number)
    return (nulls, at) if at <= len(body) else None


def _begin(block: memoryview, columns: int, *, text: bool) -> int:
    """Return where the first message of a block begins that can be told from other bytes; -1 if there is none."""
    for size in SEARCHED:
        head = bytes(block[:size])
        at = head.find(b"d\x00")
        while at >= 0:
            if _is_message(block, at, columns, text=text):
                return at
            at = head.find(b"d\x00", at + 1)
    return -1


def _is_message(block: memoryview, at: int, columns: int, *, text: bool) -> bool:
    following = at
    for _ in range(CHAIN):
        if following == len(block):
            break
        if following + _HEADER > len(block) or block[following] != _KIND:
            return False
        following += 1 + _length(block, following + 1)[0]
        if not at < following <= len(block):
            return False
    end = at + 1 + _length(block, at + 1)[0]
    body = block[at + _HEADER : end]
    if text:
        return bytes(body).count(b"\t") == columns - 1
    return len(body) > 1 and _count(body, 0)[0] == columns
