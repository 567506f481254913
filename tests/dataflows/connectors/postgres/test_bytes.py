"""A source database of encoding SQL_ASCII: rows with invalid UTF-8 become dead letters with column and value."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.dataflows.conftest import Launchers
from tests.pairs import soon


def encoded(dsn: str, encoding: str) -> str:
    """Create a database of that encoding next to another one."""
    name = f"{psycopg.conninfo.conninfo_to_dict(dsn)['dbname']}_{encoding.lower()}"
    with psycopg.connect(dsn, autocommit=True) as session:
        session.execute(f"CREATE DATABASE {name} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0")
    return psycopg.conninfo.make_conninfo(dsn, dbname=name)


@pytest.fixture
def ascii_dsn(new_database: Callable[[], str]) -> str:
    return encoded(new_database(), "SQL_ASCII")


WRITES = ("replace", "append", "merge")


@pytest.mark.parametrize(
    ("write", "mapped"), soon(product(WRITES, (False, True)), *zip(WRITES, (True, False, True), strict=True))
)
def test_bytes_that_are_no_text_are_dead_letters(
    ascii_dsn: str, database: str, catalog: str, tmp_path: Path, launchers: Launchers, mapped: bool, write: str
) -> None:
    with psycopg.connect(ascii_dsn, autocommit=True, client_encoding="utf8") as session:
        session.execute("CREATE TABLE t (id serial PRIMARY KEY, v text, w varchar(20), j json)")
        session.execute(
            "INSERT INTO t (v, w, j) VALUES ('one', 'größe', '{}'), "
            "(convert_from('\\x61ff62', 'SQL_ASCII'), 'two', '1'), "
            "('three', convert_from('\\xe4', 'SQL_ASCII'), NULL), (NULL, '', 'null')"
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
        "connections": {"from": {"type": "postgres", "dsn": ascii_dsn}, "to": {"type": "postgres", "dsn": database}},
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
    with psycopg.connect(database) as session, psycopg.connect(catalog) as kept:
        assert session.execute("SELECT id, w FROM t ORDER BY id").fetchall() == [(1, "größe"), (4, "")]
        letters = kept.execute('SELECT reason, "values" FROM ops.dead_letters ORDER BY row').fetchall()
    assert ["`v`" in letters[0][0], "`w`" in letters[1][0]] == [True, True], letters
    assert [letters[0][1]["v"], letters[1][1]["w"]] == ["\\x61ff62", "\\xe4"]


@pytest.mark.parametrize(
    ("write", "mapped"), soon(product(WRITES, (False, True)), *zip(WRITES, (False, True, False), strict=True))
)
def test_bytes_that_are_no_text_are_dead_letters_as_key_and_cursor(
    ascii_dsn: str, database: str, catalog: str, tmp_path: Path, launchers: Launchers, mapped: bool, write: str
) -> None:
    spec: dict[str, Any] = {
        "source": {"connection": "from", "object": "public.t"},
        "sink": {"connection": "to", "object": "public.t", "write": write},
        "errors": {"dead_letter": {"fail_above": "100%"}},
    }
    if write != "replace":
        spec["source"]["cursor"] = {"field": "k", "ordered": True}
    if write == "merge":
        spec["sink"]["key"] = ["k"]
    if mapped:
        spec["mapping"] = {"fields": [{"target": "k", "from": "k"}, {"target": "v", "sql": "v + 0"}]}
    with psycopg.connect(ascii_dsn, autocommit=True, client_encoding="utf8") as session:
        session.execute("CREATE TABLE t (k varchar(20) PRIMARY KEY, v int)")
    rounds = [[b"a", b"a\xff", b"a\xff\xe4", "é".encode(), b"b\xfe", b"\\x41"], [b"\xfa"], [b"\xfb", b"\xfb\xfb"]]
    wanted: list[str] = []
    for at, values in enumerate(rounds):
        with psycopg.connect(ascii_dsn, autocommit=True, client_encoding="utf8") as session:
            for one in values:
                session.execute("INSERT INTO t VALUES (convert_from(%s, 'SQL_ASCII'), 7)", (one,))
        task = {
            "run": f"r{at}",
            "attempt": 1,
            "uid": "00000000-0000-4000-9000-000000000044",
            "letters": catalog,
            "connections": {
                "from": {"type": "postgres", "dsn": ascii_dsn},
                "to": {"type": "postgres", "dsn": database},
            },
            "pipeline": {
                "apiVersion": "penstock/v1",
                "kind": "Pipeline",
                "metadata": {"name": "items"},
                "spec": spec,
            },
            "result": str(tmp_path / f"{at}.json"),
            "progress": None,
            "split_rows": 2,
        }
        found = launchers.run(task)
        assert found["status"] == "completed", found["error"]
        seen = [one for many in rounds[: at + 1] for one in many] if write == "replace" else values
        wanted += [one.decode() for one in values if is_text(one)]
        counts = found["counters"]
        assert (counts["rows_in"], counts["dead"]) == (len(seen), sum(not is_text(one) for one in seen))
        with psycopg.connect(database) as session, psycopg.connect(catalog) as kept:
            rows = session.execute('SELECT k FROM t ORDER BY k COLLATE "C"').fetchall()
            letters = kept.execute(
                "SELECT \"values\"->>'k' FROM ops.dead_letters WHERE run = %s", (f"r{at}",)
            ).fetchall()
        assert [row[0] for row in rows] == sorted(wanted)
        assert sorted(row[0] for row in letters) == sorted(f"\\x{one.hex()}" for one in seen if not is_text(one))


@pytest.mark.parametrize(
    ("target", "write"),
    soon(
        product(("LATIN1", "SQL_ASCII", "EUC_JP"), ("replace", "append")),
        ("LATIN1", "append"),
        ("SQL_ASCII", "replace"),
        ("EUC_JP", "append"),
    ),
)
def test_bounds_and_positions_are_kept_in_a_database_of_any_encoding(
    new_database: Callable[[], str], catalog: str, tmp_path: Path, launchers: Launchers, target: str, write: str
) -> None:
    dsn, into = new_database(), encoded(new_database(), target)
    with psycopg.connect(dsn, autocommit=True) as session:
        session.execute("""CREATE TABLE t (k text COLLATE "C" PRIMARY KEY)""")
        session.execute(
            "INSERT INTO t SELECT c || g FROM unnest('{a,é,日,ü,€,b,c}'::text[]) c, generate_series(1, 3) g"
        )
    spec: dict[str, Any] = {
        "source": {"connection": "from", "object": "public.t"},
        "sink": {"connection": "to", "object": "public.t", "write": write},
        "errors": {"dead_letter": {"fail_above": "100%"}},
    }
    if write == "append":
        spec["source"]["cursor"] = {"field": "k", "ordered": True}
    task = {
        "attempt": 1,
        "uid": "00000000-0000-4000-9000-000000000045",
        "letters": catalog,
        "connections": {"from": {"type": "postgres", "dsn": dsn}, "to": {"type": "postgres", "dsn": into}},
        "pipeline": {"apiVersion": "penstock/v1", "kind": "Pipeline", "metadata": {"name": "items"}, "spec": spec},
        "result": str(tmp_path / "result.json"),
        "progress": None,
        "split_rows": 2,
    }
    bad = {"LATIN1": "日€", "SQL_ASCII": "", "EUC_JP": "€"}[target]
    for run, read in (("r1", 21), ("r2", 21 if write == "replace" else 0)):
        done = launchers.run({**task, "run": run})
        assert done["status"] == "completed", done["error"]
        assert done["counters"]["rows_in"] == read
        with psycopg.connect(into, client_encoding="utf8") as session:
            rows = session.execute("SELECT k FROM t ORDER BY 1").fetchall()
        assert {row[0] for row in rows} == {f"{c}{g}" for c in "aé日ü€bc" for g in "123" if c not in bad}


def is_text(raw: bytes) -> bool:
    return raw.decode(errors="replace").encode() == raw


def test_values_that_cannot_be_decoded_are_dead_letters(
    database: str, catalog: str, tmp_path: Path, launchers: Launchers
) -> None:
    """Mapped rows are decoded; those that pass undecoded keep such values."""
    names = ("at", "d", "n", "c", "b", "ok")
    with psycopg.connect(database, autocommit=True) as session:
        session.execute(
            "CREATE TABLE s (id int PRIMARY KEY, at timestamptz, d date, n numeric(4,2), c time, b bytea, ok bool);"
            "INSERT INTO s VALUES (1, '2024-01-01 10:00Z', '2024-01-01', 1.10, '10:00', '\\x00ff', true);"
            "INSERT INTO s (id, at) VALUES (2, 'infinity'); INSERT INTO s (id, d) VALUES (3, '0044-03-15 BC');"
            "INSERT INTO s (id, n) VALUES (4, 'NaN'); INSERT INTO s (id, c) VALUES (5, '24:00');"
            "INSERT INTO s VALUES (6, '-infinity', NULL, 2.50, NULL, '\\x61', false); INSERT INTO s VALUES (7)"
        )
    fields = [{"target": "id", "sql": "id + 0"}, *({"target": name, "from": name} for name in names)]
    found = launchers.run(
        {
            "run": "r1",
            "attempt": 1,
            "uid": "00000000-0000-4000-9000-000000000043",
            "letters": catalog,
            "connections": {"to": {"type": "postgres", "dsn": database}},
            "pipeline": {
                "apiVersion": "penstock/v1",
                "kind": "Pipeline",
                "metadata": {"name": "items"},
                "spec": {
                    "source": {"connection": "to", "object": "public.s"},
                    "sink": {"connection": "to", "object": "public.t", "write": "replace"},
                    "errors": {"dead_letter": {"fail_above": "90%"}},
                    "mapping": {"fields": fields},
                },
            },
            "result": str(tmp_path / "result.json"),
            "progress": None,
        }
    )
    assert found["status"] == "completed", found["error"]
    with psycopg.connect(database) as session, psycopg.connect(catalog) as kept:
        query = f"SELECT id, {', '.join(names)} FROM {{}} WHERE id IN (1, 7) ORDER BY id"
        assert session.execute(query.format("t")).fetchall() == session.execute(query.format("s")).fetchall()
        assert session.execute("SELECT count(*) FROM t").fetchone() == (2,)
        letters = kept.execute('SELECT reason, "values" FROM ops.dead_letters ORDER BY row').fetchall()
    columns = [reason.split("`")[1] for reason, _ in letters]
    assert columns == ["at", "d", "n", "c", "at"]
    assert [values[name] for name, (_, values) in zip(columns, letters, strict=True)] == [
        "infinity", "0044-03-15 BC", "NaN", "24:00:00", "-infinity",
    ]  # fmt: skip
