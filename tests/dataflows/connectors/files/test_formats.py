"""Files of every format as a source: type mapping, refusals by name, and errors of bad files."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import time as clock
from contextlib import suppress
from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataflows.connectors.files.connector import FilesConnector
from dataflows.connectors.formats.texts import infer_type, parse_column
from dataflows.connectors.formats.types import cast_exactly, final_type, sql_type
from dataflows.data.tables import Column
from dataflows.data.types import arrow_type, parse_type
from penstock.errors import BadData, MissingColumn, MissingTable, PenstockError, Refused, SchemaMismatch, Unavailable
from penstock.models.formats import CsvFormat, JsonlFormat

if TYPE_CHECKING:
    from tests.dataflows.connectors.files.conftest import Files


def parquet(table: pa.Table, **options: Any) -> bytes:
    target = io.BytesIO()
    pq.write_table(table, target, **options)
    return target.getvalue()


def rows(source: Any, columns: list[str] | None = None) -> list[dict[str, Any]]:
    from tests.dataflows.connectors.files.conftest import read

    return list(read(source, columns).to_pylist())


MICRO = datetime(2024, 1, 2, 3, 4, 5, 678901)
KEPT: list[tuple[pa.DataType, Any, str, Any]] = [
    (pa.bool_(), True, "boolean", True),
    (pa.int8(), -128, "smallint", -128),
    (pa.uint8(), 255, "smallint", 255),
    (pa.int16(), -32768, "smallint", -32768),
    (pa.uint16(), 65535, "integer", 65535),
    (pa.int32(), -(2**31), "integer", -(2**31)),
    (pa.uint32(), 2**32 - 1, "bigint", 2**32 - 1),
    (pa.int64(), -(2**63), "bigint", -(2**63)),
    (pa.uint64(), 2**64 - 1, "numeric(20,0)", Decimal(2**64 - 1)),
    (pa.float32(), 1.5, "real", 1.5),
    (pa.float64(), float("inf"), "double precision", float("inf")),
    (pa.decimal128(38, 10), Decimal("1.0000000001"), "numeric(38,10)", Decimal("1.0000000001")),
    (pa.decimal256(38, 2), Decimal("-99.99"), "numeric(38,2)", Decimal("-99.99")),
    (pa.string(), "Ünï\n\x00☃", "text", "Ünï\n\x00☃"),
    (pa.large_string(), "large", "text", "large"),
    (pa.dictionary(pa.int32(), pa.string()), "word", "text", "word"),
    (pa.date32(), date(1, 1, 1), "date", date(1, 1, 1)),
    (pa.date32(), date(9999, 12, 31), "date", date(9999, 12, 31)),
    (pa.timestamp("s"), datetime(1970, 1, 1), "timestamp without time zone", datetime(1970, 1, 1)),
    (pa.timestamp("us"), MICRO, "timestamp without time zone", MICRO),
    (pa.timestamp("ns"), MICRO, "timestamp without time zone", MICRO),
    (pa.timestamp("us", "UTC"), MICRO.replace(tzinfo=UTC), "timestamp with time zone", MICRO.replace(tzinfo=UTC)),
    (pa.time64("us"), time(1, 2, 3, 4), "time without time zone", time(1, 2, 3, 4)),
    (pa.time32("ms"), time(23, 59, 59), "time without time zone", time(23, 59, 59)),
    (pa.struct([("a", pa.int64()), ("b", pa.string())]), {"a": 1, "b": 'q"ü'}, "json", '{"a":1,"b":"q\\"ü"}'),
    (pa.list_(pa.struct([("a", pa.int64())])), [{"a": 1}], "json", '[{"a":1}]'),
    (pa.uuid(), UUID(int=258).bytes, "uuid", str(UUID(int=258))),
]


@pytest.mark.parametrize(
    ("kind", "value", "name", "kept"), KEPT, ids=[f"{kind}-{at}" for at, (kind, *_) in enumerate(KEPT)]
)
def test_a_parquet_type_is_kept(
    tmp_path: Path, new_files: Any, kind: pa.DataType, value: Any, name: str, kept: Any
) -> None:
    files: Files = new_files("files")
    plain = kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind
    array = pa.array([value, None], plain)
    if plain != kind:
        array = pa.ExtensionArray.from_storage(kind, array)
    files.write("a.parquet", parquet(pa.table({"v": array})))
    source = files.source("a.parquet")
    assert source.describe().columns[0].type == name
    assert rows(source) == [{"v": kept}, {"v": None}]


def test_the_docs_list_every_parquet_type() -> None:
    page = (Path(__file__).parents[4] / "docs/types.md").read_text()
    lines = page.partition("| column, as pyarrow calls it |")[2].partition("\n\n")[0].splitlines()[2:]
    cells = [line.strip("| ").split(" | ") for line in lines]
    documented = {
        kind: what.partition(";")[0].strip("`") for kinds, what in cells for kind in kinds.strip("`").split("`, `")
    }
    tested = {str(kind): name for kind, _, name, _ in KEPT} | {str(kind): "refused" for kind in REFUSED}
    assert documented == tested


REFUSED = [pa.decimal256(50, 2), pa.decimal128(5, -2), pa.duration("us"), pa.month_day_nano_interval()]


@pytest.mark.parametrize("kind", REFUSED, ids=str)
def test_types_that_no_column_keeps_are_refused_by_name(kind: pa.DataType) -> None:
    with pytest.raises(SchemaMismatch, match="`v`"):
        sql_type(pa.field("v", kind), "here")


LOST = [
    (pa.array([1001], pa.timestamp("ns")), "timestamp"),
    (pa.array([1001], pa.time64("ns")), "time"),
    (pa.array([86_400_001], pa.date64()), "date"),
    (pa.array([2**31]), "integer"),
]


@pytest.mark.parametrize(("array", "kind"), LOST, ids=[kind for _, kind in LOST])
def test_a_value_that_would_be_rounded_is_an_error(array: pa.Array, kind: str) -> None:
    with pytest.raises(BadData, match="`v`"):
        cast_exactly(array, pa.field("v", arrow_type(parse_type(kind))), "here")


def test_columns_of_files_are_combined_by_name_and_wider_type(files: Files) -> None:
    files.write("in/a.parquet", parquet(pa.table({"n": pa.array([1], pa.int32()), "x": ["x"]})))
    files.write("in/b.parquet", parquet(pa.table({"y": ["y"], "n": pa.array([2**40])})))
    source = files.source("in/*.parquet")
    assert [(column.name, column.type) for column in source.describe().columns[:3]] == [
        ("n", "bigint"),
        ("x", "text"),
        ("y", "text"),
    ]
    assert rows(source) == [{"n": 1, "x": "x", "y": None}, {"n": 2**40, "x": None, "y": "y"}]


@pytest.mark.parametrize(("declared", "sampled"), [({}, 64), ({}, 2), ({"id": "bigint", "n": "text"}, 2)])
def test_a_later_file_without_a_header_loses_no_row(
    files: Files, monkeypatch: pytest.MonkeyPatch, declared: dict[str, str], sampled: int
) -> None:
    """Its first row would be taken for names, and the others would be rows of NULLs."""
    monkeypatch.setattr("dataflows.connectors.files.source.MAX_SAMPLED_FILES", {"csv": sampled})
    form = CsvFormat(type="csv", columns=declared)
    files.write("in/a.csv", b"id,n\n1,a\n")
    files.write("in/b.csv", b"3,c\n4,d\n")
    files.write("in/c.csv", b"id,n\n6,e\n")
    with pytest.raises(SchemaMismatch, match="none of the other files' columns: `3`, `c`") as caught:
        rows(files.source("in/*.csv", form), ["n"])
    assert "in/b.csv" in str(caught.value)
    files.write("in/b.csv", b"more,n\n5,c\n")
    assert rows(files.source("in/*.csv", form), ["n"]) == [{"n": "a"}, {"n": "c"}, {"n": "e"}]


def test_incompatible_types_name_both_files(files: Files) -> None:
    files.write("in/a.parquet", parquet(pa.table({"n": pa.array([1])})))
    files.write("in/b.parquet", parquet(pa.table({"n": ["x"]})))
    unreadable = files.source("in").describe().columns[0].unreadable
    assert unreadable is not None
    assert "`n` is bigint in in/a.parquet and text in in/b.parquet" in unreadable


def test_unmapped_columns_may_be_unreadable(new_files: Any) -> None:
    files: Files = new_files("files")
    files.write("in/a.parquet", parquet(pa.table({"n": [1], "x": [1], "d": pa.array([1], pa.duration("s"))})))
    files.write("in/b.parquet", parquet(pa.table({"n": [2], "x": ["one"], "d": pa.array([1], pa.duration("s"))})))
    source = files.source("in")
    assert [one.name for one in source.describe().columns if one.unreadable] == ["x", "d"]
    assert rows(source, ["n"]) == [{"n": 1}, {"n": 2}]
    files.write("c.csv", b"n,x\n1,1\n2,2\n" + b"3,3\n" * 300_000 + b"4,\xff\n")
    assert len(rows(files.source("c.csv"), ["n"])) == 300_003
    files.write("j.jsonl", b'{"n": 1, "x": 1}\n' * 100_000 + b'{"n": 2, "x": "one", "new": 1e999}\n')
    assert len(rows(files.source("j.jsonl"), ["n"])) == 100_001


NESTED: list[tuple[Any, str]] = [
    (pa.array([{"b": b"\x00\xff"}]), '{"b":"\\\\x00ff"}'),
    (pa.array([[Decimal("12345678901234567890.10")]]), "[12345678901234567890.10]"),
    (pa.array([[2**64 - 1]], pa.list_(pa.uint64())), "[18446744073709551615]"),
    (pa.array([[("k", 0.1)]], pa.map_(pa.string(), pa.float64())), '[{"key":"k","value":0.1}]'),
    (pa.array([[MICRO]]), '["2024-01-02T03:04:05.678901"]'),
    (pa.array([[1001]], pa.list_(pa.timestamp("ns", "Europe/Berlin"))), '["1970-01-01T00:00:00.000001001+00:00"]'),
    (pa.array([[[date(2024, 1, 2)], None, []]]), '[["2024-01-02"],null,[]]'),
    (pa.array([{"q": 'a"\\\n\x00ü', "none": None}]), '{"q":"a\\"\\\\\\u000a\\u0000ü","none":null}'),
]


@pytest.mark.parametrize(("array", "text"), NESTED, ids=range(len(NESTED)))
def test_every_type_inside_nested_values_is_kept(new_files: Any, array: pa.Array, text: str) -> None:
    files: Files = new_files("files")
    files.write("a.parquet", parquet(pa.table({"v": pa.concat_arrays([array, pa.nulls(1, array.type)])})))
    assert rows(files.source("a.parquet")) == [{"v": text}, {"v": None}]
    json.loads(text)


def test_nan_inside_nested_values_refuses_the_row(new_files: Any) -> None:
    files: Files = new_files("files")
    table = pa.table({"id": [1, 2, 3], "l": [[{"x": 1.5}], [{"x": float("nan")}], [{"x": float("inf")}]]})
    files.write("a.parquet", parquet(table, row_group_size=2))
    assert [row["reason"] for row in refused_rows(files.source("a.parquet"))] == [
        f"a.parquet, row {row}: `l` contains NaN or infinity, which JSON cannot represent" for row in (2, 3)
    ]


@pytest.mark.parametrize(
    "kind", [pa.struct([("d", pa.duration("s"))]), pa.list_(pa.month_day_nano_interval())], ids=str
)
def test_types_that_json_cannot_represent_are_refused_by_name(kind: pa.DataType) -> None:
    with pytest.raises(SchemaMismatch, match="`v` contains"):
        sql_type(pa.field("v", kind), "here")


LATER: list[tuple[pa.Array, pa.Array]] = [
    (pa.array([1]), pa.array(["02134"])),
    (pa.array([MICRO]), pa.array([MICRO.replace(tzinfo=UTC)], pa.timestamp("us", "UTC"))),
    (pa.array([1.5], pa.float32()), pa.array([0.1])),
    (pa.array([1]), pa.array([1.0])),
    (pa.array([1]), pa.array([2**63], pa.uint64())),
    (pa.array([Decimal("1.10")]), pa.array([Decimal("1.1001")])),
]


@pytest.mark.parametrize(("first", "later"), LATER, ids=range(len(LATER)))
def test_a_later_file_of_another_type_is_refused(
    new_files: Any, monkeypatch: pytest.MonkeyPatch, first: pa.Array, later: pa.Array
) -> None:
    monkeypatch.setattr("dataflows.connectors.files.source.MAX_SAMPLED_FILES", {"parquet": 2})
    files: Files = new_files("files")
    for at, array in enumerate((first, later, first)):
        files.write(f"in/{at}.parquet", parquet(pa.table({"v": array})))
    source = files.source("in")
    assert source.describe().types_from == "types inferred from 2 of 3 files"
    with pytest.raises((BadData, SchemaMismatch), match=r"in/1\.parquet: .*`v`"):
        rows(source)


def test_dictionaries_are_decoded_a_few_megabytes_at_a_time(new_files: Any) -> None:
    from dataflows.connectors.formats.contract import ReadRequest
    from dataflows.connectors.formats.parquet import BATCH_BYTES, ParquetReader

    files: Files = new_files("files")
    words = pa.DictionaryArray.from_arrays(pa.array([0] * 3000 + [1, None], pa.int32()), ["x" * 50_000, "y"])
    files.write("a.parquet", parquet(pa.table({"id": range(3002), "v": words}), store_schema=False))
    columns = {"id": Column("id", "bigint"), "v": Column("v", "text")}
    request = ReadRequest(columns, tuple(columns.values()), 65_536, "here: a.parquet")
    sizes = [
        found.batch.nbytes
        for found in ParquetReader(remote=False).batches(lambda: files.store.reader("a.parquet"), request)
    ]
    assert sum(sizes) > 150_000_000
    assert max(sizes) < 2 * BATCH_BYTES


def test_rows_beyond_the_size_limit_are_refused(new_files: Any) -> None:
    files: Files = new_files("files")
    text = b'id,v\n1,"' + b"x" * (80 << 20) + b'"\n'
    files.write("a.csv.gz", gzip.compress(text, 1))
    with pytest.raises(BadData, match="line 2: a row is longer than 64 MiB"):
        rows(files.source("a.csv.gz"))


def test_csv_types_are_inferred_and_then_hold(files: Files) -> None:
    text = (
        "id,zip,price,ok,day,at,local,note\n1,00123,1.5,true,2024-02-29,2024-01-01T00:00:00Z,2024-01-01 00:00:00,\n"
        '-2,99999,2,false,0001-01-01,2024-01-01 00:00:00+02:00,9999-12-31 23:59:59.999999,"a ""b""\nc,d"\n3,,,,,,,""\n'
    )
    files.write("a.csv.gz", gzip.compress(text.encode()))
    source = files.source("*.csv.gz")
    assert [column.type for column in source.describe().columns[:8]] == [
        "bigint",
        "text",
        "double precision",
        "boolean",
        "date",
        "timestamp with time zone",
        "timestamp without time zone",
        "text",
    ]
    found = rows(source)
    assert found[0] == {
        "id": 1,
        "zip": "00123",
        "price": 1.5,
        "ok": True,
        "day": date(2024, 2, 29),
        "at": datetime(2024, 1, 1, tzinfo=UTC),
        "local": datetime(2024, 1, 1),
        "note": None,
    }
    assert (found[1]["note"], found[1]["day"]) == ('a "b"\nc,d', date(1, 1, 1))
    assert [found[2][name] for name in ("zip", "ok", "note")] == [None, None, ""]


def test_a_csv_of_another_dialect(files: Files) -> None:
    files.write("a.txt", "1;Müller;\\N\n2;'x;y';3,5\n".encode("latin-1"))
    form = CsvFormat(
        type="csv",
        delimiter=";",
        quote="'",
        header=False,
        null_values=("\\N",),
        encoding="latin-1",
        columns={"id": "integer", "name": "varchar(20)", "rate": "text"},
    )
    assert rows(files.source("a.txt", form)) == [
        {"id": 1, "name": "Müller", "rate": None},
        {"id": 2, "name": "x;y", "rate": "3,5"},
    ]


def test_rows_larger_than_a_block(files: Files) -> None:
    texts = ["x" * 100, "y\n" * 1_500_000, "z" * 100]
    lines = "".join(f'{at},"{text}"\n' for at, text in enumerate(texts))
    many = "".join(f"{at},short\n" for at in range(3, 300_000))
    files.write("a.csv", f"id,t\n{lines}{many}{lines}".encode())
    found = rows(files.source("a.csv"))
    assert [row["t"] for row in found[:3]] == texts
    assert [row["id"] for row in found] == [*range(300_000), 0, 1, 2]
    files.write("a.jsonl", b'{"t": "' + b"x" * 6_000_000 + b'"}\n{"t": "y"}\n')
    assert [len(row["t"]) for row in rows(files.source("a.jsonl"))] == [6_000_000, 1]


def test_header_names_are_kept_verbatim(new_files: Any) -> None:
    files: Files = new_files("files")
    files.write("a.csv", b'NA,"two\nlines"\n1,NA\n')
    assert rows(files.source("a.csv", CsvFormat(type="csv", null_values=("NA",)))) == [{"NA": 1, "two\nlines": None}]


def test_a_missing_file_of_the_log_is_reported(new_files: Any) -> None:
    from dataflows.connectors.files.log import FolderLog
    from dataflows.connectors.files.manifest import FolderState

    files: Files = new_files("files")
    log = FolderLog(files.store, "out", "here")
    column = {"name": "v", "type": "bigint"}
    table = FolderState(64, [column], ".parquet", [{"path": "part-u-r-000000-1.parquet", "rows": 1, "bytes": 1}])
    files.store.put(log.at("_penstock/checkpoints/000000000064.json"), json.dumps(table.as_dict()).encode())
    with pytest.raises(Unavailable, match="is missing"):
        files.source("out").describe()
    files.write("out/part-u-r-000000-1.parquet", parquet(pa.table({"v": [7]})))
    files.write("out/part-u-r-000001-1.parquet", parquet(pa.table({"v": [8]})))
    assert rows(files.source("out")) == [{"v": 7}]


BAD_CSV = [
    (b"id\n1\nx\n", {"id": "integer"}, "in/a.csv, line 3: `id` is not of type integer", {"id": "x"}),
    (b"id,b\n1,2\n3\n", {}, "in/a.csv, line 3: it has 1 values instead of 2", {"_raw": "3"}),
    (
        b"id\n1\n1.234\n",
        {"id": "numeric(10,2)"},
        "in/a.csv, line 3: `id` is not of type numeric(10,2)",
        {"id": "1.234"},
    ),
    (
        b"id\n2024-01-01\n",
        {"id": "timestamptz"},
        "line 2: `id` is not of type timestamp with time zone",
        {"id": "2024-01-01"},
    ),
    (
        b"id\n2024-01-01T00:00:00.000\n2024-01-01T00:00:00.6\n",
        {"id": "timestamp(0)"},
        "line 3: `id` is not of type timestamp(0) without time zone",
        {"id": "2024-01-01T00:00:00.6"},
    ),
    (b"id\n23:59:59.1234\n23:59:59.120\n", {"id": "time(2)"}, "line 2: `id` is not of type time(2)", {}),
    (b"id\nab\nabc\n", {"id": "varchar(2)"}, "line 3: `id` is not of type character varying(2)", {"id": "abc"}),
    (b"id\nab \nabc\n", {"id": "char(2)"}, "line 3: `id` is not of type character(2)", {"id": "abc"}),
    (b'{"id": "ab"}\n{"id": "abc"}\n', {"id": "varchar(2)"}, "line 2: the value of `id` is not of type", {}),
    (b'id,b\n1,"x"y\n2,z\n', {}, "line 2: there is text after a closing quote", {"_raw": '1,"x"y'}),
    (b'id,b\r1,"x"y\r2,z\r', {}, "line 2: there is text after a closing quote", {"_raw": '1,"x"y'}),
    (b'id,b\n0,a\r1,"x"y\r\n2,z\r', {}, "line 3: there is text after a closing quote", {"_raw": '1,"x"y'}),
    (b'id,b\n\n"1\n",x\nz,"u\nv",w\n', {}, "line 5: it has 3 values", {"_raw": 'z,"u\nv",w'}),
    (b'{"id": 1}\nx\n{"id": 2}\n', {}, "line 2: it is not a JSON object", {"_raw": "x"}),
    (b'{"id": 1}\n\x0b\n \t\r\n{"id": 2}\n', {}, "line 2: it is not a JSON object", {"_raw": "\x0b"}),
    (b'{"id": "b"}\n{"id": "\xff"}\n', {"id": "text"}, "line 2: it is not a JSON object", {"_raw": '{"id": "\ufffd"}'}),
    (b'{"id": 1}\n{"id": 1.5}\n', {"id": "integer"}, "line 2: the value of `id` is not of type integer", {}),
    (
        b'{"id": 1}\n{"id": 1, "id": 1}\n',
        {"id": "integer"},
        "line 2: a key occurs twice in one object (`id`)",
        {"_raw": '{"id": 1, "id": 1}'},
    ),
    (
        b'{"id": {"a\\":b": 1}}\n{"id": [{"x": {"a": 1, "\\u0061" : 2}}]}\n',
        {"id": "json"},
        "line 2: a key occurs twice in one object (`id`)",
        {},
    ),
    (b'{"id": 1, "o": {"a": 1, "a": 2}, "o": 1}\nx\n', {"id": "integer"}, "line 2: it is not a JSON object", {}),
    (b"a,b\nx,y\na,b\nz,w\n", {}, "line 3: it is the header again", {"_raw": "a,b"}),
    (b'"a\nc",b\r\nx,y\r\n\xef\xbb\xbf"a\nc",b\r\nz,w\r\n', {}, "line 4: it is the header again", {}),
    (b'a,b\nx,"y\na,b\n"\nz,w\na,b', {}, "line 6: it is the header again", {}),
]


@pytest.mark.parametrize(("data", "columns", "said", "values"), BAD_CSV, ids=range(len(BAD_CSV)))
def test_a_bad_row_is_refused_with_file_line_and_values(
    new_files: Any, data: bytes, columns: dict[str, str], said: str, values: dict[str, str]
) -> None:
    files: Files = new_files("files")
    name, form = ("in/a.jsonl", JsonlFormat(type="jsonl", columns=columns)) if data[:1] == b"{" else ("in/a.csv", None)
    files.write(name, data)
    source = files.source("in/*", form or CsvFormat(type="csv", columns=columns))
    refused = refused_rows(source)
    assert len(refused) == 1
    assert said in refused[0]["reason"]
    known = json.loads(refused[0]["values"])
    assert known["_path"] == name
    assert values.items() <= known.items()
    assert not any(value in refused[0]["reason"] for value in values.values() if len(value) > 3)


def refused_rows(source: Any) -> list[dict[str, Any]]:
    from dataflows.connectors.contract import ReadOrder
    from dataflows.data.cursors import Window

    table = source.describe()
    names = [column.name for column in table.columns if not column.hidden]
    schema = pa.schema([(name, arrow_type(parse_type(table.column(name).type))) for name in names])
    reader = source.reader(ReadOrder(table, names, None, schema, 1000, lambda: None))
    splits = source.plan(table, None, Window(None, None), 100_000, 0)
    chunks = [chunk for split in splits for chunk in reader.read("00", split)]
    refused = [row for chunk in chunks if chunk.refused is not None for row in chunk.refused.to_pylist()]
    assert sum(chunk.dead for chunk in chunks if not chunk.last) == len(refused)
    assert sum(chunk.read for chunk in chunks if not chunk.last) == sum(chunk.read for chunk in chunks if chunk.last)
    return refused


HINTED = [
    (b'id,txt\n1,"he said \\"hi\\" loud"\n', None, "escape"),
    (b"a;b\n1;2\n", None, "delimiter: ';'"),
    (b"a\tb\n1\t2\n", None, "delimiter"),
    (b'a,b\n1,"x\n2,y\n', None, "line 2: a quote is not closed"),
    (b'a,b\n1,"x\n"y\n', None, "line 2: there is text after a closing quote, and the end of its row is ambiguous"),
    (b'a,b\r1,"x\r"y\r', None, "line 2: there is text after a closing quote, and the end of its row is ambiguous"),
    (b'a,b\n"x\ny","z"w\n', None, "line 2: there is text after a closing quote, and the end of its row is"),
    (b'a,b,c\n1,"x"y","z\nw",2\n', None, "line 2: there is text after a closing quote, and the end of its row"),
    (b"a,b\n1,2,3\n", None, "line 2: it has 3 values instead of 2"),
    (b"a,b\n1,\xff\n", None, "line 2 is not in utf-8"),
    ("a,b\n1,2\n".encode("utf-16"), None, "the file is in UTF-16.*encoding: utf-16"),
    ("a,b\n1,2\n".encode("utf-16-le"), None, "characters with code 0.*UTF-16"),
    (gzip.compress(b"a,b\n1,2\n"), None, "the content is gzip, not text.*[.]gz"),
    (b"PK\x03\x04" + b"x" * 40, None, "the content is zip, not text.*unpack it"),
    (bz2.compress(b"a,b\n1,2\n"), None, "the content is bzip2, not text.*unpack it"),
    (parquet(pa.table({"a": [1]})), None, "the content is Parquet, not text.*[.]parquet"),
]


@pytest.mark.parametrize(("data", "form", "said"), HINTED, ids=range(len(HINTED)))
def test_ambiguous_records_are_refused_with_a_hint(new_files: Any, data: bytes, form: Any, said: str) -> None:
    files: Files = new_files("files")
    files.write("a.csv", data)
    with pytest.raises((BadData, SchemaMismatch), match=said.replace(";", ".")):
        rows(files.source("a.csv", form))


@pytest.mark.parametrize("first", ["PAR1", "BZhours"])
def test_a_name_that_begins_as_another_format_does_is_a_name(new_files: Any, first: str) -> None:
    files: Files = new_files("files")
    files.write("a.csv", f"{first},b\n1,2\n".encode())
    assert rows(files.source("a.csv")) == [{first: 1, "b": 2}]


@pytest.mark.parametrize("end", [b"", b"\n"])
@pytest.mark.parametrize("form", [None, CsvFormat(type="csv", escape="\\")])
def test_only_the_first_byte_order_mark_of_a_file_is_none_of_its_text(new_files: Any, form: Any, end: bytes) -> None:
    files: Files = new_files("files")
    files.write("a.csv", "\ufeffa,b\n\ufeff,1\n\ufeffx,2\n\ufeff,3".encode() + end)
    assert [row["a"] for row in rows(files.source("a.csv", form))] == ["\ufeff", "\ufeffx", "\ufeff"]


@pytest.mark.parametrize("quoted", [True, False])
def test_escaped_values_are_unescaped(new_files: Any, quoted: bool) -> None:
    files: Files = new_files("files")
    quote = '"' if quoted else ""
    text = f'id,t\n1,{quote}he said \\"hi\\", C:\\new\\\\\\\nx{quote}\n2,\\N\n3,{quote}\\\\{quote}\n'
    if not quoted:
        text = text.replace(", C", "\\, C")
    files.write("a.csv", text.encode())
    form = CsvFormat(type="csv", escape="\\", null_values=("\\N",))
    found = rows(files.source("a.csv", form))
    assert [row["t"] for row in found] == ['he said "hi", C:\\new\\\nx', None, "\\"]


def test_a_later_value_of_another_type_is_an_error(new_files: Any) -> None:
    files: Files = new_files("files")
    lines = "".join(f"{n},{'y' * 40}\n" for n in range(60_000))
    files.write("a.csv", f"id,note\n{lines}late,x\n".encode())
    with pytest.raises(BadData, match="line 60002: the value of `id`"):
        rows(files.source("a.csv"))
    lines = "".join(f'{{"id": {n}, "note": "{"y" * 40}"}}\n' for n in range(60_000))
    files.write("a.jsonl", f'{lines}{{"id": "late"}}\n'.encode())
    with pytest.raises(BadData, match="line 60001: the value of `id`"):
        rows(files.source("a.jsonl"))


def test_jsonl(files: Files) -> None:
    text = (
        '{"id": 1, "f": 1.5, "b": true, "o": {"k": [1, "x"]}, "t": "ü☃"}\n'
        '{"id": 2, "f": 2, "o": [1], "t": null}\n\n{"id": 9007199254740993}\n'
    )
    files.write("in/a.jsonl", text.encode())
    source = files.source("in/*.jsonl")
    assert [column.type for column in source.describe().columns[:5]] == [
        "bigint",
        "double precision",
        "boolean",
        "json",
        "text",
    ]
    assert source.looked_at() == 1, "only the beginning of each file is looked at"
    found = rows(source)
    assert [row["id"] for row in found] == [1, 2, 9007199254740993]
    assert [row["o"].replace(" ", "") if row["o"] else None for row in found] == ['{"k":[1,"x"]}', "[1]", None]
    assert [row["t"] for row in found] == ["ü☃", None, None]


def test_jsonl_of_declared_types(files: Files) -> None:
    text = '{"n": "1.50", "d": "2024-02-29", "w": "12:00:00.5", "at": "2024-01-01T00:00:00Z", "more": 1}\n{"n": 2.25}\n'
    files.write("a.ndjson", text.encode())
    columns = {"n": "numeric(10,2)", "d": "date", "w": "time", "at": "timestamptz"}
    source = files.source("a.ndjson", JsonlFormat(type="jsonl", columns=columns))
    assert rows(source) == [
        {
            "n": Decimal("1.50"),
            "d": date(2024, 2, 29),
            "w": time(12, 0, 0, 500_000),
            "at": datetime(2024, 1, 1, tzinfo=UTC),
        },
        {"n": Decimal("2.25"), "d": None, "w": None, "at": None},
    ]
    assert source.looked_at() is None, "declared columns are all that there are"


MANY = 100_000
WIDE = {
    "one.csv": ",".join(f"c{at}" for at in range(MANY)) + "\n" + ",".join("1" * MANY) + "\n",
    "headless.csv": ",".join("1" * MANY) + "\n",
    "one.jsonl": json.dumps({f"c{at}": at for at in range(MANY)}) + "\n",
    "each.jsonl": "".join(f'{{"c{at}": 1}}\n' for at in range(MANY)),
}


@pytest.mark.parametrize("name", WIDE)
def test_a_hundred_thousand_columns_are_refused_soon(new_files: Any, name: str) -> None:
    files: Files = new_files("files")
    files.write(name, WIDE[name].encode())
    form = CsvFormat(type="csv", header=False) if name == "headless.csv" else None
    began = clock.process_time()
    with pytest.raises(BadData, match="more than 4,096 columns"):
        files.source(name, form).describe()
    assert clock.process_time() - began < 5


def test_wide_records_are_read_by_declared_columns_and_inside_of_values(new_files: Any) -> None:
    files: Files = new_files("files")
    wide = json.dumps({f"c{at}": at for at in range(MANY)})
    files.write("inside.jsonl", f'{{"id": 1, "o": {wide}}}\n'.encode())
    files.write("outside.jsonl", f'{{"id": 1}}\n{wide}\n'.encode())
    began = clock.process_time()
    (found,) = rows(files.source("inside.jsonl"))
    assert json.loads(found["o"]) == json.loads(wide)
    many = [[at] for at in range(10_000)]
    files.write("many.jsonl", json.dumps({"id": 1, "o": many}).encode())
    (found,) = rows(files.source("many.jsonl"))
    assert json.loads(found["o"]) == many, "it is long, not deep"
    declared = JsonlFormat(type="jsonl", columns={"id": "bigint", "c99999": "bigint"})
    assert [row["c99999"] for row in rows(files.source("outside.jsonl", declared))] == [None, 99999]
    assert clock.process_time() - began < 5


def test_a_parquet_file_may_have_thousands_of_columns(new_files: Any) -> None:
    files: Files = new_files("files")
    table = pa.table({f"c{at}": [at] for at in range(5000)})
    pq.write_table(table, files.root / "wide.parquet")
    began = clock.process_time()
    assert rows(files.source("wide.parquet")) == table.to_pylist()
    assert clock.process_time() - began < 10


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"id": 1}\n{"id": 2, "new": 3}\n', "line 2"),
        ("[1]\n", "not a JSON object"),
    ],
)
def test_bad_lines(new_files: Any, text: str, said: str) -> None:
    files: Files = new_files("files")
    files.write("in/a.jsonl", b'{"id": 0}\n')
    files.write("in/b.jsonl", text.encode())
    form = None if "not a JSON" in said else JsonlFormat(type="jsonl", columns={"id": "bigint"})
    if "new" in text:
        files.write("in/b.jsonl", ('{"id": 1}\n' * 200_000).encode() + b'{"id": 2, "new": 3}\n')
        form, said = None, "line 200001"
    with pytest.raises(BadData, match=said):
        rows(files.source("in/*.jsonl", form))


@pytest.mark.parametrize("form", [None, JsonlFormat(type="jsonl", columns={"id": "bigint"})])
def test_a_line_of_two_objects_is_refused_whole(files: Files, form: JsonlFormat | None) -> None:
    files.write("a.jsonl", b'{"id": 1}\n{"id": 2} {"id": 3}\n{"id": 4}\n')
    assert [row["id"] for row in rows(files.source("a.jsonl", form))] == [1, 4]


def test_hive_folders_become_columns(files: Files) -> None:
    for year, month in (("2023", "01"), ("2024", "12")):
        files.write(f"raw/year={year}/month={month}/x.parquet", parquet(pa.table({"v": [int(year)]})))
    files.write("raw/_temporary/year=1/x.parquet", b"not finished")
    source = files.source("raw/**/*.parquet")
    assert [(column.name, column.type) for column in source.describe().columns[:3]] == [
        ("v", "bigint"),
        ("year", "bigint"),
        ("month", "text"),
    ]
    assert rows(source, ["month", "v", "year", "_path"]) == [
        {"month": "01", "v": 2023, "year": 2023, "_path": "raw/year=2023/month=01/x.parquet"},
        {"month": "12", "v": 2024, "year": 2024, "_path": "raw/year=2024/month=12/x.parquet"},
    ]
    assert len(rows(files.source("raw/year=2024/*/*.parquet"))) == 1


def test_a_format_declares_the_type_of_a_folders_key(new_files: Any) -> None:
    files: Files = new_files("files")
    wanted = [{"d": date(2024, 1, 2), "id": 1}, {"d": None, "id": 2}]
    for ending, one, two in (("csv", b"id\n1\n", b"id\n2\n"), ("jsonl", b'{"id": 1}\n', b'{"id": 2}\n')):
        files.write(f"{ending}/d=2024-01-02/x.{ending}", one)
        files.write(f"{ending}/d=__HIVE_DEFAULT_PARTITION__/x.{ending}", two)
        for columns in ({"d": "date"}, {"id": "bigint", "d": "date"}):
            form = (CsvFormat if ending == "csv" else JsonlFormat).model_validate({"type": ending, "columns": columns})
            found = rows(files.source(ending, form), ["d", "id"])
            assert sorted(found, key=lambda row: row["id"]) == wanted
    files.write("plain/d=2024-01-02/x.csv", b"1\n")
    form = CsvFormat(type="csv", header=False, columns={"id": "bigint", "d": "date"})
    assert rows(files.source("plain", form), ["d", "id"]) == wanted[:1]


def test_splits_are_row_groups_and_groups_of_small_files(files: Files) -> None:
    from tests.dataflows.connectors.files.conftest import read

    files.write("in/big.parquet", parquet(pa.table({"v": range(1000)}), row_group_size=100))
    for n in range(5):
        files.write(f"in/small{n}.parquet", parquet(pa.table({"v": [n]})))
    source = files.source("in")
    from dataflows.data.cursors import Window

    assert len(source.plan(source.describe(), None, Window(None, None), 300, 0)) == 4
    assert sorted(read(source, split_rows=300).column("v").to_pylist()) == sorted([*range(1000), *range(5)])


def test_a_file_changed_or_deleted_between_plan_and_read_is_an_error(files: Files) -> None:
    from dataflows.connectors.contract import ReadOrder
    from dataflows.data.cursors import Window

    files.write("in/a.parquet", parquet(pa.table({"v": [1]})))
    files.write("in/b.parquet", parquet(pa.table({"v": [1]})))
    source = files.source("in")
    table = source.describe()
    splits = source.plan(table, None, Window(None, None), 1, 0)
    files.write("in/a.parquet", parquet(pa.table({"v": [1, 2]})))
    files.store.delete(["in/b.parquet"])
    reader = source.reader(ReadOrder(table, ["v"], None, pa.schema([("v", pa.int64())]), 100, lambda: None))
    for split, said in zip(splits, ("has changed", "is gone"), strict=True):
        with pytest.raises(BadData, match=said):
            list(reader.read("00", split))
    reader.close()


@pytest.mark.parametrize("name", ["../x", "a/../../x", "_penstock/log", ""])
def test_names_outside_the_root_are_refused(new_files: Any, name: str) -> None:
    files: Files = new_files("files")
    with pytest.raises(PenstockError):
        files.source(name).describe()


def test_missing_or_mixed_files_are_reported(new_files: Any) -> None:
    files: Files = new_files("files")
    with pytest.raises(MissingTable, match="no file matches"):
        files.source("in/*.csv").describe()
    files.write("in/a.csv", b"a\n1\n")
    files.write("in/b.jsonl", b'{"a": 1}\n')
    with pytest.raises(Refused, match="cannot be read together"):
        files.source("in").describe()
    with pytest.raises(MissingColumn, match="no such column"):
        files.source("in/*.csv", CsvFormat(type="csv", columns={"b": "text"})).describe()
    files.write("in/a.parquet", b"PAR1 is not enough")
    with pytest.raises(BadData, match="is not readable as Parquet"):
        files.source("in/a.parquet").describe()


@given(
    st.lists(
        st.one_of(st.integers().map(str), st.floats().map(str), st.text(max_size=8), st.dates().map(str)), min_size=1
    )
)
def test_inferred_types_read_every_value_of_the_sample(values: list[str]) -> None:
    kind = final_type(infer_type(pa.array(values)))
    assert kind in {"unknown", "text"} or arrow_type(parse_type(kind)) is not None
    if kind == "bigint":
        assert [str(int(value)) for value in values] == values
    if kind == "double precision":
        assert all(Decimal(repr(float(value))) == Decimal(value) for value in values)
    _, wrong = parse_column(pa.array(values), Column("v", kind), inferred=True)
    assert wrong is None


@settings(max_examples=150, deadline=None)
@given(data=st.binary(max_size=400), ending=st.sampled_from([".csv", ".jsonl", ".parquet", ".csv.gz"]))
def test_hostile_files_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes, ending: str) -> None:
    from dataflows.connectors.contract import Place
    from penstock.models.connection import FilesConnection

    root = tmp_path_factory.mktemp("hostile")
    (root / f"a{ending}").write_bytes(data)
    settings_ = FilesConnection(type="files", root=str(root))
    with suppress(PenstockError):
        rows(FilesConnector.source(Place("p", "c", settings_, f"a{ending}")))
