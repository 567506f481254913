# ruff: noqa: E501 - tables of cases, one a line
"""Every cell of the table of types in the docs, against real servers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg import sql

from dataflows.data.types import arrow_type, carried, parse_type

if TYPE_CHECKING:
    from tests.dataflows.conftest import Copy, Launchers

PAGE = (Path(__file__).parents[2] / "docs/types.md").read_text()
CELLS = {
    name: (undecoded, by_value, held.strip())
    for name, undecoded, by_value, held in re.findall(
        r"^\| ([^|]+) \| (kept[^|]*) \| ([^|]+) \|(?: ([^|]*))? ?\|$", PAGE, re.MULTILINE
    )
}
OWN = {"an enum": "mood", "a domain": "positive", "a composite type": "pair", "an array of an enum": "mood[]"}
"""Types of the user's own, in both databases; their numbers differ there."""
LONG = "9" * 300 + "." + "1" * 40
VALUES: dict[str, tuple[str, ...]] = {
    "smallint": ("-32768", "32767"), "integer": ("-2147483648",), "bigint": ("-9223372036854775808", "9223372036854775807"),
    "real": ("NaN", "Infinity", "1e-38", "0.1"), "double precision": ("NaN", "-Infinity", "0.1", "5e-324"),
    "numeric(38,10)": ("9999999999999999999999999999.9999999999", "-0.0000000001"),
    "numeric(60,20)": ("9999999999999999999999999999999999999999.99999999999999999999", "NaN", "-0.00000000000000000001"),
    "numeric": (LONG, "NaN", "Infinity", "1.10", "1.1000"), "boolean": ("t", "f"),
    "text": ("", 'a "quoted", text\nof\\two lines', "\\N", "\\.", "žluťoučký 🐎"), "character varying(20)": ("", " x "),
    "character(5)": ("ab",), "bytea": ("\\x", "\\x00ff5c0a22"), "uuid": ("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",),
    "json": ('{"a":  1, "a": 2}', "null"), "jsonb": ('{"a": 1e400, "b": "\\u00e9"}',), "date": ("0001-01-01", "9999-12-31"),
    "timestamp without time zone": ("0001-01-01 00:00:00", "9999-12-31 23:59:59.999999"),
    "timestamp with time zone": ("0001-01-01 00:00:00+00", "9999-12-31 23:59:59.999999+00"),
    "time without time zone": ("00:00:00", "23:59:59.999999"), "time with time zone": ("23:59:59.999999+15:59",),
    "interval": ("1 year -2 mons 3 days -04:05:06.789", "178000000 years"), "interval year to month": ("-1 year -2 mons",), "interval second(3)": ("-00:00:00.123",), "bit(3)": ("101",), "bit varying": ("", "10101"),
    "inet": ("10.1.2.3/8", "::1"), "cidr": ("10.0.0.0/8",), "macaddr": ("08:00:2b:01:02:03",),
    "tsvector": ("'a':1A 'b c':2",), "tsquery": ("'a' & !'b'", ""), "point": ("(1.5,-2)",), "polygon": ("((0,0),(1,1),(2,0))",),
    "int4range": ("[1,5)", "empty"), "tstzrange": ("[2024-01-01 00:00:00+00,)",), "nummultirange": ("{[1.5,2),[3,)}",),
    "pg_lsn": ("16/B374D848",), "xid": ("4294967295",), "xid8": ("18446744073709551615",), "tid": ("(7,2)",),
    "pg_snapshot": ("10:20:15",), "int2vector": ("1 2",), "regclass": ("pg_class",), "integer[]": ("{1,NULL,3}", "{{1,2},{3,4}}", "{}"),
    "text[]": ('{"",NULL,"a,b","\\"",žluť}',), "numeric(12,2)[]": ("{1.50,NULL}",),
    "timestamp with time zone[]": ('{"2024-01-01 00:00:00+00",infinity}',), "money": ("$1,234.50",), "an enum": ("so so",),
    "a domain": ("7",), "a composite type": ('(1,"a ""b"", c")', "(,)"), "an array of an enum": ('{happy,"so so"}',),
}  # fmt: skip
REFUSED_VALUES = {
    "date": ("infinity", "0044-03-15 BC", "5874897-12-31"), "timestamp without time zone": ("-infinity", "0044-03-15 BC"),
    "timestamp with time zone": ("infinity",), "numeric(38,10)": ("NaN",), "time without time zone": ("24:00:00",),
}  # fmt: skip


def plain(name: str) -> str:
    """The type that a row of the table is about."""
    return OWN.get(name, name.strip("`"))


def values(name: str) -> tuple[str, ...]:
    return VALUES[name.strip("`")]


def by_value() -> list[str]:
    return [name for name, (_, way, _) in CELLS.items() if way.startswith("kept")]


@dataclass
class Ends:
    """Two databases that have the same types of the user's own, and a pipeline between them."""

    source: psycopg.Connection[Any]
    target: psycopg.Connection[Any]
    copy: Copy
    other: str

    def fill(self, names: list[str], extra: dict[str, tuple[str, ...]] | None = None) -> None:
        """A table ``public.all`` with a column of each type, its values, and a row without any."""
        found = {name: values(name) + (extra or {}).get(name.strip("`"), ()) for name in names}
        columns = ", ".join(f"c{at} {plain(name)}" for at, name in enumerate(names))
        self.source.execute('DROP TABLE IF EXISTS "all"')
        self.source.execute(f'CREATE TABLE "all" (id int PRIMARY KEY, {columns})')
        for row in range(max(map(len, found.values())) + 1):
            texts = [one[row] if row < len(one) else None for one in found.values()]
            literals = ", ".join(
                f"{sql.Literal(text).as_string(None)}::{plain(name)}" for name, text in zip(names, texts, strict=True)
            )
            self.source.execute(f'INSERT INTO "all" SELECT {row}, {literals}')

    def task(self, run: str, target: str, names: list[str], *, decoded: bool) -> dict[str, Any]:
        made = self.copy.task(run)
        made["connections"] = {**made["connections"], "lake": {"type": "postgres", "dsn": self.other}}
        spec = made["pipeline"]["spec"]
        spec["source"] = {"connection": "shop", "object": "public.all"}
        spec["sink"] = {"connection": "lake", "object": f"public.{target}", "write": "replace"}
        if decoded:
            fields = [{"target": f"c{at}", "from": f"c{at}"} for at in range(len(names))]
            spec["mapping"] = {"fields": [{"target": "id", "sql": "id + 0"}, *fields]}
        return made | {"uid": f"{self.copy.uid[:-3]}{target}"}

    def texts(self, session: psycopg.Connection[Any], table: str) -> list[Any]:
        return session.execute(f"SELECT t::text FROM {table} t ORDER BY id").fetchall()

    def types(self, session: psycopg.Connection[Any], table: str) -> list[Any]:
        query = "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0"
        return session.execute(f"{query} ORDER BY attnum", (table,)).fetchall()


@pytest.fixture(scope="module")
def databases(new_database: Callable[[], str]) -> Iterator[list[tuple[psycopg.Connection[Any], str]]]:
    sessions = []
    for spare in (0, 3):  # so that types get other numbers in the second one
        dsn = new_database()
        session = psycopg.connect(dsn, autocommit=True, options="-c timezone=UTC")
        for number in range(spare):
            session.execute(f"CREATE TABLE spare{number} (id int)")
        session.execute("CREATE TYPE mood AS ENUM ('sad', 'so so', 'happy')")
        session.execute("CREATE DOMAIN positive AS int CHECK (VALUE > 0)")
        session.execute("CREATE TYPE pair AS (a int, b text)")
        sessions.append((session, dsn))
    yield sessions
    for session, _ in sessions:
        session.close()


@pytest.fixture
def ends(databases: list[tuple[psycopg.Connection[Any], str]], tmp_path: Path) -> Ends:
    from tests.dataflows.conftest import Copy

    (source, dsn), (target, other) = databases
    return Ends(source, target, Copy(source, dsn, tmp_path, "replace", arrow=False, split_rows=200), other)


def test_the_table_has_all_types_and_values() -> None:
    assert {name.strip("`") for name in CELLS} == set(VALUES)
    assert len(by_value()) > 40


@pytest.mark.parametrize("name", [name for name in CELLS if name not in OWN])
def test_each_type_is_held_as_the_table_says(name: str) -> None:
    held, kind = CELLS[name][2], parse_type(plain(name))
    assert held == ("carried" if carried(kind) else str(arrow_type(kind) or ""))


def test_undecoded_every_type_is_kept_with_every_value(ends: Ends, launchers: Launchers) -> None:
    names = list(CELLS)
    ends.fill(names, REFUSED_VALUES)
    for target in ("u1", "u1"):  # the first run makes the table
        done = launchers.run(ends.task(f"{target}{len(target)}{id(target)}", target, names, decoded=False))
        assert done["status"] == "completed", done["error"]
    assert ends.texts(ends.target, "u1") == ends.texts(ends.source, '"all"')
    assert ends.types(ends.target, "u1") == ends.types(ends.source, '"all"')


def test_by_value_every_type_that_is_kept_is_kept_exactly(ends: Ends, launchers: Launchers) -> None:
    names = by_value()
    ends.fill(names)
    done = launchers.run(ends.task("r1", "v1", names, decoded=True))
    assert done["status"] == "completed", done["error"]
    assert ends.texts(ends.target, "v1") == ends.texts(ends.source, '"all"')
    assert ends.types(ends.target, "v1") == ends.types(ends.source, '"all"')


def test_by_value_in_the_binary_form_too(ends: Ends, launchers: Launchers) -> None:
    names = [name for name in by_value() if CELLS[name][2] not in {"carried", "as what it is over"}]
    ends.fill(names)
    done = launchers.run(ends.task("r1", "b1", names, decoded=True))
    assert done["status"] == "completed", done["error"]
    assert ends.texts(ends.target, "b1") == ends.texts(ends.source, '"all"')


@pytest.mark.parametrize("name", [name for name, (_, way, _) in CELLS.items() if way.startswith("refused")])
def test_by_value_what_is_refused_is_refused_before_anything_is_changed(
    ends: Ends, launchers: Launchers, name: str
) -> None:
    ends.fill([name])
    error = launchers.run(ends.task("r1", "n1", [name], decoded=True))["error"]
    assert "`c0`" in error["what"]
    assert name.strip("`") in error["what"]
    assert ends.target.execute("SELECT to_regclass('n1')").fetchone() == (None,)


@pytest.mark.parametrize(
    ("number", "name", "value"),
    [(number, *one) for number, one in enumerate((n, v) for n, found in REFUSED_VALUES.items() for v in found)],
)
def test_by_value_what_is_refused_at_the_value_names_the_column(
    ends: Ends, launchers: Launchers, number: int, name: str, value: str
) -> None:
    assert "refused at the value" in CELLS[f"`{name}`"][1]
    ends.fill([f"`{name}`"], {name: (value,)})
    done = launchers.run(ends.task("r1", f"m{number}", [name], decoded=True))
    assert (done["status"], done["error"]["code"]) == ("failed", "data.bad")
    assert f"`c0` ({name})" in done["error"]["what"]
    assert value not in str(done["error"]["what"])


def test_types_that_a_made_table_s_server_does_not_have_become_what_carries_them(
    ends: Ends, launchers: Launchers, new_database: Callable[[], str]
) -> None:
    names = list(OWN)
    ends.fill(names)
    ends.other = new_database()
    done = launchers.run(ends.task("r1", "o1", names, decoded=False))
    assert done["status"] == "completed", done["error"]
    with psycopg.connect(ends.other) as session:
        assert [kind for _, kind in ends.types(session, "o1")] == ["integer", "text", "integer", "text", "text"]
        assert ends.texts(session, "o1") == ends.texts(ends.source, '"all"')


def test_a_numeric_of_any_size_can_be_cast(ends: Ends, launchers: Launchers) -> None:
    ends.source.execute('DROP TABLE IF EXISTS "all"')
    ends.source.execute('CREATE TABLE "all" (id int PRIMARY KEY, c0 numeric)')
    ends.source.execute("""INSERT INTO "all" VALUES (1, 12.345), (2, NULL), (3, -7)""")
    task = ends.task("r1", "s1", ["`numeric`"], decoded=True)
    task["pipeline"]["spec"]["mapping"] = {
        "fields": [{"target": "id", "from": "id"}, {"target": "c0", "sql": "CAST(c0 AS numeric(10,2)) * 2"}]
    }
    done = launchers.run(task)
    assert done["status"] == "completed", done["error"]
    assert ends.texts(ends.target, "s1") == [("(1,24.70)",), ("(2,)",), ("(3,-14.00)",)]
    task["pipeline"]["spec"]["mapping"]["fields"][1]["sql"] = "c0 * 2"
    error = launchers.run(task | {"run": "r2"})["error"]
    assert error["code"] == "schema.mismatch", error
