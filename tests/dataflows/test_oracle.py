# ruff: noqa: E501 - a table of expressions
"""Thousands of random expressions give PostgreSQL's values and errors, row by row."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import psycopg
import pytest

from dataflows.transforms.expressions.compiler import compile_expression
from tests.dataflows.oracle import FAILED, TYPES, Oracle, chain, compare, edge_case_rows, expression

BATCH = 25


@pytest.fixture
def oracle(new_database: Callable[[], str]) -> Iterator[Oracle]:
    options = "-c TimeZone=UTC -c extra_float_digits=1"
    with psycopg.connect(new_database(), autocommit=True, options=options) as session:
        yield Oracle(session)


def agree(oracle: Oracle, seed: int, count: int) -> None:
    rng, taken, found = random.Random(seed), 0, []
    for at in range(count // BATCH):
        if at % 4 == 0:
            oracle.fill(edge_case_rows(rng, 60))
        result = compare(oracle, rng, [expression(rng) for _ in range(BATCH)])
        taken += result.compiled_count
        found += result.differences
    assert not found, "\n".join([f"seed {seed}:", *found[:20]])
    assert taken > 0.9 * count


FIXED = [
    "f / 100", "f / 100.0", "r / 100", "f / CAST('100' AS double precision)", "CAST(f AS real) / CAST(100 AS real)", "f * 0.07", "f - 0.1", "57 / f",
    "ts + interval '1 day ago'", "ts + interval '- 1 day'", "ts - interval '1 month -1 day ago'", "u = 'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'", "u IN ('{a0eebc999c0b4ef8bb6d6bb9bd380a11}')",
    "coalesce(u, 'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11')", "CASE u WHEN 'A0EEBC999C0B4EF8BB6D6BB9BD380A11' THEN 1 ELSE 0 END", "nullif(u, 'A0EEBC999C0B4EF8BB6D6BB9BD380A11')", "greatest(u, '{00000000000000000000000000000000}')",
    "concat(h, 'x')", "concat_ws('-', h, e)", "h || 'x'", "h = e", "h = s", "h = t", "h < 'ab '", "h IN ('ab ', 'x')", "length(h)", "h LIKE 'ab'", "CAST(h AS text)", "CAST(s AS char)", "CAST(s AS varchar)", "CAST(i AS numeric)", "CAST(s AS char(3)) || 'x'",
    "CAST(f AS numeric(30,2))", "CAST(r AS numeric(38,4))", "CAST(s AS timestamptz)", "CAST(s AS timestamp)", "CAST(s AS date)", "CAST(s AS numeric(5,2))", "CAST(s AS integer)", "CAST(s AS real)", "CAST(s AS double precision)", "CAST(f AS real)", "CAST(l AS real)", "CAST(m AS real)",
    "upper(s)", "lower(s)", "s ILIKE '%ß%'", "s ILIKE 'Σ%'", "NULL AND 10 / i > 1", "b AND 10 / i > 1", "b OR 10 / i > 1", "NOT b AND 10 / i > 1", "10 / i > 1 AND b", "CASE WHEN i <> 0 THEN 10 / i END", "i + j = l", "b = (i < j)", "i < j IS TRUE", "NOT b IS TRUE", "t LIKE 'a%' = b", "t IS DISTINCT FROM q AND b", "i BETWEEN 1 AND 7 IS NOT TRUE", "NULL <> CAST(t AS boolean)", "NULL + 10 / i", "+ i", "NOT NULL", "CAST(t AS char(3)) <> nullif(t, 'a')", "h = nullif(t, h)", "h <> nullif(s, 'a')", "nullif(t, h) = ' ab'", "s = nullif(h, t)", "t = nullif(h, s)", "CAST(t AS char(3)) = coalesce(t, 'x')", "h = coalesce(t, s)", "h = coalesce(s, t)", "h = coalesce(h, t)", "h = coalesce(t, h)", "s = coalesce(h, t)", "h = CASE WHEN b THEN t END", "h = greatest(t, 'b')", "h = CAST(s AS varchar)", "h = CAST(s AS varchar(3))", "h = lower(t)", "h = t || ''", "CAST(t AS char(3)) IN (coalesce(t, 'x'), nullif(t, 'y'))", "floor(n)", "ceil(m)", "floor(f)", "ceil(r)", "round(n, 1)", "round(m)", "-n", "abs(m)", "n % 0.07", "mod(n, i)", "n + 0.5", "n * m", "n - i", "i % 7", "i / j", "l * 2", "CAST(n AS numeric(8,0)) + '15'", "n + '1.5'", "n + '1.5555'", "'0.001' - n", "n % '0.003'", "CAST(n * '1.5' AS text)", "CAST(n + '1.5555' AS text)", "n = '1.501'", "n < '0.0551'", "n IN ('1.5', '1.501')", "n BETWEEN '0.001' AND '1.499'", "n IS DISTINCT FROM '1.501'", "coalesce(n, '1.55555')", "coalesce('1e-4', n)", "greatest(n, '0.005')", "least(n, ' 1e2 ')", "nullif('1.501', n)", "CASE n WHEN '1.501' THEN 1 END", "CASE WHEN b THEN n ELSE '5.125' END", "CAST(s AS bpchar)", "CAST(s AS bpchar) = h", "f + 0", "0 + f", "0 - f", "r + 0", "f - 0", "CAST(extract(epoch FROM d) AS text)", "CAST(extract(epoch FROM ts) AS text)",
]  # fmt: skip


EACH = [
    *(f"extract({part} FROM {of})" for of in ("d", "ts", "tz") for part in ("year", "month", "day", "quarter", "week", "isodow", "dow", "doy", "isoyear", "epoch", "hour", "minute", "second") if of != "d" or part not in {"hour", "minute", "second"}),
    *(f"date_trunc('{unit}', {of})" for of in ("d", "ts", "tz") for unit in ("second", "minute", "hour", "day", "week", "month", "quarter", "year")),
    *(f"{of} {sign} interval '2 {unit}'" for of in ("d", "ts") for sign in "+-" for unit in ("year", "mon", "month", "week", "day", "hour", "min", "minute", "sec", "seconds")),
    "ts + interval '1' day", "d + i", "i + d", "d - i", "d - d", "d - CAST(ts AS date)",
    *(f"{name}(s, {count})" for name in ("left", "right") for count in (2, 0, -2)),
    *(f"{name}(s, {args})" for name in ("lpad", "rpad") for args in ("4, 'x'", "2", "0, 'x'")),
    "trim(s)", "ltrim(s)", "rtrim(s)", "ltrim(s, 'a')", "rtrim(s, 'a')", "btrim(s, 'ab')", "trim(BOTH 'a' FROM s)", "trim(LEADING 'a' FROM s)", "trim(TRAILING 'a' FROM s)", "trim(s, '')",
    "replace(s, 'a', 'bb')", "replace(s, '', 'x')", "replace(s, 'a', '')", "substring(s, 2)", "substring(s, 0)", "substring(s, 2, 1)", "substring(s, -1, 3)", "substring(s, 1, 0)", "substring(s FROM i)", "substring(s, 1, i)",
    *(f"split_part(s, 'a', {at})" for at in (1, 2, -1, -2, 9)), "length(s)", "concat(s, i, NULL, b, d)", "concat_ws('-', s, NULL, t)", "s || i", "s || NULL",
    *(f"{name}({of})" for name in ("abs", "round", "floor", "ceil") for of in "ilnfr" if (name, of) not in {("round", "i"), ("round", "l")}), "round(n, 3)",
    *(f"{a} {sign} {b}" for a, b in ("ij", "li", "nm", "ni", "fr", "fi") for sign in ("+", "-", "*", "%") if sign != "%" or a != "f"), "i / j", "l / i", "f / r",
    *(f"{a} {sign} {b}" for a, b in (("i", "j"), ("i", "l"), ("n", "m"), ("n", "i"), ("f", "r"), ("f", "i"), ("s", "t"), ("d", "ts"), ("ts", "ts"), ("b", "b"), ("u", "u")) for sign in ("=", "<>", "<", "<=", ">", ">=", "IS DISTINCT FROM", "IS NOT DISTINCT FROM")),
    *(f"{name}({args})" for name in ("greatest", "least", "coalesce") for args in ("i, j, l", "n, m", "f, r, i", "s, t", "d, ts", "u, u", "b, NULL")),
    "i BETWEEN j AND l", "i NOT BETWEEN 1 AND 7", "i IN (1, 7, NULL)", "i NOT IN (1, 7)", "s IN (t, 'a')", "i IS NULL", "s IS NOT NULL", "b IS TRUE", "b IS NOT FALSE", "NOT b", "b AND i > 1", "b OR i > 1",
    "s LIKE 'a%'", "s NOT LIKE '_b%'", "s ILIKE 'A_'", "nullif(i, j)", "nullif(s, t)", "-i", "-f", "CASE WHEN i > 1 THEN 'x' WHEN b THEN s END", "CASE i WHEN 1 THEN j WHEN 7 THEN l ELSE 0 END",
    *(f"CAST({of} AS {kind})" for of in "ilnfr" for kind in ("smallint", "integer", "bigint", "numeric(20,3)", "double precision", "real")), *(f"CAST({of} AS text)" for of in "iln"),
    *(f"CAST(s AS {kind})" for kind in ("smallint", "bigint", "numeric(20,3)", "boolean", "uuid", "varchar(2)", "char(2)")),
    *(f"CAST({of} AS {kind})" for of in ("d", "ts", "tz") for kind in ("date", "timestamp", "timestamptz", "text")), "CAST(b AS text)", "CAST(b AS integer)", "CAST(i AS boolean)", "CAST(u AS text)",
]  # fmt: skip


def test_each_function_and_operator_of_each_type_equals_postgresql(oracle: Oracle) -> None:
    rng = random.Random(1)
    oracle.fill(edge_case_rows(rng, 60))
    result = compare(oracle, rng, EACH)
    assert not result.differences, "\n".join(result.differences)
    assert result.compiled_count == len(EACH)


def test_regressions_equal_postgresql(oracle: Oracle) -> None:
    rng = random.Random(1)
    oracle.fill(edge_case_rows(rng, 90))
    result = compare(oracle, rng, FIXED)
    assert not result.differences, "\n".join(result.differences)
    assert result.compiled_count == len(FIXED)


@pytest.mark.parametrize("part", range(4))
def test_random_expressions_equal_postgresql(oracle: Oracle, seed: int, part: int) -> None:
    agree(oracle, seed, 500)


@pytest.mark.chaos
@pytest.mark.parametrize("part", range(50))
def test_many_random_expressions_equal_postgresql(oracle: Oracle, seed: int, part: int) -> None:
    agree(oracle, seed, 1000)


def test_operators_without_parentheses_associate_as_in_postgresql(oracle: Oracle, seed: int) -> None:
    rng = random.Random(seed)
    oracle.fill(edge_case_rows(rng, 60))
    result = compare(oracle, rng, [chain(rng) for _ in range(2000)])
    assert not result.differences, "\n".join([f"seed {seed}:", *result.differences[:20]])
    assert result.compiled_count > 100


def test_expressions_that_the_server_cannot_parse_are_differences(oracle: Oracle) -> None:
    oracle.fill(edge_case_rows(random.Random(1), 60))
    compiled = compile_expression("b IS TRUE", TYPES, "oracle")
    assert oracle.postgres_values([("b IS IS TRUE", compiled), ("b IS TRUE", compiled)])[0] == [f"{FAILED}42601"] * 60


def test_upper_and_lower_equal_postgresql_for_every_letter(oracle: Oracle) -> None:
    import polars as pl

    from dataflows.transforms.expressions.texts import lower, upper

    letters = [chr(code) for code in range(1, 0x20000) if not 0xD800 <= code < 0xE000]
    asked = oracle.server.execute(
        'SELECT array_agg(upper(c COLLATE "pg_c_utf8") ORDER BY n), array_agg(lower(c COLLATE "pg_c_utf8") ORDER BY n)'
        " FROM unnest(%s::text[]) WITH ORDINALITY AS x (c, n)",
        (letters,),
    ).fetchone()
    assert asked is not None
    frame = pl.DataFrame({"c": letters}).select(upper=upper(pl.col("c")), lower=lower(pl.col("c")))
    for have, want in zip((frame["upper"].to_list(), frame["lower"].to_list()), asked, strict=True):
        odd = [(letter, a, b) for letter, a, b in zip(letters, have, want, strict=True) if a != b]
        assert len(odd) < 70, odd  # one side's Unicode is newer


def test_the_rows_cover_every_type(oracle: Oracle) -> None:
    oracle.fill(edge_case_rows(random.Random(1), 60))
    assert all(column.null_count for column in oracle.batch.columns)
    assert set(oracle.batch.schema.names) == set(TYPES)
