"""Files of a folder and of a bucket as objects of a set."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dataflows.connectors.files.names import FileSet
from penstock.clock import now
from penstock.errors import Unavailable
from penstock.models.domain import Field
from tests.dataflows.connectors.files.conftest import Files
from tests.dataflows.listings import columns, discovered, found

TEXT = b"id,name\n1,a\n"
IN_ROOT = {
    "customers.csv": "customers.csv",
    "orders_2026-11-29.csv": "orders_[0-9]*.csv",
    "orders_2026-11-30.csv": "orders_[0-9]*.csv",
    "orders_1_lines.csv": "orders_[0-9]*.csv",
    "orders_2026-11-30.csv.gz": None,
    "orders.tsv": "orders.tsv",
    "20261130.csv": "[0-9]*.csv",
    "2026-11-29.csv": "[0-9]*.csv",
    "h2o.csv": "h2o.csv",
    "wh[a]t*.csv": "wh[[]a]t[*].csv",
    "Größe 東's.csv": "Größe 東's.csv",
}
FOLDERS = {
    "sales/a.csv": "sales",
    "sales/2026/11/b.csv": "sales",
    "Two Words.csv/part-1.csv": "Two Words.csv",
    "st*r/x.csv": "st[*]r/**",
    "year=2025/x.csv": "year=*/**",
    "year=2026/y.csv": "year=*/**",
}
TABLES = {
    "customers.csv": "customers", "orders_[0-9]*.csv": "orders", "orders.tsv": "orders", "[0-9]*.csv": "csv",
    "h2o.csv": "h2o", "wh[[]a]t[*].csv": "wh[a]t*", "Größe 東's.csv": "Größe 東's", "sales": "sales",
    "Two Words.csv": "Two Words", "st[*]r/**": "st*r", "year=*/**": "year",
}  # fmt: skip


@pytest.fixture
def stored(files: Files) -> Files:
    for path in (*IN_ROOT, *FOLDERS):
        if not path.endswith(".gz"):
            files.write(path, TEXT.replace(b",", b"\t") if path.endswith(".tsv") else TEXT)
    for path in ("README.md", "_hidden/x.csv", ".git/x.csv", "_x.csv", "notes/_penstock/1.json"):
        files.write(path, b"x")
    return files


def test_folders_and_groups_of_files_are_objects(stored: Files) -> None:
    objects = found(stored.connection, "*", secrets=stored.secrets, **{"except": ["notes"]})
    assert {name: one.table for name, one in objects.items()} == TABLES
    assert {one.schema for one in objects.values()} == {""}
    for path, name in {**IN_ROOT, **FOLDERS}.items():
        matching = [one for one in objects if FileSet.parse(one, "x").matches(path)]
        assert matching == ([name] if name else []), "no file is in two objects"
    for name in objects:
        assert columns(stored.connection, name, stored.secrets)[:2] == ["id", "name"], name


def test_a_pattern_with_a_slash_looks_into_folders(stored: Files) -> None:
    def names(*patterns: str) -> list[str]:
        return list(found(stored.connection, *patterns, secrets=stored.secrets))

    assert names("sales/*") == ["sales/2026", "sales/a.csv"]
    assert names("s*/*") == ["sales/2026", "sales/a.csv", "st[*]r/x.csv"]
    assert names("sales", "sales/2026/*") == ["sales", "sales/2026/11"]
    assert names("st[*]r/**", "year=*/**", "nothing/*") == ["st[*]r/**", "year=*/**"]
    assert names("README.md") == ["README.md"], "a file whose format is not clear, named in full"


def test_a_root_that_is_away_is_not_an_empty_one(files: Files) -> None:
    if files.kind == "s3":
        return
    files.root.rmdir()
    with pytest.raises(Unavailable, match="does not exist"):
        found(files.connection, "*", secrets=files.secrets)


def test_what_files_have_is_discovered_from_a_few_of_them_and_nothing_is_written(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    days = {now().date()}
    for number in range(40):
        files.write(f"lake/raw/orders/{number:02d}.csv", b"id,mail,paid\n" + b"7,a@x.example,1.50\n" * 3)
    files.write("lake/raw/days/year=2025/a.jsonl", b'{"n": 1, "deep": {"x": 2}}\n')
    files.write("lake/raw/days/year=2026/b.jsonl", b'{"n": 2}\n')
    pq.write_table(pa.table({"id": [1, 2, None]}), files.root / "visits.parquet")
    for name in ("empty.parquet", "some/a.parquet"):
        (files.root / name).parent.mkdir(exist_ok=True)
        pq.ParquetWriter(files.root / name, pa.schema([("id", pa.int64())])).close()  # without a row group
    pq.write_table(pa.table({"id": [1, 2]}), files.root / "some/b.parquet")
    files.write("notes.txt", b"x")
    files.write("broken.parquet", b"x")
    files.write("mixed/a.csv", TEXT)
    files.write("mixed/b.jsonl", b'{"id": 1}\n')
    before = {path: path.stat().st_mtime_ns for path in files.root.rglob("*")}
    there = discovered(files.connection, secrets=files.secrets, rows=60)
    assert {path: path.stat().st_mtime_ns for path in files.root.rglob("*")} == before, "nothing was written"
    assert set(there.objects) == {"lake/raw/orders", "lake/raw/days", "visits.parquet", "empty.parquet", "some"}
    assert set(there.present) == {"notes.txt", "broken.parquet", "mixed"}
    assert len(there.notes) == 2, "what cannot be described is said; a file that is not data is only kept in mind"
    assert there.columns("lake/raw/orders") == {"id": "bigint", "mail": "text", "paid": "double precision"}
    assert (there.objects["lake/raw/orders"].looked_at, there.objects["visits.parquet"].looked_at) == (32, None)
    orders = there.objects["lake/raw/orders"].profile
    assert (orders.files, orders.bytes, orders.format) == (40, 2800, "csv")
    assert orders.newest in days | {now().date()}
    assert there.columns("lake/raw/days") == {"n": "bigint", "deep": "json", "year": "bigint"}
    (deep,) = (one for one in there.objects["lake/raw/days"].schema.fields if one.name == "deep")
    assert deep.fields == (Field(name="x", type="bigint"),)
    assert there.objects["visits.parquet"].profile.rows == 3
    mail = there.samples["lake/raw/orders"]["mail"]
    assert (mail.rows, mail.top) == (48, (("a@x.example", 1.0),)), "rows of 16 of the files"
    assert there.samples["visits.parquet"]["id"].nulls == pytest.approx(1 / 3)
    assert there.samples["lake/raw/days"]["year"].bounds == ("2025", "2026")
    assert (there.samples["empty.parquet"], there.samples["some"]["id"].rows) == ({}, 2)
    monkeypatch.setattr("dataflows.connectors.files.connector.MOST_LISTED", 10)
    for hidden in (0, 1):
        part = discovered(files.connection, "lake/raw/orders", secrets=files.secrets).objects["lake/raw/orders"]
        assert (part.profile.files, part.profile.bytes) == (10 - hidden, None), "more files than are looked at"
        assert part.looked_at == 10 - hidden, "the others may have more columns"
        files.write("lake/raw/orders/00/_SUCCESS", b"")  # comes before the others
    assert set(discovered(files.connection, "lake/*/or*", secrets=files.secrets).objects) == {"lake/raw/orders"}
