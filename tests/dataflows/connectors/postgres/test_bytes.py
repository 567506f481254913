"""A source database of encoding SQL_ASCII: what is no UTF-8 is set aside with its column and value."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from catalog.database import migrate
from tests.dataflows.conftest import Launchers


@pytest.fixture
def ascii_dsn(new_database: Callable[[], str]) -> str:
    dsn = new_database()
    name = f"{psycopg.conninfo.conninfo_to_dict(dsn)['dbname']}_ascii"
    with psycopg.connect(dsn, autocommit=True) as session:
        session.execute(f"CREATE DATABASE {name} ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0")
    return psycopg.conninfo.make_conninfo(dsn, dbname=name)


@pytest.mark.parametrize("write", ["replace", "append", "merge"])
@pytest.mark.parametrize("mapped", [False, True])
def test_bytes_that_are_no_text_are_dead_letters(
    ascii_dsn: str, new_database: Callable[[], str], tmp_path: Path, launchers: Launchers, mapped: bool, write: str
) -> None:
    catalog, dsn = new_database(), new_database()
    migrate(catalog)
    with psycopg.connect(ascii_dsn, autocommit=True, client_encoding="utf8") as session:
        session.execute("CREATE TABLE t (id serial PRIMARY KEY, v text, w varchar(20), j json)")
        session.execute(
            "INSERT INTO t (v, w, j) VALUES ('one', 'größe', '{}'), (convert_from('\\x61ff62', 'SQL_ASCII'), 'two', '1'),"
            " ('three', convert_from('\\xe4', 'SQL_ASCII'), NULL), (NULL, '', 'null')"
        )
    spec: dict[str, Any] = {
        "source": {"connection": "from", "object": "public.t"},
        "sink": {"connection": "to", "object": "public.t", "write": write},
        "errors": {"dead_letter": {"fail_above": "90%"}},
    }
    if write != "replace":
        spec["source"]["cursor"] = {"field": "id"}
    if write == "merge":
        spec["sink"]["key"] = ["id"]
    if mapped:
        names = ("id", "w", "j")
        spec["mapping"] = {"fields": [{"target": "v", "sql": "upper(v)"}, *({"target": n, "from": n} for n in names)]}
    task = {
        "run": "r1",
        "attempt": 1,
        "uid": "00000000-0000-4000-9000-000000000042",
        "letters": catalog,
        "connections": {"from": {"type": "postgres", "dsn": ascii_dsn}, "to": {"type": "postgres", "dsn": dsn}},
        "pipeline": {
            "apiVersion": "penstock/v1",
            "kind": "Pipeline",
            "metadata": {"name": "items"},
            "spec": spec,
        },
        "result": str(tmp_path / "result.json"),
        "progress": None,
    }
    found = launchers.run(task)
    assert found["status"] == "completed", found["error"]
    assert (found["counters"]["rows_in"], found["counters"]["dead"]) == (4, 2)
    with psycopg.connect(dsn) as session, psycopg.connect(catalog) as kept:
        assert session.execute("SELECT id, w FROM t ORDER BY id").fetchall() == [(1, "größe"), (4, "")]
        letters = kept.execute('SELECT reason, "values" FROM ops.dead_letters ORDER BY row').fetchall()
    assert ["`v`" in letters[0][0], "`w`" in letters[1][0]] == [True, True], letters
    assert [letters[0][1]["v"], letters[1][1]["w"]] == ["\\x61ff62", "\\xe4"]
