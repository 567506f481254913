"""Packing of files into splits, and the choice of a few among many."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, Final

from dataflows.connectors.files.store import Listed

__all__ = ["BYTES_PER_ROW", "Piece", "packed_files", "packs", "spread"]

MAX_PIECES: Final = 256
BYTES_PER_ROW: Final = 64
"""Size of a row of which nothing is known."""
Piece = list[Any]
"""Path, version, and row groups or None, as JSON."""


def spread(files: Sequence[Listed], count: int) -> list[Listed]:
    """Return at most `count` of the files, evenly spaced, with the first and the last."""
    if len(files) <= count:
        return list(files)
    return [files[round(at * (len(files) - 1) / (count - 1))] for at in range(count)]


def packed_files(files: Sequence[Listed], rows: int) -> Iterator[tuple[str, Sequence[Listed]]]:
    """Yield whole files of about `rows` rows together, with their pieces as a split's bound."""
    pack: list[Listed] = []
    for file in files:
        pack.append(file)
        if sum(one.size for one in pack) >= rows * BYTES_PER_ROW or len(pack) >= MAX_PIECES or file is files[-1]:
            yield json.dumps([[one.path, one.version, None] for one in pack], separators=(",", ":")), pack
            pack = []


def packs(pieces: Iterator[tuple[Piece, int]], rows: int) -> Iterator[list[Piece]]:
    """Combine pieces until they have about `rows` rows; adjacent row groups of a file become one piece."""
    pack: list[Piece] = []
    pack_rows = 0
    for piece, count in pieces:
        if pack and (pack_rows + count / 2 > rows or len(pack) >= MAX_PIECES):
            yield pack
            pack, pack_rows = [], 0
        if pack and piece[2] is not None and pack[-1][:2] == piece[:2]:
            pack[-1][2] += piece[2]
        else:
            pack.append(piece)
        pack_rows += count
    if pack:
        yield pack
