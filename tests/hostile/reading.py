# ruff: noqa: E501 - tables and grammars of what is wrong on purpose
"""Reads a file as a run does, with what must hold for any file: the rows told are the rows given, and they are sound."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from dataflows.connectors.contract import Place
from dataflows.connectors.files.connector import FilesConnector
from penstock.models.connection import parse_connection
from penstock.models.formats import Format
from tests.dataflows.connectors.files.conftest import read_all


def rows_of(name: str, data: bytes, form: Format | None) -> tuple[pa.Table, Mapping[str, str]]:
    """All rows of a file in a folder of its own, and the types of its columns."""
    return all_of(name, data, form)[:2]


def all_of(name: str, data: bytes, form: Format | None) -> tuple[pa.Table, Mapping[str, str], list[dict[str, Any]]]:
    """As `rows_of`, with what is known of each row that was set aside."""
    folder = Path("place")
    folder.mkdir(exist_ok=True)
    for one in folder.iterdir():
        one.unlink()
    (folder / name).write_bytes(data)
    settings = parse_connection("files", {"type": "files", "root": str(folder.resolve())})
    source = FilesConnector.source(Place("items", "files", settings, name, folder, form))
    told = source.describe()
    table, asides = read_all(source)
    table.validate(full=True)
    return table, {column.name: column.type for column in told.columns if not column.hidden}, asides


def flipped(rng: Any, data: bytes, lowest: int = 0, highest: int | None = None) -> bytes:
    """Some bytes changed, cut out, doubled or set in."""
    out = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 4, 16])):
        end = min(len(out), highest or len(out))
        if end <= lowest:
            break
        at, way = rng.randrange(lowest, end), rng.randrange(6)
        if way < 3 or highest is not None:
            out[at] ^= 1 << rng.randrange(8)
        elif way == 3:
            out[at] = rng.choice(b"\x00\xff\x80\xc3\xed\r\n\t\"',;{}[]:\\0-")
        elif way == 4:
            del out[at : at + rng.choice([1, 3, 20, 500, len(out)])]
        else:
            out[at:at] = out[at : at + rng.randrange(1, 60)]
    return bytes(out)
