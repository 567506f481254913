# ruff: noqa: E501 - tables of values, one a line
"""Every cell of the table in docs/types.md of MySQL's types in PostgreSQL, on real servers."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from dataflows.connectors.mysql.keys import key_obstacle
from dataflows.connectors.mysql.types import storable
from dataflows.data.tables import Column
from dataflows.data.types import fits, parse_type
from tests.dataflows.conftest import Launchers
from tests.dataflows.test_types import PAGE
from tests.mariadb import MysqlServer
from tests.pairs import soon

TABLE = {
    name: (becomes, note.strip())
    for name, becomes, note in re.findall(
        r"^\| `([^`]+)` \| `([^`]+)` \|([^|]*)\|$",
        PAGE.partition("## MySQL and MariaDB to PostgreSQL")[2].partition("\n## ")[0],
        re.MULTILINE,
    )
}
DIGITS = "9" * 35 + "." + "9" * 30
VALUES: dict[str, tuple[tuple[str, str | None], ...]] = {
    "tinyint(1)": (("0", "false"), ("1", "true")), "tinyint": (("-128", "-128"), ("127", "127")),
    "tinyint unsigned": (("255", "255"),), "smallint": (("-32768", "-32768"),), "smallint unsigned": (("65535", "65535"),),
    "mediumint": (("-8388608", "-8388608"),), "mediumint unsigned": (("16777215", "16777215"),),
    "int": (("-2147483648", "-2147483648"),), "int unsigned zerofill": (("4294967295", "4294967295"), ("42", "42")),
    "bigint": (("-9223372036854775808", "-9223372036854775808"),),
    "bigint unsigned": (("18446744073709551615", "18446744073709551615"), ("0", "0")),
    "decimal(38,10)": (("-9999999999999999999999999999.9999999999", "-9999999999999999999999999999.9999999999"),),
    "decimal(65,30)": ((DIGITS, DIGITS), ("-0.000000000000000000000000000001", "-0.000000000000000000000000000001")),
    "float": (("1.17549e-38", "1.17549e-38"), ("16777217", "1.6777216e+07"), ("0.1", "0.1")),
    "double": (("5e-324", "5e-324"), ("0.1", "0.1"), ("1.7976931348623157e308", "1.7976931348623157e+308")),
    "bit(1)": (("b'1'", "1"),), "bit(64)": (("18446744073709551615", "1" * 64), ("5", "101".zfill(64))),
    "year": (("1901", "1901"), ("2155", "2155"), ("0", "0")), "date": (("'0001-01-01'", "0001-01-01"), ("'9999-12-31'", "9999-12-31")),
    "datetime(6)": (("'0001-01-01 00:00:00.000001'", "0001-01-01 00:00:00.000001"), ("'9999-12-31 23:59:59.999999'", "9999-12-31 23:59:59.999999")),
    "datetime": (("'2024-02-29 12:00:00'", "2024-02-29 12:00:00"),),
    "timestamp(3)": (("'1970-01-01 00:00:01.001'", "1970-01-01 00:00:01.001+00"), ("'2038-01-19 03:14:07.999'", "2038-01-19 03:14:07.999+00")),
    "time(6)": (("'00:00:00'", "00:00:00"), ("'23:59:59.999999'", "23:59:59.999999")),
    "char(5)": (("'ab'", "ab"), ("'🐎'", "🐎")), "varchar(20)": (("''", ""), ("' x '", " x "), ("'NULL'", "NULL"), (r"'\\N'", "\\N")),
    "text": (("concat('a', char(10), '\"', char(13), char(9), ',žluť🐎')", 'a\n"\r\t,žluť🐎'),), "longtext": (("repeat('ß', 40000)", "ß" * 40000),),
    "binary(3)": (("x'00'", "\\x000000"),), "varbinary(9)": (("x'00ff5c0a22'", "\\x00ff5c0a22"), ("''", "\\x")),
    "longblob": (("repeat(x'00ff', 40000)", "\\x" + "00ff" * 40000),),
    "json": (("'{\"a\": [1, null]}'", '{"a": [1, null]}'), ("'\"🐎\"'", '"🐎"')), "enum('a','it''s, b')": (("'it''s, b'", "it's, b"),),
    "set('a','b','c')": (("'c,a'", "a,c"), ("''", "")), "uuid": (("'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),),
    "inet6": (("'::1'", "::1/128"),),
}  # fmt: skip
REFUSED = {
    "tinyint(1)": ("2", "-1"), "date": ("'0000-00-00'", "'2024-00-10'"), "datetime": ("'0000-00-00 00:00:00'",),
    "timestamp(3)": ("'0000-00-00 00:00:00'",), "time(6)": ("'24:00:00'", "'-00:00:01'", "'838:59:59'"),
}  # fmt: skip
MARIADB = {"uuid", "inet6"}


def task(server: MysqlServer, database: str, dsn: str, folder: Path, run: str) -> dict[str, Any]:
    return {
        "run": run,
        "attempt": 1,
        "uid": f"00000000-0000-4000-9000-{abs(hash((run, database))) % 10**12:012d}",
        "connections": {"shop": server.connection(database), "lake": {"type": "postgres", "dsn": dsn}},
        "pipeline": {
            "apiVersion": "penstock/v1",
            "kind": "Pipeline",
            "metadata": {"name": "items"},
            "spec": {
                "source": {"connection": "shop", "object": "every"},
                "sink": {"connection": "lake", "object": "public.every", "write": "replace"},
            },
        },
        "result": str(folder / f"{run}.json"),
        "progress": None,
        "split_rows": 2,
        "secrets": str(server.home),
    }


def known(server: MysqlServer) -> list[str]:
    return [name for name in TABLE if server.mariadb or name not in MARIADB]


def test_the_table_has_all_types_and_says_what_is_refused() -> None:
    assert set(TABLE) == set(VALUES)
    assert {name for name, (_, note) in TABLE.items() if "refused at the value" in note} == set(REFUSED)


def test_each_type_becomes_what_the_table_says_and_each_value_is_kept(
    mariadb: MysqlServer, new_schema: Callable[[], str], database: str, tmp_path: Path, launchers: Launchers
) -> None:
    names, schema = known(mariadb), new_schema()
    columns = ", ".join(f"c{at} {name} NULL" for at, name in enumerate(names))
    mariadb.query(
        f"CREATE TABLE every (id INT PRIMARY KEY, {columns}) CHARACTER SET utf8mb4 ROW_FORMAT = DYNAMIC", schema
    )
    for row in range(max(map(len, VALUES.values())) + 1):
        values = (VALUES[name][row][0] if row < len(VALUES[name]) else "NULL" for name in names)
        mariadb.query(f"INSERT INTO every VALUES ({row + 1}, {', '.join(values)})", schema)
    done = launchers.run(task(mariadb, schema, database, tmp_path, "r1"))
    assert done["status"] == "completed", done["error"]
    with psycopg.connect(database, options="-c timezone=UTC") as session:
        query = "SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = 'every'::regclass AND attnum > 1"
        types = [row[0] for row in session.execute(f"{query} ORDER BY attnum").fetchall()]
        assert types == [TABLE[name][0] for name in names]
        for at, name in enumerate(names):
            found = [row[0] for row in session.execute(f"SELECT c{at}::text FROM every ORDER BY id").fetchall()]
            wanted = [text for _, text in VALUES[name]]
            assert found == wanted + [None] * (len(found) - len(wanted)), name


@pytest.mark.parametrize(
    ("name", "value"),
    soon(
        [(name, value) for name, found in REFUSED.items() for value in found],
        *((name, found[-1]) for name, found in REFUSED.items()),
    ),
)
def test_what_is_refused_at_the_value_names_its_column(
    mariadb: MysqlServer,
    new_schema: Callable[[], str],
    database: str,
    tmp_path: Path,
    launchers: Launchers,
    name: str,
    value: str,
) -> None:
    schema = new_schema()
    mariadb.query(f"CREATE TABLE every (id INT PRIMARY KEY, c0 {name} NULL)", schema)
    mariadb.query(f"INSERT INTO every VALUES (1, {value})", schema, lenient=True)
    error = launchers.run(task(mariadb, schema, database, tmp_path, "r1"))["error"]
    assert (error["code"], "`c0`" in error["what"], value.strip("'") in error["what"]) == ("data.bad", True, False)


@pytest.mark.parametrize(("uuids", "made"), [(True, "uuid"), (False, "character varying(36)")])
def test_a_uuid_can_be_a_key_on_servers_without_such_a_type(uuids: bool, made: str) -> None:
    column = storable(Column("id", "uuid", nullable=False), uuids=uuids)
    assert column.type == made
    assert key_obstacle([column], ["id"], 16384, named=False) is None
    assert fits(parse_type("uuid"), parse_type(made))


@pytest.mark.parametrize("there", [False, True])
def test_mariadb_keeps_the_text_of_a_document(
    mariadb: MysqlServer,
    new_schema: Callable[[], str],
    database: str,
    tmp_path: Path,
    launchers: Launchers,
    there: bool,
) -> None:
    schema, given = new_schema(), '{"a":  1.10, "b": [{"c": 1, "c": 2}], "a": 1e400}'
    with psycopg.connect(database, autocommit=True) as session:
        session.execute("CREATE TABLE every (id int PRIMARY KEY, a json, b jsonb)")
        session.execute("INSERT INTO every VALUES (1, %s, %s), (2, NULL, NULL)", (given, '{"b": 1.10}'))
    if there:
        mariadb.query("CREATE TABLE every (id INT PRIMARY KEY, a JSON, b JSON)", schema)
    asked = task(mariadb, schema, database, tmp_path, "r1")
    asked["pipeline"]["spec"]["source"] = {"connection": "lake", "object": "public.every"}
    asked["pipeline"]["spec"]["sink"] = {"connection": "shop", "object": "every", "write": "replace"}
    done = launchers.run(asked)
    assert done["status"] == "completed", done["error"]
    assert mariadb.query("SELECT * FROM every ORDER BY id", schema) == [(1, given, '{"b": 1.10}'), (2, None, None)]
