# ruff: noqa: E501, C901, SIM105, PLR0911 - tables and grammars of invalid input
"""Hostile expressions, in whole pipelines, over edge cases of every type; they run in a sandbox."""

from __future__ import annotations

import linecache
import os
import random
import re
import sys
from datetime import UTC, date, datetime
from decimal import Decimal
from importlib import import_module
from typing import Any

import pyarrow as pa

from dataflows.data.tables import Column, Table
from dataflows.data.types import arrow_type, parse_type
from dataflows.runs.job import rules_of
from dataflows.transforms.chain import Chain
from dataflows.transforms.expressions.check import check_expressions
from dataflows.transforms.mapping import bind, output_columns
from penstock.errors import PenstockError
from penstock.models.pipeline import Pipeline
from tests.hostile.runner import CANARY
from tests.hostile.sandbox import lock

COLUMNS = {
    "i": "integer", "j": "integer", "k": "smallint", "l": "bigint", "n": "numeric(12,2)", "m": "numeric(38,5)", "r": "real",
    "f": "double precision", "s": "text", "t": "varchar(20)", "h": "character(4)", "b": "boolean", "c": "boolean", "d": "date",
    "ts": "timestamp without time zone", "tz": "timestamp with time zone", "u": "uuid", "js": "jsonb", "big": "numeric", "iv": "interval",
    "*": "integer", "^.*$": "integer", "_row": "integer", 'q"t': "text", "Case Name": "text",
}  # fmt: skip
TABLE = Table("public.r", "r", tuple(Column(name, kind) for name, kind in COLUMNS.items()))
SCHEMA = pa.schema([(name, arrow_type(parse_type(kind))) for name, kind in COLUMNS.items()])
EDGES: dict[str, list[Any]] = {
    "integer": [0, 1, -1, 7, 2**31 - 1, -(2**31)], "smallint": [0, 1, 2**15 - 1, -(2**15)], "bigint": [0, 1, 2**63 - 1, -(2**63), 10**15],
    "numeric(12,2)": [Decimal("0.00"), Decimal("1.50"), Decimal("9999999999.99"), Decimal("-9999999999.99"), Decimal("-2.25")],
    "numeric(38,5)": [Decimal("0.00000"), Decimal("9" * 33 + "." + "9" * 5), Decimal("-" + "9" * 33 + "." + "9" * 5), Decimal("0.00001")],
    "real": [0.0, 1.5, float("inf"), float("nan"), 3e38], "double precision": [0.0, -0.0, 1.5, 1e308, 5e-324, float("inf"), float("-inf"), float("nan")],
    "text": ["", "a", "12", "-7", " x ", "é🙂\u0301", "\0", "1e999", "2024-02-30", "9999-12-31", "infinity", "a" * 5000, "%_\\", "true", "İßﬀ", "\u2028"],
    "varchar(20)": ["", "abc", "12.5"], "character(4)": ["ab  ", "    "], "boolean": [True, False],
    "date": [date(1, 1, 1), date(9999, 12, 31), date(2024, 2, 29), 2**31 - 1, -(2**31), 106_751_992],
    "timestamp without time zone": [datetime(1, 1, 1), datetime(9999, 12, 31, 23, 59, 59, 999999), datetime(2024, 1, 31), 2**63 - 1, -(2**63) + 1],
    "timestamp with time zone": [datetime(1, 1, 1, tzinfo=UTC), datetime(2024, 2, 29, tzinfo=UTC), 2**63 - 1, -(2**63) + 1],
    "uuid": ["00000000-0000-0000-0000-000000000000"], "jsonb": ['{"a": 1}'], "numeric": ["1", "NaN"], "interval": ["1 day"],
}  # fmt: skip
NAMES = [
    "i",
    "j",
    "k",
    "l",
    "n",
    "m",
    "r",
    "f",
    "s",
    "t",
    "h",
    "b",
    "c",
    "d",
    "ts",
    "tz",
    "u",
    "js",
    "big",
    "iv",
    '"*"',
    '"^.*$"',
    '"_row"',
    '"q""t"',
    '"Case Name"',
    "nope",
]
TYPES = [
    "smallint", "integer", "bigint", "numeric(10,2)", "numeric(38,38)", "numeric(38,0)", "numeric", "numeric(1000,500)", "numeric(5,10)", "numeric(0)", "numeric(0,0)", "real",
    "double precision", "text", "varchar(3)", "varchar(0)", "varchar(99999999999999999999)", "char(3)", "char(0)", "char(10485760)", "boolean", "date", "timestamp", "timestamptz", "time", "timetz",
    "interval", "bytea", "json", "jsonb", "uuid", "regclass", "regproc", "oid", "xml", "inet", "money", "int[]", "record", "public.t", "pg_catalog.int4", "bit(3)", "timestamp(3)", "float(99)", "name",
]  # fmt: skip
CONSTANTS = [
    "0", "1", "-1", "2147483647", "2147483648", "9223372036854775807", "9223372036854775808", "9" * 38, "9" * 39, "9" * 3000, "0.5", "1e5", "1e999999999", "1e-999999999", ".1", "1.", "0x1F", "1_000",
    "''", "'a'", "'12'", "'%'", "'\\'", "'" + "%_" * 500 + "'", "'2024-01-01'", "'infinity'", "'nan'", "NULL", "TRUE", "FALSE", "E'\\x00'", "U&'\\0061'", "$$a$$", "B'101'", "X'ff'", "'é🙂'", "'\0'",
    "DATE '2024-02-29'", "DATE '2024-02-30'", "TIMESTAMP 'infinity'", "INTERVAL '1 day'", "interval '99999999999999999999 years'", "interval '300000 years'", "interval '-99999999999 seconds'", "interval '1.5 days'", "current_date", "now()", "localtime",
]  # fmt: skip
BINARY = [
    "+",
    "-",
    "*",
    "/",
    "%",
    "||",
    "=",
    "<>",
    "<",
    "<=",
    ">",
    ">=",
    "AND",
    "OR",
    "LIKE",
    "ILIKE",
    "NOT LIKE",
    "IS DISTINCT FROM",
    "IN",
    "~",
    "~*",
    "SIMILAR TO",
    "^",
    "&",
    "|",
    "#",
    "<<",
    "->",
    "->>",
    "@>",
    "COLLATE",
    "AT TIME ZONE",
    "::",
    "?",
]
FUNCTIONS = [
    "lower", "upper", "length", "trim", "ltrim", "rtrim", "abs", "round", "floor", "ceil", "coalesce", "nullif", "greatest", "least", "concat", "concat_ws", "replace", "substring", "split_part", "lpad", "rpad", "left",
    "right", "mod", "date_trunc", "extract", "initcap", "reverse", "repeat", "md5", "sha256", "to_char", "to_date", "to_number", "date_part", "age", "random", "sqrt", "power", "exp", "ln", "sign", "position", "strpos", "translate",
    "regexp_replace", "regexp_match", "format", "quote_literal", "chr", "ascii", "encode", "decode", "generate_series", "unnest", "array_agg", "sum", "count", "row_number", "if", "iif", "try_cast", "lowr", "",
]  # fmt: skip
ESCAPE_ATTEMPTS = [
    "pg_read_file('/etc/passwd')", "pg_read_binary_file('canary')", "pg_ls_dir('.')", "read_csv('canary')", "read_text('canary')", "read_parquet('*')", "read_csv_auto('http://127.0.0.1/')", "glob('*')", "getenv('PENSTOCK_SECRET_CANARY')",
    "env('HOME')", "current_setting('data_directory')", "set_config('a', 'b', false)", "version()", "current_user", "session_user", "inet_server_addr()", "dblink('host=127.0.0.1', 'SELECT 1')", "lo_import('canary')", "lo_export(1, 'x')",
    "pg_sleep(60)", "pg_terminate_backend(1)", "pg_stat_file('canary')", "query_to_xml('SELECT 1', true, true, '')", "xmlparse(document '<!DOCTYPE x [<!ENTITY e SYSTEM \"file:///etc/passwd\">]><x>&e;</x>')", "load_file('canary')", "sys_eval('id')", "eval('1')",
    "exec('import os')", "__import__('os').environ", "${env:PENSTOCK_SECRET_CANARY}", "${file:canary}", "{{ env }}", "%(x)s", "(SELECT text FROM pg_read_file('canary'))", "(TABLE pg_shadow)", "(VALUES (1))", "EXISTS (SELECT 1)", "i IN (SELECT 1)", "ARRAY(SELECT 1)", "(WITH x AS (SELECT 1) SELECT * FROM x)",
    "1; DROP TABLE r", "1 -- x", "1 /* x */", "1 /* /* x */ */", "COPY r FROM PROGRAM 'id'", "COPY r TO '/tmp/x'", "ATTACH 'x'", "INSTALL httpfs", "LOAD 'x'", "SET x = 1", "CALL x()", "DO $$ BEGIN END $$", "EXECUTE x", "IMPORT DATABASE 'x'", "PRAGMA x", "CREATE FUNCTION f() RETURNS int LANGUAGE C AS 'x'", "s FROM r", "*", "r.*", "i[1]", "(r).i", "ROW(1, 2)", "i OVER ()", "sum(i) FILTER (WHERE b)", "i ORDER BY 1", "i AS x", "'file://canary'", "'${env:PENSTOCK_SECRET_CANARY}'", "x -> y", "LAMBDA x: x", "@@version", ":x", "$1", "?",
]  # fmt: skip
PARTS = [
    "year",
    "month",
    "day",
    "dow",
    "doy",
    "week",
    "quarter",
    "hour",
    "minute",
    "second",
    "epoch",
    "isoyear",
    "century",
    "microseconds",
    "timezone",
    "'year'",
    "nope",
]


def expression(rng: random.Random, depth: int) -> str:
    if depth <= 0 or rng.random() < 0.1:
        return rng.choice(NAMES) if rng.random() < 0.6 else rng.choice(CONSTANTS)

    def one() -> str:
        return expression(rng, depth - 1)

    way = rng.randrange(16)
    if way < 4:
        return f"({one()} {rng.choice(BINARY)} {one()})"
    if way < 7:
        return f"{rng.choice(FUNCTIONS)}({', '.join(one() for _ in range(rng.choice([0, 1, 1, 2, 2, 3, 3, 4])))})"
    if way == 7:
        return f"CASE WHEN {one()} THEN {one()} ELSE {one()} END"
    if way == 8:
        return f"CAST({one()} AS {rng.choice(TYPES)})"
    if way == 9:
        return f"extract({rng.choice(PARTS)} FROM {one()})"
    if way == 10:
        return f"date_trunc('{rng.choice(PARTS)}', {one()})"
    if way == 11:
        return f"({one()} {rng.choice('+-')} interval '{rng.choice(['1', '-1', '99999', '400000', '9' * 15, '9' * 30, ''])} {rng.choice(['day', 'month', 'years', 'seconds', 'fortnight', 'week', ''])}')"
    if way == 12:
        return f"{rng.choice(['lpad', 'rpad', 'left', 'right', 'round', 'repeat'])}({one()}, {rng.choice(CONSTANTS[:8])}{rng.choice(['', ', ' + chr(39) + '0' + chr(39)])})"
    if way == 13:
        return f"{one()} {rng.choice(['IS NULL', 'IS NOT NULL', 'IS TRUE', 'BETWEEN 1 AND 2', 'IN (1, NULL)', 'IN ()', 'NOT IN (i)', 'IS JSON', 'ISNULL'])}"
    if way == 14:
        return rng.choice(ESCAPE_ATTEMPTS)
    return f"{rng.choice(['NOT', '-', '+', '~', '- -', '@', '!'])} {one()}"


WELL_TYPED: dict[str, list[str]] = {
    "number": [
        "i", "j", "k", "l", "n", "m", "f", "r", '"*"', '"^.*$"', '"_row"', "1", "0", "-7", "0.5", "2147483647", "9223372036854775807", "1e30", "({number} + {number})", "({number} - {number})", "({number} * {number})",
        "({number} / {number})", "({number} % {number})", "abs({number})", "(- {number})", "round({number}, 2)", "round({number})", "floor({number})", "ceil({number})", "mod({number}, {number})", "coalesce({number}, {number})",
        "nullif({number}, {number})", "greatest({number}, {number})", "least({number}, {number}, 3)", "CASE WHEN {truth} THEN {number} ELSE {number} END", "length({text})", "extract(year FROM {time})", "extract(epoch FROM {time})",
        "extract(week FROM {time})", "extract(second FROM ts)", "CAST({text} AS integer)", "CAST({text} AS double precision)", "CAST({text} AS numeric(38,10))", "CAST({number} AS numeric(38,20))", "CAST({number} AS smallint)", "CAST({number} AS bigint)",
        "CAST({number} AS real)", "CAST({number} AS numeric)", "(d - d)", "CAST({truth} AS integer)", "CAST({number} AS double precision)",
    ],
    "text": [
        "s", "t", "h", '"q""t"', "'a'", "''", "u", "({text} || {text})", "concat({text}, {number}, {text})", "concat_ws('-', {text}, {number})", "lower({text})", "upper({text})", "trim({text})", "trim(BOTH 'ab' FROM {text})", "ltrim({text})",
        "replace({text}, 'a', 'bbb')", "replace({text}, 'a', '')", "substring({text} FROM {number} FOR 3)", "substring({text}, 2)", "split_part({text}, 'a', -1)", "lpad({text}, 10, '0')", "rpad({text}, 2)", "left({text}, 2)", "left({text}, -2)",
        "right({text}, -1)", "CAST({number} AS text)", "CAST({time} AS text)", "CAST({truth} AS text)", "CAST({text} AS varchar(3))", "CAST({text} AS char(5))", "coalesce({text}, {text})", "nullif({text}, {text})", "greatest({text}, {text})",
        "CASE {text} WHEN {text} THEN {text} END", "CASE WHEN {truth} THEN {text} END",
    ],
    "truth": [
        "b", "c", "TRUE", "NULL", "({number} = {number})", "({number} < {number})", "({text} >= {text})", "({time} > {time})", "({time} = '2024-01-01')", "({truth} AND {truth})", "({truth} OR {truth})", "(NOT {truth})", "({number} IS NULL)", "({truth} IS TRUE)",
        "({text} LIKE '%a_')", "({text} NOT ILIKE 'é%')", "({number} IN (1, {number}, NULL))", "({number} BETWEEN {number} AND {number})", "({text} IS DISTINCT FROM {text})", "CAST({text} AS boolean)", "CAST(i AS boolean)",
    ],
    "time": [
        "d", "ts", "tz", "DATE '2024-02-29'", "(d + {number})", "(d + i)", "(d - 7)", "date_trunc('month', {time})", "date_trunc('week', {time})", "({time} + interval '1 month')", "({time} - interval '9999 years')", "({time} + interval '100000 days 3 seconds')",
        "CAST({text} AS date)", "CAST({text} AS timestamp)", "CAST({text} AS timestamptz)", "CAST({time} AS date)", "CAST({time} AS timestamptz)", "coalesce({time}, {time})", "CASE WHEN {truth} THEN {time} END", "least({time}, {time})",
    ],
}  # fmt: skip
"""Mostly well-typed forms; each ``{kind}`` stands for any expression of that kind."""


def well_typed(rng: random.Random, kind: str, depth: int) -> str:
    forms = WELL_TYPED[kind] if depth > 0 else [form for form in WELL_TYPED[kind] if "{" not in form]
    parts = re.split(r"\{(\w+)\}", rng.choice(forms))
    return "".join(well_typed(rng, part, depth - 1) if at % 2 else part for at, part in enumerate(parts))


def oversized(rng: random.Random) -> str:
    """An excessively long or deeply nested expression."""
    count = rng.choice([20, 55, 70, 150, 400, 1900])
    before, inner, after = rng.choice(
        [
            ("(", "1", ")"),
            ("lower(", "s", ")"),
            ("CASE WHEN b THEN ", "1", " END"),
            ("NOT ", "b", ""),
            ("[", "1", "]"),
            ("(SELECT ", "1", ")"),
            ("- ", "1", ""),
            ("", "i", " + i"),
            ("", "b", " AND b"),
            ("", "s", " || s"),
            ("", "s", "::text"),
            ("replace(", "s", ", 'a', 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa')"),
            ("(", "", ""),
            ("", "i", " IN (1)"),
            ("coalesce(", "i", ", i)"),
            ("greatest(i, ", "i", ")"),
            ("i % (", "i", ")"),
            ("", "'a'", " 'b'"),
            ("/*", "", "*/"),
            ("ARRAY[", "1", "]"),
            ("CAST(", "s", " AS char(9999))"),
            ("lpad(", "s", ", 9999, '0')"),
            ("concat(s, s, s, ", "s", ")"),
            ("n * (", "n", ")"),
            ("m / (", "f", ")"),
        ]
    )
    return before * count + inner + after * count


def generate(number: int) -> tuple[dict[str, Any], int]:
    """Return a pipeline with random expressions, and the seed of its rows."""
    rng = random.Random(number)
    texts = [_text(rng, kind) for kind in ("truth", "truth", "truth")]
    if rng.random() < 0.1:
        texts[0] = _damaged(rng, texts[0])
    texts = [text if rng.random() < 0.97 else rng.choice(ESCAPE_ATTEMPTS) for text in texts]
    step: dict[str, Any] = {"name": "one"}
    way = rng.randrange(8)
    if way < 4:
        texts[0] = _text(rng, rng.choice(list(WELL_TYPED)))
        step["set"] = {rng.choice(["x", "i", "s", "*", "_row", "v:1", "=0"]): texts[0]}
    elif way == 4:
        step["filter"] = texts[0]
    elif way == 5:
        step |= {"set": {"x": _text(rng, rng.choice(list(WELL_TYPED)))}, "when": texts[1]}
    elif way == 6:
        step["cast"] = {rng.choice(list(COLUMNS)): rng.choice(TYPES)}
    else:
        step["mask"] = {rng.choice(list(COLUMNS)): rng.choice(["hash", "redact"])}
    spec: dict[str, Any] = {
        "source": {"connection": "a", "object": "r"},
        "sink": {"connection": "b", "object": "w"},
        "transforms": [step],
    }
    if rng.random() < 0.2:
        spec["validate"] = {"checks": {"one": texts[2]}}
    if rng.random() < 0.2:
        spec["mapping"] = {
            "fields": [{"target": "x", "sql": texts[2]}, *({"target": name, "from": name} for name in COLUMNS)]
        }
    return {"apiVersion": "penstock/v1", "kind": "Pipeline", "metadata": {"name": "p"}, "spec": spec}, number


def _text(rng: random.Random, kind: str) -> str:
    way = rng.random()
    if way < 0.06:
        return oversized(rng)
    return (
        well_typed(rng, kind, rng.choice([1, 2, 2, 3]))
        if way < 0.6
        else expression(rng, rng.choice([0, 1, 1, 2, 2, 3]))
    )


def _damaged(rng: random.Random, text: str) -> str:
    at = rng.randrange(len(text) + 1)
    return (
        text[:at]
        + rng.choice(
            [
                "\0",
                "\ud800",
                "'",
                '"',
                "\\",
                ")",
                "(",
                ";",
                "--",
                "/*",
                "$",
                "\u2028",
                "\ufeff",
                "🙂",
                "%",
                "{{",
                "\x85",
                "`",
                "#",
            ]
        )
        + text[at + rng.randrange(2) :]
    )


def batch(number: int) -> pa.RecordBatch:
    """Rows of edge cases; the first is NULL in every column."""
    rng = random.Random(number)
    arrays = []
    for field, kind in zip(SCHEMA, COLUMNS.values(), strict=True):
        values = [None, *(rng.choice([*EDGES[kind], None]) for _ in range(11))]
        whole = (
            pa.array([one if isinstance(one, int) else None for one in values], pa.int64())
            if pa.types.is_temporal(field.type)
            else None
        )
        if whole is None:
            arrays.append(pa.array(values, field.type))
            continue
        plain = pa.array([None if isinstance(one, int) else one for one in values], field.type)
        wide = whole.cast(pa.int32()) if pa.types.is_date32(field.type) else whole
        arrays.append(pa.compute.coalesce(plain, wide.view(field.type)))
    return pa.RecordBatch.from_arrays(arrays, schema=SCHEMA)


def prepare() -> None:
    """Load all lazy imports, then set the sandbox: from now on the kernel kills a process that opens anything."""
    import pyarrow.compute  # noqa: F401 - must be loaded before the sandbox

    texts = [
        "lowr(s)",
        "nope",
        "i +",
        "CAST(s AS integer)",
        "n * m",
        "CAST(ts AS text)",
        "date_trunc('day', ts) + interval '1 day'",
        "s ILIKE 'a%'",
        "concat_ws('-', s, t)",
        "split_part(s, 'a', 1)",
        "round(n, 1) / f",
    ]
    steps: list[dict[str, Any]] = [{"set": {"x": text}} for text in texts] + [
        {"mask": {"s": "hash"}},
        {"cast": {"d": "text"}},
        {"filter": "i > 1"},
        {"cast": {"s": "integr"}},
    ]
    for at, step in enumerate(steps):
        try:
            check((_one({"name": "one", **step}), at))
        except PenstockError as error:
            str(error)
    for number in range(60):
        try:
            check(generate(number))
        except Exception:  # noqa: BLE001, S110 - only to load modules; the input is checked later
            pass
    for name in (
        "encodings.idna",
        "encodings.unicode_escape",
        "stringprep",
        "sqlglot.optimizer.annotate_types",
        "sqlglot.optimizer.simplify",
    ):
        import_module(name)
    for module in list(sys.modules.values()):  # tracebacks read source lines, which the sandbox would not allow
        if str(getattr(module, "__file__", None)).endswith(".py"):
            linecache.getlines(str(module.__file__))
    lock()
    sys.addaudithook(_refuse)


def _one(step: dict[str, Any]) -> dict[str, Any]:
    return {
        "metadata": {"name": "p"},
        "spec": {
            "source": {"connection": "a", "object": "r"},
            "sink": {"connection": "b", "object": "w"},
            "transforms": [step],
        },
    }


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    if event.startswith(
        ("open", "socket", "subprocess", "os.", "ctypes", "import", "exec", "shutil", "pty", "urllib", "sqlite3")
    ):
        sys.stderr.write(f"an expression caused {event} {arguments!r}\n")
        os._exit(66)


def check(case: tuple[dict[str, Any], int]) -> str:
    document, number = case
    pipeline = Pipeline.parse(document, where="p.yaml")
    check_expressions(pipeline)
    rules = rules_of(pipeline.spec)
    target = Table("w", "r", output_columns(rules, TABLE, "p"))
    bound = bind(rules, TABLE, target, "p", undecoded=False)
    rows = batch(number).select(list(bound.reads))
    assert isinstance(bound.chain, Chain)
    try:
        out, refused, added = bound.chain.apply(rows)
    except PenstockError as error:
        raise AssertionError(f"the plan was accepted but does not run: {error}") from error
    dead = 0 if refused is None else refused.num_rows
    filtered = rows.num_rows + added - out.num_rows - dead
    may_filter = any(step.operation == "filter" for step in pipeline.spec.transforms)
    assert filtered >= 0
    assert may_filter or not filtered, f"{filtered} rows are missing"
    out.validate(full=True)
    for column in target.columns:
        wanted = arrow_type(parse_type(column.type))
        assert wanted is None or column.type == "numeric" or out.schema.field(column.name).type == wanted, column
    text = str([str(one) for one in out.columns]) + str(refused and refused.to_pylist())
    assert CANARY not in text.replace("${env:PENSTOCK_SECRET_CANARY}", ""), "a secret has leaked"
    return "runs, some rows refused" if dead else "runs"
