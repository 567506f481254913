"""Values of MySQL that no other type holds: set aside row by row, or mended where the pipeline says."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.dataflows.conftest import Launchers
from tests.dataflows.connectors.mysql.test_types import task
from tests.mariadb import MysqlServer
from tests.pairs import soon

MENDED = {"zero_dates": None}
UID = "00000000-0000-4000-9000-000000000077"


@pytest.fixture
def run(
    mariadb: MysqlServer,
    new_schema: Callable[[], str],
    new_database: Callable[[], str],
    new_catalog: Callable[[], str],
    tmp_path: Path,
    launchers: Launchers,
) -> Callable[..., Any]:
    """Run a pipeline over a table ``every``; its result, the target's rows and the dead letters."""

    def make(columns: str, values: str, clean: dict[str, Any] | None = None, **source: Any) -> Any:
        schema, catalog, dsn = new_schema(), new_catalog(), new_database()
        mariadb.query(f"CREATE TABLE every (id INT PRIMARY KEY, {columns})", schema)
        mariadb.query(f"INSERT INTO every VALUES {values}", schema, lenient=True)
        order = task(mariadb, schema, dsn, tmp_path, "r1") | {"letters": catalog}
        spec = order["pipeline"]["spec"]
        spec["errors"] = {"dead_letter": {"fail_above": "90%"}}
        spec["source"] |= source
        if source:
            spec["sink"] |= {"write": "append"}
        if clean is not None:
            spec["clean"] = clean
        done = launchers.run(order)
        if done["status"] != "completed":
            return done["error"]
        with psycopg.connect(dsn) as session, psycopg.connect(catalog) as kept:
            rows = session.execute("SELECT to_jsonb(t) - 'id' FROM every t ORDER BY id").fetchall()
            letters = kept.execute('SELECT code, reason, "values" FROM ops.dead_letters ORDER BY 3').fetchall()
        assert done["counters"]["dead"] == len(letters)
        return [tuple(row[0].values()) for row in rows], letters

    return make


COLUMNS = "day DATE NOT NULL, at DATETIME NULL, seen TIMESTAMP(3) NULL"
ZEROS = (
    "(1, '2024-02-29', '2024-01-01 10:00:00', NULL), (2, '0000-00-00', NULL, NULL), (3, '2024-00-10', NULL, NULL), "
    "(4, '2024-05-00', NULL, NULL), (5, '2024-01-01', '0000-00-00 00:00:00', '0000-00-00 00:00:00')"
)


def test_zero_dates_become_null_where_the_pipeline_says_so(run: Callable[..., Any]) -> None:
    rows, letters = run(COLUMNS, ZEROS, MENDED)
    assert letters == []
    assert [row[1] for row in rows] == ["2024-02-29", None, None, None, "2024-01-01"]  # jsonb sorts: at, day, seen
    assert [row[::2] for row in rows] == [("2024-01-01T10:00:00", None), *[(None, None)] * 4]


def test_zero_dates_are_dead_letters_otherwise(run: Callable[..., Any]) -> None:
    rows, letters = run(COLUMNS, ZEROS)
    assert [row[1] for row in rows] == ["2024-02-29"]
    assert [(code, values["id"], values["day"]) for code, _, values in letters] == [
        ("not_of_type", "2", "0000-00-00"), ("not_of_type", "3", "2024-00-10"), ("not_of_type", "4", "2024-05-00"),
        ("not_of_type", "5", "2024-01-01"),
    ]  # fmt: skip
    assert ["`at`" in reason for _, reason, _ in letters] == [False, False, False, True]


@pytest.mark.parametrize(("kind", "wrong"), [("TIME", "'838:59:59'"), ("TINYINT(1)", "7")])
def test_other_values_that_no_type_holds_are_dead_letters(run: Callable[..., Any], kind: str, wrong: str) -> None:
    rows, letters = run(f"v {kind}, raw VARBINARY(4)", f"(1, 1, 'a'), (2, {wrong}, x'00ff'), (3, NULL, NULL)")
    assert len(rows) == 2
    assert [(values["v"], values["raw"]) for _, _, values in letters] == [(wrong.strip("'"), "\\x00ff")]


KINDS = ("DATE", "DATETIME(6)", "TIMESTAMP(6)")


@pytest.mark.parametrize(
    ("kind", "mended"), soon(product(KINDS, (False, True)), *zip(KINDS, (True, False, False), strict=True))
)
def test_a_cursor_that_is_a_zero_date_is_refused(run: Callable[..., Any], kind: str, mended: bool) -> None:
    """It sorts below all others: one that comes later would never be read."""
    cursor = {"field": "at", "lag": "1d"}
    zero = "0000-00-00" if kind == "DATE" else "0000-00-00 00:00:00"
    error = run(f"at {kind} NOT NULL", f"(1, '2024-01-01'), (2, '{zero}')", MENDED if mended else None, cursor=cursor)
    assert (error["code"], "`at`" in error["what"]) == ("data.bad", True), error


@pytest.mark.parametrize(
    ("columns", "values", "what"),
    [("name TEXT", "(1, 'a')", "has no column of dates"), ("n INT", "(1, 1)", "of dates")],
)
def test_a_clean_that_can_act_on_nothing_is_refused(
    run: Callable[..., Any], columns: str, values: str, what: str
) -> None:
    error = run(columns, values, MENDED)
    assert (error["code"], what in error["what"]) == ("refused", True), error


CHARSETS = [
    ("ascii", "E9", "\\xe9"), ("cp1250", "81", "\\x81"), ("greek", "61A4", "\\x61a4"), ("hebrew", "3FA1", "\\x3fa1"),
    ("gbk", "A240", "\\xa240"), ("sjis", "81AE", "\\x81ae"), ("tis620", "A0", "\\xa0"), ("big5", "A240", "\\xa240"),
    ("utf8mb4", "61EDA080", "\\x61eda080"), ("utf8mb3", "EDA080", "\\xeda080"), ("ucs2", "0061D800", "\\x61eda080"),
]  # fmt: skip
"""Character sets, bytes that they hold and that no other system can, and those bytes in a dead letter."""


def test_bytes_without_a_meaning_are_dead_letters_in_every_character_set(run: Callable[..., Any]) -> None:
    """The server sends them as question marks, or as bytes that are not UTF-8."""
    good = [[one] * len(CHARSETS) for one in ("'?'", "'why? ok'", "''", "'\\\\x41'", "NULL")]
    wrong = [
        [f"_{charset} X'{bad}'" if charset == other else "'ok'" for other, *_ in CHARSETS]
        for charset, bad, _ in CHARSETS
    ]
    columns = ", ".join(f"{charset}_ VARCHAR(20) CHARACTER SET {charset}" for charset, *_ in CHARSETS)
    values = ", ".join(f"({at}, {', '.join(row)})" for at, row in enumerate([*good, *wrong]))
    rows, letters = run(columns, values)
    assert rows == [(one,) * len(CHARSETS) for one in ("?", "why? ok", "", "\\x41", None)]
    assert len(letters) == len(CHARSETS)
    for charset, _, shown in CHARSETS:
        found = [values for _, why, values in letters if f"a value of `{charset}_` is not" in why]
        assert [one[f"{charset}_"] for one in found] == [shown], charset
    assert {code for code, *_ in letters} == {"not_of_type"}


def test_a_character_with_two_codes_is_read(run: Callable[..., Any]) -> None:
    rows, letters = run("v VARCHAR(9) CHARACTER SET cp932", "(1, _cp932 X'81CA'), (2, _cp932 X'EEF9')")
    assert (rows, letters) == ([("￢",), ("￢",)], [])


@pytest.mark.parametrize(
    ("as_", "charset"),
    soon(
        product(("key", "cursor"), ("ascii", "greek", "gbk", "utf8mb4", "ucs2")),
        ("key", "gbk"),
        ("key", "utf8mb4"),
        ("cursor", "ascii"),
        ("cursor", "ucs2"),
    ),
)
def test_bytes_without_a_meaning_are_dead_letters_as_key_and_cursor(
    mariadb: MysqlServer,
    new_schema: Callable[[], str],
    database: str,
    catalog: str,
    tmp_path: Path,
    launchers: Launchers,
    *,
    charset: str,
    as_: str,
) -> None:
    schema = new_schema()
    wrong = {"ascii": "E9", "greek": "A4", "gbk": "A240", "utf8mb4": "EDA080", "ucs2": "D800"}[charset]
    first, last = ("0061", "007A") if charset == "ucs2" else ("61", "7A")
    collation, index = ("bin", "PRIMARY KEY") if as_ == "key" else ("nopad_bin", "NOT NULL")
    kind = f"VARCHAR(20) CHARACTER SET {charset} COLLATE {charset}_{collation}"
    mariadb.query(f"CREATE TABLE every (id {kind} {index})", schema)
    rounds = [
        [
            f"{first}{wrong}",
            f"{first}{wrong}{first}",
            first,
            f"{first}{first}",
            f"{first}{wrong}{last}",
            f"{first}{wrong}{wrong}",
        ],
        [f"{last}{wrong}", last],
        [f"{last}{wrong}{last}", f"{last}{wrong}{wrong}"],
    ]
    for at, values in enumerate(rounds):
        mariadb.query(f"INSERT INTO every VALUES {', '.join(f'(_{charset} X{one!r})' for one in values)}", schema)
        order = task(mariadb, schema, database, tmp_path, f"r{at}") | {"letters": catalog, "uid": UID}
        spec = order["pipeline"]["spec"]
        spec["errors"] = {"dead_letter": {"fail_above": "100%"}}
        if as_ == "cursor":
            spec["source"]["cursor"] = {"field": "id", "ordered": True}
            spec["sink"]["write"] = "append"
        done = launchers.run(order)
        assert done["status"] == "completed", done["error"]
        counts = done["counters"]
        seen = sum(map(len, rounds[: at + 1])) if as_ == "key" else len(values)
        bad = (
            sum(wrong in one for many in rounds[: at + 1] for one in many)
            if as_ == "key"
            else sum(wrong in one for one in values)
        )
        assert (counts["rows_in"], counts["dead"]) == (seen, bad)
        with psycopg.connect(database) as session:
            found = session.execute('SELECT id FROM every ORDER BY id COLLATE "C"').fetchall()
        assert [row[0] for row in found] == ["a", "aa", "z"][: 2 + (at > 0)]
