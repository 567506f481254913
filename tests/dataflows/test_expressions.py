# ruff: noqa: E501 - tables of statements, one a line
"""Expressions mean what they mean in PostgreSQL: both evaluate the same text over the same rows."""

from __future__ import annotations

import contextlib
import time as clock
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import partial
from typing import Any

import polars as pl
import psycopg
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from sqlglot import exp

from dataflows.data.types import arrow_type, parse_type
from dataflows.transforms.expressions import compiler
from dataflows.transforms.expressions.compiler import Compiled, compile_expression
from dataflows.transforms.expressions.terms import INTEGER, Term
from dataflows.transforms.expressions.walk import entry
from penstock.errors import BadData, MissingColumn, SchemaMismatch
from tests.dataflows.evaluation import evaluate

COLUMNS = {
    "i": "integer", "j": "integer", "k": "smallint", "l": "bigint", "n": "numeric(12,2)", "m": "numeric(20,5)",
    "f": "double precision", "s": "text", "t": "character varying(20)", "b": "boolean", "c": "boolean", "d": "date",
    "ts": "timestamp without time zone", "tz": "timestamp with time zone",
}  # fmt: skip
TYPES = {name: parse_type(kind) for name, kind in COLUMNS.items()}
SCHEMA = pa.schema([pa.field(name, arrow_type(kind)) for name, kind in TYPES.items()])
WORDS = [
    "",
    "a",
    "Abc",
    " pad ",
    "12",
    "-7",
    "x-y-z",
    "50%",
    "a_b",
    "Straße",
    "O'Neil",
    "true",
    "2024-02-29",
    "1.50",
    "nan",
]
DAY = datetime(2024, 2, 29, 23, 59, 59, 123400)

VARYING = "character varying"

Row = tuple[Any, ...]


def sql_rows(rows: list[Row]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist([dict(zip(COLUMNS, row, strict=True)) for row in rows], schema=SCHEMA)


@pytest.fixture(scope="module")
def server(new_database: Callable[[], str]) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(new_database(), autocommit=True, options="-c TimeZone=UTC") as session:
        session.execute(f"CREATE TABLE r (at int, {', '.join(f'{name} {kind}' for name, kind in COLUMNS.items())})")
        yield session


def run_postgres(server: psycopg.Connection[Any], text: str, rows: list[Row]) -> tuple[str, list[Any]] | None:
    """Return PostgreSQL's type and values; None if it raises."""
    server.execute("TRUNCATE r")
    marks = ", ".join(["%s"] * (len(COLUMNS) + 1))
    with server.cursor() as cursor:
        cursor.executemany(f"INSERT INTO r VALUES ({marks})", [(at, *row) for at, row in enumerate(rows)])
    try:
        found = server.execute(f"SELECT pg_typeof({text})::text, {text} FROM r ORDER BY at").fetchall()
    except psycopg.errors.DataError:
        return None
    return found[0][0], [value for _, value in found]


def run_compiled(text: str, rows: list[Row]) -> tuple[Compiled, list[Any]] | None:
    compiled = compile_expression(text, TYPES, "test")
    try:
        return compiled, evaluate({"v": compiled}, sql_rows(rows))["v"].to_pylist()
    except BadData:
        return None


def agree(server: psycopg.Connection[Any], text: str, rows: list[Row]) -> None:
    try:
        have = run_compiled(text, rows)
    except SchemaMismatch as error:
        assume("too large" not in error.what)
        raise
    want = run_postgres(server, text, rows)
    assert (want is None) == (have is None), f"{text}: PostgreSQL {want}, Penstock {have and have[1]}"
    if want is None or have is None:
        return
    assert have[0].type.name.replace(VARYING, "text") == want[0].replace(VARYING, "text").replace("unknown", "text"), (
        text
    )
    assert list(map(plain, have[1])) == list(map(plain, want[1])), text


def plain(value: Any) -> Any:
    if isinstance(value, float) and value != value:  # noqa: PLR0124 - NaN
        return "NaN"
    return value.replace(tzinfo=UTC) if isinstance(value, datetime) else value


def numbers(scale: int, digits: int) -> st.SearchStrategy[Decimal]:
    limit = 10**digits - 1
    return st.integers(-limit, limit).map(lambda n: Decimal(n).scaleb(-scale))


def from_template(template: str, *parts: st.SearchStrategy[Any]) -> st.SearchStrategy[str]:
    """Fill in `template`. Not by `st.builds`: Hypothesis would show nested calls, which takes forever."""
    return st.tuples(*parts).map(lambda values: template.format(*values))


def nullable(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(st.none(), values)


SMALL = st.one_of(st.integers(-5, 5), st.sampled_from([2**31 - 1, -(2**31), 1000, 7]))
TIMES = st.datetimes(datetime(1970, 1, 1), datetime(2100, 1, 1))
ROWS = st.lists(
    st.tuples(
        nullable(SMALL), nullable(SMALL), nullable(st.integers(-(2**15), 2**15 - 1)),
        nullable(st.one_of(st.integers(-9, 9), st.sampled_from([2**63 - 1, -(2**63)]))),
        nullable(numbers(2, 12)), nullable(numbers(5, 20)),
        nullable(st.one_of(st.sampled_from([0.0, 1.5, 2.5, -0.5, 1e300, 1e-300]), st.floats(-1e6, 1e6).map(lambda x: round(x, 3)))),
        nullable(st.sampled_from(WORDS)), nullable(st.sampled_from(WORDS)), nullable(st.booleans()), nullable(st.booleans()),
        nullable(st.dates(date(1970, 1, 1), date(2100, 1, 1))), nullable(TIMES), nullable(TIMES.map(lambda x: x.replace(tzinfo=UTC))),
    ),
    min_size=1, max_size=6,
)  # fmt: skip

NUMBER: st.SearchStrategy[str] = st.deferred(lambda: number)
TEXT: st.SearchStrategy[str] = st.deferred(lambda: text)
TRUTH: st.SearchStrategy[str] = st.deferred(lambda: truth)
number_leaf = st.sampled_from(["i", "j", "k", "l", "n", "m"])
constant = st.sampled_from(["1", "2", "-3", "0.5", "100", "2.25"])
number: st.SearchStrategy[str] = st.one_of(
    number_leaf,
    from_template("({} {} {})", NUMBER, st.sampled_from("+-*"), st.one_of(number_leaf, constant)),
    from_template(
        "({} {} {})", st.sampled_from(["i", "k", "l"]), st.sampled_from("/%"), st.sampled_from(["i", "j", "k", "l"])
    ),
    from_template("mod({}, {})", st.sampled_from(["n", "m"]), st.sampled_from(["n", "m", "i"])),
    from_template("(- {})", NUMBER),
    from_template("abs({})", NUMBER),
    from_template("round({}, {})", st.sampled_from(["n", "m", "(n * m)"]), st.integers(0, 4)),
    from_template("{}({})", st.sampled_from(["floor", "ceil"]), st.sampled_from(["n", "m", "f", "i"])),
    from_template(
        "CAST({} AS {})", NUMBER, st.sampled_from(["integer", "bigint", "smallint", "numeric(10,1)", "numeric(30,3)"])
    ),
    from_template("coalesce({}, {})", NUMBER, NUMBER),
    from_template("nullif({}, {})", NUMBER, NUMBER),
    from_template("{}({}, {})", st.sampled_from(["greatest", "least"]), NUMBER, NUMBER),
    from_template("CASE WHEN {} THEN {} ELSE {} END", TRUTH, NUMBER, NUMBER),
    from_template(
        "CAST(CASE WHEN s <> 'nan' THEN s END AS {})", st.sampled_from(["integer", "bigint", "numeric(6,1)"])
    ),
    from_template("length({})", TEXT),
    st.just("(d - DATE '2000-01-01')"),
)
text_leaf = st.sampled_from(["s", "t"])
text: st.SearchStrategy[str] = st.one_of(
    text_leaf,
    from_template("({} || {})", TEXT, text_leaf),
    from_template("concat({}, {}, '!')", TEXT, st.sampled_from(["i", "n", "s"])),
    from_template("{}({})", st.sampled_from(["lower", "trim", "ltrim", "rtrim"]), TEXT),
    from_template("substring({} FROM {} FOR {})", TEXT, st.integers(-2, 5), st.integers(0, 4)),
    from_template("replace({}, 'a', 'bb')", TEXT),
    from_template("split_part({}, '-', {})", TEXT, st.sampled_from([1, 2, 3, -1])),
    from_template("lpad({}, {}, '0')", TEXT, st.integers(0, 6)),
    from_template("left({}, {})", TEXT, st.integers(0, 3)),
    from_template("right({}, {})", TEXT, st.integers(0, 3)),
    from_template("CAST({} AS text)", st.sampled_from(["i", "l", "n", "m", "b", "d", "ts", "tz", "(n * 2)"])),
    from_template("CAST({} AS varchar(3))", TEXT),
    from_template("CASE {} WHEN 'a' THEN {} END", TEXT, TEXT),
    from_template("coalesce({}, '-')", TEXT),
)
truth: st.SearchStrategy[str] = st.one_of(
    st.sampled_from(["b", "c", "true"]),
    from_template("({} {} {})", NUMBER, st.sampled_from(["=", "<>", "<", "<=", ">", ">="]), NUMBER),
    from_template("({} {} {})", TEXT, st.sampled_from(["=", "<>"]), TEXT),
    from_template("({} {} {})", TRUTH, st.sampled_from(["AND", "OR"]), TRUTH),
    from_template("(NOT {})", TRUTH),
    from_template("({} IS {}NULL)", st.one_of(NUMBER, TEXT, TRUTH), st.sampled_from(["", "NOT "])),
    from_template("({} IS {})", TRUTH, st.sampled_from(["TRUE", "NOT FALSE"])),
    from_template("({} IN (1, {}, NULL))", number_leaf, number_leaf),
    from_template("({} BETWEEN {} AND 5)", NUMBER, NUMBER),
    from_template(
        "({} {} '{}')",
        text_leaf,
        st.sampled_from(["LIKE", "ILIKE", "NOT LIKE"]),
        st.sampled_from(["a%", "%b_", "_", r"50\%", "%"]),
    ),
    from_template("({} IS DISTINCT FROM {})", number_leaf, number_leaf),
    from_template("({} > {})", st.sampled_from(["d", "ts"]), st.sampled_from(["d", "ts", "'2024-01-01'"])),
)
time = st.one_of(
    from_template(
        "extract({} FROM {})",
        st.sampled_from(["year", "month", "day", "dow", "isodow", "doy", "week", "quarter", "isoyear", "epoch"]),
        st.sampled_from(["d", "ts", "tz"]),
    ),
    from_template("extract({} FROM {})", st.sampled_from(["hour", "minute", "second"]), st.sampled_from(["ts", "tz"])),
    from_template(
        "date_trunc('{}', {})",
        st.sampled_from(["year", "quarter", "month", "week", "day", "hour", "minute", "second"]),
        st.sampled_from(["d", "ts", "tz"]),
    ),
    from_template(
        "({} {} interval '{}')",
        st.sampled_from(["d", "ts", "tz"]),
        st.sampled_from("+-"),
        st.sampled_from(["1 day", "1 month", "2 years 3 days", "90 minutes", "5 seconds"]),
    ),
    from_template("(d {} {})", st.sampled_from("+-"), st.sampled_from(["1", "30", "k"])),
    from_template(
        "CAST({} AS {})", st.sampled_from(["d", "ts", "tz"]), st.sampled_from(["date", "timestamp", "timestamptz"])
    ),
)
float_ = st.one_of(
    from_template("(f {} {})", st.sampled_from("+-*/"), st.sampled_from(["f", "i", "n", "2"])),
    from_template("CAST(f AS {})", st.sampled_from(["integer", "bigint", "numeric(14,2)"])),
    from_template("CAST({} AS double precision)", st.sampled_from(["n", "m", "i"])),
    st.just("round(f)"),
    st.just("(f > n)"),
)

QUICK = settings(
    max_examples=100,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    database=None,
    suppress_health_check=list(HealthCheck),
)


@QUICK
@given(text=st.one_of(number, text, truth, time, float_), rows=ROWS)
def test_an_expression_equals_postgresql(server: psycopg.Connection[Any], text: str, rows: list[Row]) -> None:
    agree(server, text, rows)


NULLS = (
    [
        f"CAST({name} AS {kind})"
        for name in ("s", "f", "n", "i")
        for kind in ("integer", "numeric(9,2)", "double precision", "text")
        if (name, kind) != ("f", "text")
    ]
    + [f"CAST(s AS {kind})" for kind in ("date", "timestamp", "timestamptz", "boolean", "varchar(2)")]
    + [
        "split_part(s, '-', 1)",
        "split_part(s, '', 1)",
        "lpad(s, 3, '0')",
        "substring(s FROM 1 FOR 2)",
        "replace(s, 'a', 'b')",
        "trim(s)",
        "greatest(i, NULL, j)",
        "floor(n)",
        "ceil(n)",
        "round(n, 1)",
        "mod(n, m)",
        "i / j",
        "n * m",
        "s LIKE 'a%'",
        "i IN (1, 2)",
        "i BETWEEN 1 AND 2",
        "d + i",
        "d - d",
        "extract(second FROM ts)",
        "date_trunc('day', ts)",
        "ts + interval '1 month'",
        "CASE WHEN b THEN 1 END",
        "nullif(i, 1)",
        "coalesce(i, j)",
        "b AND c",
        "b OR c",
        "NOT b",
        "abs(i)",
        "- n",
        "concat(s, t)",
        "concat_ws('-', s, t)",
        "s || t",
        "length(s)",
    ]
)


@pytest.mark.parametrize("text", NULLS)
def test_null_arguments_equal_postgresql(server: psycopg.Connection[Any], text: str) -> None:
    agree(server, text, [tuple(EMPTY.values()), tuple(EMPTY.values())])


EMPTY: dict[str, Any] = dict.fromkeys(COLUMNS)
CASES = [
    ("i / j", {"i": -7, "j": 2}), ("i % j", {"i": -7, "j": 2}), ("i / j", {"i": 1, "j": 0}), ("i + j", {"i": 2**31 - 1, "j": 1}),
    ("l * l", {"l": 2**62}), ("n * (1 - m) * (1 + m)", {"n": Decimal("1234567.89"), "m": Decimal("0.05")}),
    ("CASE WHEN j <> 0 THEN i / j ELSE 0 END", {"i": 1, "j": 0}), ("j <> 0 AND i / j > 1", {"i": 1, "j": 0}),
    ("coalesce(i, CAST(s AS integer))", {"i": 1, "s": "x"}), ("CAST(s AS integer)", {"s": " 12 "}), ("CAST(s AS integer)", {"s": "1.5"}),
    ("CAST(s AS numeric(6,2))", {"s": "-12.345"}), ("CAST(s AS numeric(4,2))", {"s": "123"}), ("CAST(s AS date)", {"s": "2023-02-29"}),
    ("CAST(s AS date)", {"s": "2024-02-29"}), ("CAST(s AS timestamp)", {"s": "2024-02-29 01:02:03.5"}), ("CAST(s AS boolean)", {"s": "off"}),
    ("CAST(s AS boolean)", {"s": "maybe"}), ("CAST(n AS integer)", {"n": Decimal("-2.50")}), ("CAST(f AS integer)", {"f": 2.5}),
    ("CAST(f AS numeric(10,2))", {"f": 2.675}), ("round(n, 1)", {"n": Decimal("-2.25")}), ("i = NULL", {"i": 1}), ("NULL", {}), ("'x'", {}),
    ("d + 1", {"d": date(2024, 2, 28)}), ("ts + interval '1 month'", {"ts": datetime(2024, 1, 31)}), ("d > '2024-01-01'", {"d": date(2024, 2, 1)}),
    ("CAST(ts AS text)", {"ts": DAY}), ("substring(s, 2)", {"s": "abc"}), ("substring(s FROM 2 FOR -1)", {"s": "abc"}),
    ("concat_ws('-', s, t, 'z')", {"s": "a"}), ("-i", {"i": -(2**31)}), ("abs(i)", {"i": -(2**31)}), ("f / 0", {"f": 1.0}), ("f * f", {"f": 1e300}),
    ("i IN (1, NULL)", {"i": 2}), ("s LIKE '50\\%'", {"s": "50%"}), ("upper(s)", {"s": "abc"}), ("CAST(tz AS date)", {"tz": DAY.replace(tzinfo=UTC)}),
    ("CAST(s AS numeric(38,0))", {"s": "9" * 38}), ("CAST(s AS numeric(38,0))", {"s": "1" + "0" * 38}), ("CAST(s AS numeric(38,2))", {"s": "-" + "9" * 36 + ".994"}),
    ("split_part(s, '', 1)", {"s": "abc"}), ("split_part(s, '', -1)", {"s": "abc"}), ("split_part(s, '', 2)", {"s": "abc"}),
    ("CAST(s AS timestamptz)", {"s": "2024-01-01 00:00:00+15:59:59"}), ("CAST(s AS timestamptz)", {"s": "2024-01-01 00:00:00-15:59"}), ("CAST(s AS timestamptz)", {"s": "2024-01-01 00:00:00+16"}), ("CAST(s AS timestamptz)", {"s": "2024-01-01 00:00:00+15:60"}), ("CAST(s AS timestamptz)", {"s": "2024-01-01 00:00:00+15:59:60"}), ("CAST(s AS timestamptz)", {"s": "2024-01-01 00:00:00-16:00"}),
    ("ts - interval '1000 months'", {"ts": datetime(84, 6, 1)}), ("ts - interval '9000 years'", {"ts": datetime(9999, 6, 1)}), ("ts + interval '3000 years'", {"ts": datetime(5000, 1, 1)}),
    ("ts - interval '400 years'", {"ts": datetime(9800, 1, 1)}), ("ts + interval '5000 hours'", {"ts": datetime(9990, 1, 1)}), ("ts + interval '10000000 days'", {}),
    ("i + 0.5 * 2 - 1", {"i": 3}), ("not b or c and b", {"b": True, "c": False}), ("i * 2 || 'x'", {"i": 2}), ("- i + 5 % 3", {"i": 1}),
]  # fmt: skip


@pytest.mark.parametrize(("text", "values"), CASES, ids=[f"{at:02d} {text}" for at, (text, _) in enumerate(CASES)])
def test_known_edge_cases_equal_postgresql(server: psycopg.Connection[Any], text: str, values: dict[str, Any]) -> None:
    agree(server, text, [tuple((EMPTY | values).values())])


REFUSED = [
    ("random()", "random"), ("(SELECT 1)", "Subquery"), ("sum(i)", "sum"), ("i + (i OVER ())", ""), ("pg_sleep(1)", "pg_sleep"),
    ("n / m", "division"), ("s + 1", "`+`"), ("i; DROP TABLE x", "ONE"), ("s LIKE t", "literal"), ("CAST(s AS bytea)", "BYTEA"),
    ("now()", ""), ("i[1]", ""), ("*", ""), ("CASE WHEN i THEN 1 END", "condition"), ("b = 1", "no common type"), ("s ~ 'x'", ""),
    ("i IN ()", "without a list"), ("ts + interval (s)", "computed interval"), ("i IN s", "field"), ("extract(century FROM d)", "century"), ("date_trunc('century', d)", "century"), ("date_trunc('milliseconds', ts)", "milliseconds"), ("extract(hour FROM d)", "hour"), ("extract(year FROM s)", "date or timestamp"),
    ("ts + interval '10000001 days'", "too long"), ("CAST(s AS numeric(39,2))", "no type"), ("CAST(s AS numeric(0))", "no type"), ("CAST(s AS numeric(5,6))", "no type"), ("lower(i)", "lower"), ("1" + " + 1" * 400, "too large"), ("s" * 5000, "longer"), ("(" * 500, "too deep"), ("'", "SQL"), ("DELETE FROM x", ""),
]  # fmt: skip


@pytest.mark.parametrize(("text", "word"), REFUSED, ids=[f"{at:02d}" for at in range(len(REFUSED))])
def test_unsupported_constructs_are_refused_by_name(text: str, word: str) -> None:
    with pytest.raises(SchemaMismatch) as caught:
        compile_expression(text, TYPES, "orders: spec.mapping.fields[2].sql")
    assert word in caught.value.what
    assert "spec.mapping.fields[2].sql" in str(caught.value)


NOT_POSTGRESQL = [
    ("i == j", "syntax: == at character 3; write ="), ("i <=> j", "IS NOT DISTINCT FROM"), ("'a' 'b'", "syntax: 'b' at character 5; join texts with ||"), ("i < j = b", "parentheses"), ("b = NOT c", "parentheses"),
    ("s IS NOT DISTINCT FROM t IS TRUE", "parentheses"), ("b IS DISTINCT FROM i = j IS NULL", "parentheses"), ("i IS NULL = b", "parentheses"), ("s || NOT b", "parentheses"), ("s BETWEEN 'a' || NOT b AND t", "parentheses"),
    ("i NOT NULL", "IS NOT NULL"), ("CAST(s AS varchar(0))", "1 to"), ("CAST(s AS char(0))", "1 to"), ("b IS UNKNOWN", "IS NULL"), ("unknown", '"unknown"'), ("+ s", "takes a number"), ("i%-j", "a blank"), ("s||-i", "a blank"), ("s LIKE 1", "literal"), ("NULL + NULL", "CAST"), ("- 'a'", "CAST"),
    ("i IS NULL IS NULL", "parentheses"), ("!b", "NOT"), ("nvl(i, j)", "coalesce"), ("ifnull(i, j)", "coalesce"), ("len(s)", "length"), ("convert(s, integer)", "CAST"),
    ("ts + interval '1day2hours'", "1 month 2 days"), ("ts + interval '1 day 2'", "1 month 2 days"), ("coalesce(u, 'nonsense')", ""), ("coalesce(js, 'nonsense')", "such as"),
    ("CAST(b AS bigint)", "casts"), ("CAST(k AS boolean)", "casts"), ("substring(s, l)", "integer"),
    ("CAST(coalesce(n, m) AS text)", "numeric(p"), ("CAST(coalesce(CAST(n AS numeric(9,1)), i) AS text)", "numeric(p"), ("coalesce(n, 0) || 'x'", "numeric(p"), ("js ->> 'a'", "python"), ("js -> 'a'", "python"), ("to_char(d, 'YYYY')", "extract"), ("now()", "default"),
    ("current_date", "default"), ("unnest(js)", "explode"), ("age(ts)", "d1 - d2"), ("count(*)", "aggregate"), ("max(i)", "greatest"), ("random()", "default"), ("s ~ 'x'", "LIKE"),
]  # fmt: skip


@pytest.mark.parametrize("text", ["x + y", "y + x", "-x - y", "-y - x"])
def test_a_sum_of_more_than_38_digits_is_an_error_of_its_row(text: str) -> None:
    kind = parse_type("numeric(38,0)")
    compiled = compile_expression(text, {"x": kind, "y": kind}, "x")
    numbers: list[tuple[int, int]] = [(10**38 - 1, 1), (10**37, 1), (-6 * 10**37, 6 * 10**37)]
    batch = pa.RecordBatch.from_pylist(
        [{"x": Decimal(x), "y": Decimal(y)} for x, y in numbers], pa.schema(dict.fromkeys("xy", arrow_type(kind)))
    )
    assert evaluate_wrong(compiled, batch) == [True, False, False]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("ceil(x)", "numeric(2,0)"),
        ("floor(x)", "numeric(2,0)"),
        ("round(x)", "numeric(2,0)"),
        ("round(x, 1)", "numeric(3,1)"),
    ],
)
def test_a_rounded_number_of_known_size_has_room_for_the_carry(text: str, kind: str) -> None:
    assert str(compile_expression(text, {"x": parse_type("numeric(3,2)")}, "x").type) == kind


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("extract(second FROM ts)", "numeric(8,6)"),
        ("extract(epoch FROM ts)", "numeric(20,6)"),
        ("extract(epoch FROM d)", "numeric(14,0)"),
        ("extract(year FROM d)", "numeric(10,0)"),
    ],
)
def test_a_part_of_a_time_has_room_for_its_greatest_value(text: str, kind: str) -> None:
    assert str(compile_expression(text, TYPES, "x").type) == kind


def _always(term: Term, *_: object) -> Term:
    return term


def test_what_polars_would_refuse_in_the_run_is_refused_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for expr, error, said in (
        (pl.lit("x"), AssertionError, "compiled to String instead of Int32"),
        (pl.col("nowhere"), SchemaMismatch, "the types in the expression do not match"),
    ):
        term = Term(expr, INTEGER)
        monkeypatch.setattr(compiler, "NODES", {exp.Literal: entry(partial(_always, term), "this", "is_string")})
        with pytest.raises(error, match=said):
            compile_expression("1", TYPES, "x")


@pytest.mark.parametrize(("text", "word"), NOT_POSTGRESQL, ids=[text for text, _ in NOT_POSTGRESQL])
def test_invalid_or_unsupported_sql_is_refused_with_a_hint(text: str, word: str) -> None:
    types = TYPES | {"u": parse_type("uuid"), "js": parse_type("jsonb")}
    if text == "coalesce(u, 'nonsense')":  # PostgreSQL refuses the literal; Penstock refuses each row that needs it
        compiled = compile_expression(text, types, "x")
        assert evaluate_wrong(
            compiled, pa.RecordBatch.from_pydict({"u": pa.array([None, "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"])})
        ) == [True, False]
        return
    with pytest.raises(SchemaMismatch) as caught:
        compile_expression(text, types, "x")
    assert word in f"{caught.value}"


def evaluate_wrong(compiled: Compiled, batch: pa.RecordBatch) -> list[bool]:
    bad = []
    for at in range(batch.num_rows):
        try:
            evaluate({"v": compiled}, batch.slice(at, 1))
            bad.append(False)
        except BadData:
            bad.append(True)
    return bad


@pytest.mark.parametrize("form", ["greatest({}, i)", "({} % i)", "({} / i)", "CASE WHEN {0} > i THEN i ELSE {0} END"])
def test_expressions_that_explode_when_compiled_are_refused_early(form: str) -> None:
    text, began = "i", clock.process_time()
    while len(text) < 3000:
        for _ in range(4):
            text = form.format(text)
        with contextlib.suppress(SchemaMismatch):
            assert len(str(compile_expression(text, TYPES, "fields[0].sql").expr)) <= 100_000
    assert clock.process_time() - began < 20


def test_a_missing_column_is_reported_with_a_suggestion_and_its_position() -> None:
    with pytest.raises(MissingColumn) as caught:
        compile_expression("i + quantty", {"i": TYPES["i"], "quantity": TYPES["i"]}, "fields[0].sql")
    assert (
        str(caught.value)
        == "fields[0].sql, at character 5: there is no such column, got 'quantty'; did you mean `quantity`?"
    )


def test_the_error_of_a_failing_row_hides_its_value() -> None:
    compiled = compile_expression("CAST(s AS integer)", TYPES, "fields[0].sql")
    with pytest.raises(BadData) as caught:
        evaluate({"v": compiled}, sql_rows([tuple((EMPTY | {"s": "secret"}).values())]))
    assert "secret" not in str(caught.value)


def test_constants_fill_every_row() -> None:
    compiled = {"one": compile_expression("1", {}, "x"), "half": compile_expression("0.50", {}, "x")}
    found = evaluate(compiled, sql_rows([tuple(EMPTY.values())] * 3))
    assert found["one"].to_pylist() == [1, 1, 1]
    assert found["half"].to_pylist() == [Decimal("0.50")] * 3
    assert len(evaluate(compiled, sql_rows([]))["one"]) == 0
