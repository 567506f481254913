"""Corrupted Parquet: no file may crash the process, and corruption of pages with checksums must be detected."""

from __future__ import annotations

import io
import json
import random
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dataflows.data.display import rows_of as rows_as_values
from tests.hostile.reading import corrupted, rows_of


def table(rng: random.Random) -> pa.Table:
    count = rng.choice([0, 1, 5, 50, 1000])
    some: dict[str, Any] = {
        "i": pa.array([None if n % 7 == 0 else n for n in range(count)], pa.int64()),
        "u": pa.array([n % 200 for n in range(count)], pa.uint8()),
        "f": pa.array([n / 3 for n in range(count)]),
        "s": pa.array([f"text {n % 5} é🙂" for n in range(count)]),
        "t": pa.array(["x" * (n % 90) for n in range(count)]),
        "b": pa.array([n % 2 == 0 for n in range(count)]),
        "d": pa.array([date(2024, 1, 1 + n % 28) for n in range(count)], pa.date32()),
        "ts": pa.array([datetime(2024, 1, 1, tzinfo=UTC)] * count, pa.timestamp("us", "UTC")),
        "n": pa.array([Decimal(n).scaleb(-2) for n in range(count)], pa.decimal128(12, 2)),
        "l": pa.array([list(range(n % 4)) for n in range(count)], pa.list_(pa.int32())),
        "st": pa.array(
            [{"a": n, "b": None if n % 3 else "x"} for n in range(count)],
            pa.struct([("a", pa.int32()), ("b", pa.string())]),
        ),
        "c": pa.array([f"w{n % 3}" for n in range(count)]).dictionary_encode(),
        "y": pa.array([bytes([n % 256]) * 3 for n in range(count)]),
        "m": pa.array([[("k", n)] for n in range(count)], pa.map_(pa.string(), pa.int32())),
        "z": pa.nulls(count),
        "e": pa.array([n % 3 for n in range(count)], pa.int32()),
    }
    names = rng.sample(list(some), rng.randrange(1, 7))
    return pa.table({name: some[name] for name in names})


def generate(number: int) -> tuple[bytes, pa.Table, bool]:
    """Return a corrupted file, the original table, and True if any corruption must be detected."""
    rng = random.Random(number)
    whole, checked = table(rng), rng.random() < 0.7
    if rng.random() < 0.1:
        key = rng.choice(
            [
                b"numeric(5,2)",
                b"integer",
                b"\xff\xfe",
                b"nope(",
                b"text",
                b"date",
                b"numeric(0)",
                b"bytea",
                b"interval",
                b"numeric",
                b"",
            ]
        )
        whole = whole.replace_schema_metadata(None).cast(
            pa.schema([one.with_metadata({b"penstock.type": key}) for one in whole.schema])
        )
    target = io.BytesIO()
    encoding: dict[str, Any] = rng.choice(
        [{}, {"use_dictionary": False}, {"data_page_version": "2.0"}, {"data_page_size": 64}]
    )
    pq.write_table(
        whole,
        target,
        compression=rng.choice(["snappy", "none", "zstd", "gzip", "lz4"]),
        row_group_size=rng.choice([7, 100, 1000]),
        write_page_checksum=checked,
        **encoding,
    )
    data = target.getvalue()
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    way = rng.randrange(8)
    if way == 0:
        return data[: rng.randrange(len(data))], whole, False
    if way == 1:
        return data[:-8] + rng.randbytes(4) + data[-4:], whole, False
    if way == 2:
        return (
            rng.choice(
                [
                    b"",
                    b"PAR1",
                    b"PAR1PAR1",
                    b"PAR1" + b"\xff" * 4 + b"PAR1",
                    rng.randbytes(300),
                    data + b"x",
                    b"x" + data,
                    data + data,
                    data[:4] + data[footer:],
                ]
            ),
            whole,
            False,
        )
    if way < 5:
        return corrupted(rng, data, footer), whole, False
    if way == 5:
        return corrupted(rng, data), whole, False
    return corrupted(rng, data, 4, footer), whole, checked


def check(case: tuple[bytes, pa.Table, bool]) -> str:
    data, whole, checked = case
    found, _ = rows_of("a.parquet", data, None)
    for one in found.to_batches():
        rows_as_values(one)
    if not checked:
        return "read"
    assert found.num_rows == whole.num_rows, f"{found.num_rows} rows instead of {whole.num_rows}"
    for field in whole.schema:
        mine, wanted = found.column(field.name), whole.column(field.name)
        if field.metadata:
            continue
        values = wanted.to_pylist()
        if pa.types.is_nested(field.type):
            read = [None if one is None else json.loads(one) for one in mine.to_pylist()]
            if pa.types.is_map(field.type):
                values = [[{"key": key, "value": value} for key, value in one] for one in values]
            assert read == values, f"`{field.name}` differs"
        else:
            assert mine.to_pylist() == values, f"`{field.name}` differs"
    return "read and equal"
