"""Files of a folder and of a bucket as objects of a set."""

from __future__ import annotations

import pytest

from dataflows.connectors.files.names import FileSet
from penstock.errors import Unavailable
from tests.dataflows.connectors.files.conftest import Files
from tests.dataflows.listings import columns, found

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
