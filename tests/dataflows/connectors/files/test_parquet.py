"""Values of Parquet that Arrow reads as others, or not at all: each is kept, or its row refused by number."""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from tests.dataflows.connectors.files.test_formats import MICRO, parquet, refused_rows, rows

if TYPE_CHECKING:
    from tests.dataflows.connectors.files.conftest import Files


def test_old_timestamps_of_parquet_are_read_in_all_years(new_files: Any) -> None:
    """Nanoseconds in 64 bits reach from 1677 to 2262 only, and wrap around beyond."""
    files: Files = new_files("files")
    times = [datetime(9999, 12, 31, 23, 59, 59, 999999), datetime(1, 1, 1), MICRO, None]
    micro = pa.timestamp("us")
    lists = pa.array([[one] for one in times], pa.list_(micro))
    structs = pa.array([{"m": [("k", one)]} for one in times], pa.struct([("m", pa.map_(pa.string(), micro))]))
    table = pa.table({"t": pa.array(times, micro), "l": lists, "s": structs, "a.b": pa.array(times, micro)})
    old: Any = {"use_deprecated_int96_timestamps": True, "row_group_size": 3, "store_schema": False}
    files.write("a.parquet", parquet(table, **old))
    found = rows(files.source("a.parquet"))
    texts = [None if one is None else one.isoformat(timespec="microseconds") for one in times]
    assert [row["t"] for row in found] == [row["a.b"] for row in found] == times
    assert [json.loads(row["l"]) for row in found] == [[one] for one in texts]
    assert [json.loads(row["s"])["m"] for row in found] == [[{"key": "k", "value": one}] for one in texts]


def test_a_part_of_a_microsecond_refuses_the_row(new_files: Any) -> None:
    files: Files = new_files("files")
    table = pa.table({"id": [1, 2, 3], "t": pa.array([1000, 1001, None], pa.timestamp("ns"))})
    for old in (False, True):
        files.write("a.parquet", parquet(table, use_deprecated_int96_timestamps=old))
        [row] = refused_rows(files.source("a.parquet"))
        assert row["reason"].startswith(
            "a.parquet, row 2: `t` has a value of timestamp[ns] that cannot be kept exactly"
        )
        assert [one["id"] for one in rows(files.source("a.parquet"))] == [1, 3]


def test_text_of_parquet_that_is_not_utf8_refuses_the_row(new_files: Any) -> None:
    files: Files = new_files("files")
    raw = pa.array([b"a", b"\xe4", None, b"\xc3\xa4"])
    texts = pa.Array.from_buffers(pa.string(), 4, raw.buffers())
    for kept in (True, False):
        files.write("a.parquet", parquet(pa.table({"id": [1, 2, 3, 4], "s": texts}), use_dictionary=kept))
        assert rows(files.source("a.parquet"), ["id", "s"])[2] == {"id": 4, "s": "ä"}
        [row] = refused_rows(files.source("a.parquet"))
        assert row["reason"] == "a.parquet, row 2: `s` contains bytes that are not UTF-8"
