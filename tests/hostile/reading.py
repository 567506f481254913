"""Read a file as a run does, and check what must hold for any file: Arrow data is valid, all rows are accounted for."""

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
    """Return the rows of a file, and the types of its columns."""
    return read_file(name, data, form)[:2]


def read_file(name: str, data: bytes, form: Format | None) -> tuple[pa.Table, Mapping[str, str], list[dict[str, Any]]]:
    """Return the rows of a file, the types of its columns, and the rows that were refused."""
    folder = Path("place")
    folder.mkdir(exist_ok=True)
    for one in folder.iterdir():
        one.unlink()
    (folder / name).write_bytes(data)
    settings = parse_connection("files", {"type": "files", "root": str(folder.resolve())})
    source = FilesConnector.source(Place("items", "files", settings, name, folder, form))
    described = source.describe()
    table, refused = read_all(source)
    table.validate(full=True)
    return table, {column.name: column.type for column in described.columns if not column.hidden}, refused


def corrupted(rng: Any, data: bytes, lowest: int = 0, highest: int | None = None) -> bytes:
    """Return `data` with some bytes changed, removed, repeated or inserted."""
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
