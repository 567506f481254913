# ruff: noqa: E501 - tables of cases, one a line
"""The chain over a batch: order, conditions, types and refused rows; compared with plain Python where possible."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from decimal import Decimal
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataflows.data.chunks import REFUSED, Chunk
from dataflows.data.tables import Column, Table
from dataflows.data.types import arrow_type, parse_type
from dataflows.transforms.chain import Chain
from dataflows.transforms.mapping import BoundMapping, FieldSpec, Rules, bind, output_columns
from dataflows.transforms.steps import LookupTable, Resources
from penstock.errors import BadData, InvalidDocument, MissingColumn, PenstockError, Refused, SchemaMismatch
from penstock.models.transforms import TransformStep, Validation

COLUMNS = {
    "id": "bigint", "name": "text", "price": "numeric(12,2)", "n": "integer", "placed": "date", "paid": "boolean",
}  # fmt: skip
SOURCE = Table("public.orders", "r", tuple(Column(name, kind) for name, kind in COLUMNS.items()))
SCHEMA = pa.schema([(name, arrow_type(parse_type(kind))) for name, kind in COLUMNS.items()])
ROWS: list[dict[str, Any]] = [
    {"id": 1, "name": "ann", "price": Decimal("10.00"), "n": 2, "placed": date(2024, 1, 31), "paid": True},
    {"id": 2, "name": None, "price": Decimal("0.50"), "n": 0, "placed": None, "paid": False},
    {"id": 3, "name": "12", "price": None, "n": None, "placed": date(1, 1, 1), "paid": None},
    {"id": 4, "name": "zoë ", "price": Decimal("-3.25"), "n": -1, "placed": date(9999, 12, 31), "paid": True},
]


def steps(*written: dict[str, Any]) -> tuple[TransformStep, ...]:
    return tuple(TransformStep.parse({"name": f"s{at}"} | one) for at, one in enumerate(written))


def made(
    *written: dict[str, Any],
    fields: Any = None,
    validate: dict[str, Any] | None = None,
    target: Any = None,
    resources: Resources = Resources(),  # noqa: B008 - immutable
) -> BoundMapping:
    """Bind these steps; without a given target, to one created from them."""
    rules = Rules(fields, steps(*written), Validation.parse(validate or {}))
    into = target or Table("w.orders", "r", output_columns(rules, SOURCE, "orders", resources))
    return bind(rules, SOURCE, into, "orders", undecoded=False, resources=resources)


def apply(
    mapping: BoundMapping, rows: list[dict[str, Any]] = ROWS
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    assert isinstance(mapping.chain, Chain)
    batch = pa.RecordBatch.from_pylist(rows, schema=SCHEMA).select(list(mapping.reads))
    out, refused, _ = mapping.chain.apply(batch)
    return out.to_pylist(), [] if refused is None else refused.to_pylist()


def values(mapping: BoundMapping, name: str) -> list[Any]:
    return [row[name] for row in apply(mapping)[0]]


def test_each_step_sees_the_columns_of_the_step_before() -> None:
    chain = made(
        {"rename": {"name": "who", "n": "count"}},
        {"set": {"count": "count + 1", "next": "count + 2"}},
        {"cast": {"price": "double precision"}},
        {"filter": "count > 0"},
        {"select": ["id", "who", "count", "next"]},
    )
    assert apply(chain)[0] == [
        {"id": 1, "who": "ann", "count": 3, "next": 4},
        {"id": 2, "who": None, "count": 1, "next": 2},
    ]
    assert chain.targets == ("id", "who", "count", "next")
    assert set(chain.reads) == {"id", "name", "n", "price"}


def test_unread_columns_never_enter_the_frame() -> None:
    chain = made({"filter": "n > 0"}).chain
    assert isinstance(chain, Chain)
    assert set(chain.wanted) == {"n"}


def test_lineage_names_the_source_columns_of_each_value() -> None:
    chain = made(
        {"set": {"total": "price * n"}},
        {"rename": {"total": "sum"}},
        {"mask": {"name": "sha256"}},
        {"set": {"text": "concat(sum, name)"}},
        {"select": ["sum", "text", "id"]},
    )
    assert chain.lineage == {
        "sum": (("n", "price"), ("s0",)),
        "text": (("n", "name", "price"), ("s3",)),
        "id": (("id",), ()),
    }


def test_a_keyed_mask_is_an_hmac_and_needs_its_key() -> None:
    rule = {"mask": {"name": "hash"}}
    with pytest.raises(Refused, match="needs a key"):
        made(rule)
    out, _ = apply(made(rule, resources=Resources(mask_key=lambda: b"k3y")))
    assert [row["name"] for row in out] == [
        None if name is None else hmac.new(b"k3y", name.encode(), "sha256").hexdigest()
        for name in (row["name"] for row in apply(made({"rename": {"price": "p"}}))[0])
    ]


def test_a_mask_hides_values_everywhere() -> None:
    chain = made({"mask": {"name": "sha256", "price": "redact"}}, {"set": {"bad": "10 / n"}})
    out, refused = apply(chain)
    digest = hashlib.sha256(b"ann").hexdigest()
    assert [(row["id"], row["name"], row["price"]) for row in out] == [
        (1, digest, "***"),
        (3, hashlib.sha256(b"12").hexdigest(), None),
        (4, hashlib.sha256("zoë ".encode()).hexdigest(), "***"),
    ]
    assert json.loads(refused[0]["values"]) | {"id": 2, "name": None, "price": "***"} == json.loads(
        refused[0]["values"]
    )


def test_what_the_source_refuses_is_counted_and_kept_without_masked_values() -> None:
    mapping = made({"mask": {"name": "redact"}}, {"set": {"n": "n / n"}})
    assert isinstance(mapping.chain, Chain)
    batch = pa.RecordBatch.from_pylist(ROWS, schema=SCHEMA).select(list(mapping.reads))
    wrong = json.dumps({"id": 9, "name": "secret", "_raw": "9,secret"})
    refused = pa.RecordBatch.from_arrays(
        [pa.array([one], kind.type) for one, kind in zip((9, "source", "bad", "", wrong), REFUSED, strict=True)],
        schema=REFUSED,
    )
    for before, dead in ((None, 1), (refused, 2)):
        out = mapping.chain(Chunk("00", 0, 0, batch, 4, read=5, refused=before))
        assert out.refused is not None
        assert (out.rows, out.read, out.dead, out.refused.num_rows) == (3, 5, dead, dead)
    assert out.refused is not None
    assert json.loads(out.refused["values"][0].as_py()) == {"id": 9, "name": "***", "_raw": "***"}
    plain = made({"set": {"n": "1"}}).chain
    assert isinstance(plain, Chain)
    assert plain.without_masked(refused) is refused
    marker = Chunk("00", 0, 1, None, 4, last=True)
    assert plain(marker) is marker
    with pytest.raises(TypeError, match="undecoded"):
        plain(Chunk("00", 0, 0, memoryview(b""), 0))


def test_a_mask_in_some_rows_only() -> None:
    assert values(made({"mask": {"name": "redact"}, "when": "paid"}), "name") == ["***", None, "12", "***"]


def test_failing_rows_are_refused_and_the_others_keep_their_order() -> None:
    chain = made({"cast": {"name": "integer"}}, {"set": {"share": "100 / n"}}, validate={"checks": {"cheap": "id < 4"}})
    out, refused = apply(chain, [*ROWS, ROWS[2] | {"id": 0, "name": "7", "n": 5}])
    assert [row["id"] for row in out] == [3, 0]
    found = [(row["row"], row["step"], row["code"]) for row in refused]
    assert found == [(0, "s0", "expression.failed"), (3, "s0", "expression.failed"), (1, "s1", "expression.failed")]
    assert json.loads(refused[0]["values"])["name"] == "ann"
    cast = "a value is not of type integer, or beyond its range; guard the CAST with CASE or NULLIF, got"
    assert [row["reason"].rpartition(": ")[2] for row in refused[:2]] == [f"{cast} 'ann'", f"{cast} 'zoë '"]
    assert "an overflow, a division by zero, or a CAST of what is no such value" in refused[2]["reason"]


def test_a_cast_of_a_number_of_more_than_38_digits_refuses_its_rows_only() -> None:
    for kind in ("numeric(38,20)", "text"):
        out, refused = apply(made({"set": {"big": f"CAST(price + 9.9e35 + 9.9e35 AS {kind})"}}))
        assert ([row["id"] for row in out], [row["row"] for row in refused]) == ([3], [0, 1, 3]), kind
        assert {row["code"] for row in refused} == {"expression.failed"}


def test_a_check_that_is_null_passes_and_a_filter_that_is_null_does_not() -> None:
    assert values(made(validate={"checks": {"c": "paid"}}), "id") == [1, 3, 4]
    assert values(made({"filter": "paid"}), "id") == [1, 4]
    assert values(made({"filter": "id = 1", "when": "paid"}), "id") == [1, 2, 3]


def test_the_targets_own_columns_are_checked_row_by_row() -> None:
    target = Table("w.t", "r", (Column("id", "bigint"), Column("name", "character varying(3)", nullable=False)))
    fields = (FieldSpec("id", "id"), FieldSpec("name", "name"))
    out, refused = apply(made(fields=fields, target=target), [*ROWS, ROWS[0] | {"id": 5, "name": "four"}])
    assert [row["id"] for row in out] == [1, 3]
    assert [(row["row"], row["code"]) for row in refused] == [(1, "not_null"), (3, "too_long"), (4, "too_long")]


def test_blanks_at_the_end_of_a_text_are_kept_or_the_row_is_refused() -> None:
    """PostgreSQL and MySQL would drop them in silence."""
    fields, rows = (FieldSpec("id", "id"), FieldSpec("name", "name")), [ROWS[0] | {"id": 5, "name": "   "}, *ROWS]
    for kind, codes in (("character varying(2)", [("too_long", 0), ("too_long", 1), ("too_long", 4)]),
                        ("character varying(3)", [("too_long", 4)]), ("character varying(4)", []),
                        ("character(4)", [("blank", 0), ("blank", 4)]), ("text", [])):  # fmt: skip
        out, refused = apply(
            made(fields=fields, target=Table("w.t", "r", (Column("id", "bigint"), Column("name", kind)))), rows
        )
        assert sorted((row["code"], row["row"]) for row in refused) == codes, kind
        assert len(out) + len(refused) == len(rows)


def test_not_null_uses_the_column_names_after_the_steps() -> None:
    out, refused = apply(made({"rename": {"price": "cost"}}, validate={"not_null": ["cost"]}))
    assert ([row["id"] for row in out], [row["row"] for row in refused]) == ([1, 2, 4], [2])


def test_deduplicate_keeps_one_of_a_key() -> None:
    rows = [ROWS[0], ROWS[1], ROWS[0] | {"id": 9}, ROWS[2]]
    for keep, ids in (("first", [1, 2, 3]), ("last", [2, 9, 3])):
        out, refused = apply(made({"deduplicate": {"by": ["name"], "keep": keep}}), rows)
        assert ([row["id"] for row in out], refused) == (ids, [])


@pytest.mark.parametrize("kind", ["character(9)", "bpchar"])
def test_blanks_of_a_character_make_no_other_key(kind: str) -> None:
    source = replace(
        SOURCE, columns=tuple(replace(one, type=kind if one.name == "name" else one.type) for one in SOURCE.columns)
    )
    rules = Rules(None, steps({"deduplicate": {"by": ["name"], "keep": "first"}}), Validation())
    target = Table("w.orders", "r", output_columns(rules, source, "orders"))
    rows = [ROWS[0] | {"id": at, "name": name} for at, name in enumerate(("ann ", "ann", " ann", "a" * 8, None, None))]
    out, refused = apply(bind(rules, source, target, "orders", undecoded=False), rows)
    assert ([row["id"] for row in out], refused) == ([0, 2, 3, 4], [])


def test_a_character_without_a_length_has_none() -> None:
    assert [str(parse_type(one)) for one in ("bpchar", "bpchar(3)", "char", "character", "character(3)")] == [
        "bpchar", "character(3)", "character(1)", "character(1)", "character(3)",
    ]  # fmt: skip
    assert parse_type(str(parse_type("bpchar"))) == parse_type("bpchar")


RATES = LookupTable(
    {"code": parse_type("text"), "rate": parse_type("numeric(6,3)")},
    pl.DataFrame({"code": ["ann", "12", None], "rate": [Decimal("1.500"), Decimal("2.000"), Decimal("9.000")]},
                 schema={"code": pl.String, "rate": pl.Decimal(6, 3)}),
)  # fmt: skip


@pytest.mark.parametrize("missing", ["null", "refuse"])
def test_a_lookup_takes_columns_of_another_table(missing: str) -> None:
    rule = {"connection": "c", "object": "rates", "on": {"name": "code"}, "take": {"rate": "rate"}, "missing": missing}
    chain = made({"lookup": rule}, {"set": {"total": "price * rate"}}, resources=Resources(lambda *_: RATES))
    out, refused = apply(chain)
    found = {row["id"]: (row["rate"], row["total"]) for row in out}
    assert found[1] == (Decimal("1.500"), Decimal("15.00000"))
    if missing == "null":
        assert (found[2], found[4], refused) == ((None, None), (None, None), [])
    else:
        assert (sorted(found), [row["row"] for row in refused]) == ([1, 3], [1, 3])


def test_a_lookup_by_columns_that_are_not_unique_is_refused() -> None:
    twice = LookupTable(RATES.types, pl.concat([RATES.frame, RATES.frame]))
    rule = {"connection": "c", "object": "rates", "on": {"name": "code"}, "take": {"rate": "rate"}}
    with pytest.raises(SchemaMismatch, match="is not unique"):
        made({"lookup": rule}, resources=Resources(lambda *_: twice))


@pytest.mark.parametrize(
    "arrays",
    [
        ["[1, 2]", "[]", None, "[30]"], ['[1, 2, "x", {"a": 1}]', "oops", '{"a": 1}', "[]"],
        ["[1]", "", "[2,\n3]", "[4]"],
    ],
)  # fmt: skip
def test_explode_makes_a_row_of_each_element(arrays: list[str | None]) -> None:
    rows = [row | {"name": text} for row, text in zip(ROWS, arrays, strict=True)]
    mapping = made({"explode": {"column": "name"}})
    assert isinstance(mapping.chain, Chain)
    batch = pa.RecordBatch.from_pylist(rows, schema=SCHEMA).select(list(mapping.reads))
    out, refused, added = mapping.chain.apply(batch)
    expected, bad, empty = [], [], 0
    for at, row in enumerate(rows):
        try:
            found = None if row["name"] is None else json.loads(row["name"])
            assert found is None or isinstance(found, list)
        except (ValueError, AssertionError):
            bad.append(at)
            continue
        empty += found == []
        texts = [one if one is None or isinstance(one, str) else json.dumps(one) for one in found or []]
        expected += [(row["id"], text) for text in ([None] if found is None else texts)]
    assert [(row["id"], row["name"]) for row in out.to_pylist()] == expected
    assert [row["row"] for row in (refused.to_pylist() if refused else [])] == bad
    assert len(rows) + added == out.num_rows + empty + len(bad)


def test_exploded_numbers_keep_their_digits() -> None:
    """Numbers never pass through a double, whatever else is in the chunk."""
    numbers = ["123456789.123456789123", "1.10", "1e400", "12345678901234567890123", "-0.0"]
    rows = [ROWS[0] | {"name": text} for text in (f"[{', '.join(numbers)}]", '["1.5", null, [1.10, {"a": 2.50}]]')]
    out, refused = apply(made({"explode": {"column": "name"}}), rows)
    assert [row["name"] for row in out] == [*numbers, "1.5", None, '[1.10, {"a": 2.50}]']
    assert refused == []


def test_elements_that_fail_are_refused_one_by_one() -> None:
    rows: list[dict[str, Any]] = [ROWS[0] | {"name": '["1", "x", "y", "4"]'}]
    out, refused = apply(made({"explode": {"column": "name", "as": "integer"}}), rows)
    assert [row["name"] for row in out] == [1, 4]
    assert [(row["row"], row["step"]) for row in refused] == [(0, "s0"), (0, "s0 (2)")]


def shout(batch: pa.RecordBatch) -> pa.RecordBatch:
    texts = [None if one is None else one.upper() + "!" for one in batch.column("name").to_pylist()]
    return pa.RecordBatch.from_pydict(
        {"name": pa.array(texts, pa.string()), "size": pa.array([len(t or "") for t in texts])}
    )


def broken(_: pa.RecordBatch) -> pa.RecordBatch:
    raise ValueError("ann")


def fewer(batch: pa.RecordBatch) -> pa.RecordBatch:
    return batch.slice(1)


def more(batch: pa.RecordBatch) -> pa.RecordBatch:
    return pa.Table.from_batches([batch, batch]).combine_chunks().to_batches()[0]


def nothing(_: pa.RecordBatch) -> None:
    """Return no rows."""


def table(batch: pa.RecordBatch) -> pa.Table:
    return pa.Table.from_batches([batch])


def other_order(batch: pa.RecordBatch) -> pa.RecordBatch:
    return batch.take(pa.array(range(batch.num_rows - 1, -1, -1)))


def other_type(batch: pa.RecordBatch) -> pa.RecordBatch:
    return batch.set_column(0, "id", pa.array(["x"] * batch.num_rows))


def nested(batch: pa.RecordBatch) -> pa.RecordBatch:
    lists = pa.array([[1]] * batch.num_rows)
    return pa.RecordBatch.from_arrays([lists, lists], ["name", "size"])


def leaves(_: pa.RecordBatch) -> pa.RecordBatch:
    raise SystemExit


def stops_iteration(_: pa.RecordBatch) -> pa.RecordBatch:
    raise StopIteration


def recurses(batch: pa.RecordBatch) -> pa.RecordBatch:
    return recurses(batch)


def unsized(batch: pa.RecordBatch) -> pa.RecordBatch:
    return batch.select(["name"])


def whole(batch: pa.RecordBatch) -> pa.RecordBatch:
    return batch.append_column("size", batch.column("id"))


def test_a_python_function_receives_and_returns_columns() -> None:
    resources = Resources(modules=frozenset({__name__.rpartition(".")[0] or __name__, __name__}))
    rule: dict[str, Any] = {"call": f"{__name__}:shout", "columns": {"name": "text", "size": "bigint"}}
    chain = made({"python": rule}, {"set": {"size": "size + 1"}}, resources=resources)
    assert values(chain, "name") == ["ANN!", None, "12!", "ZOË !"]
    assert values(chain, "size") == [5, 1, 4, 6]
    kept = apply(made({"python": rule | {"call": f"{__name__}:whole"}}, resources=resources))[0]
    assert kept == [row | {"size": row["id"]} for row in ROWS], "all columns may come back, if they are as they were"
    for name, words in (
        ("broken", r"raised ValueError in line \d+ of test_transforms.py"),
        ("fewer", "RecordBatch of 4 rows"),
        ("more", "RecordBatch of 4 rows"),
        ("nothing", "RecordBatch of 4 rows"),
        ("table", "RecordBatch of 4 rows"),
        ("other_order", "its rows in another order"),
        ("other_type", "`id` with other values"),
        ("nested", "are not"),
        ("leaves", "raised SystemExit"),
        ("stops_iteration", "raised StopIteration"),
        ("recurses", "raised RecursionError"),
        ("unsized", "returned no column `size`"),
    ):
        with pytest.raises(BadData, match=words) as error:
            apply(made({"python": rule | {"call": f"{__name__}:{name}"}}, resources=resources))
        assert "ann" not in str(error.value)


def test_a_function_of_a_module_not_in_the_settings_is_refused() -> None:
    with pytest.raises(Refused, match="only modules named in the settings"):
        made({"python": {"call": "os:system", "columns": {"x": "text"}}})
    with pytest.raises(Refused, match="no such function"):
        made(
            {"python": {"call": "json:nothing", "columns": {"x": "text"}}},
            resources=Resources(modules=frozenset({"json"})),
        )


@pytest.mark.parametrize(
    ("written", "error", "words"),
    [
        ([{"set": {"x": "prize + 1"}}], MissingColumn, ["transforms[0] (s0).set.x", "did you mean `price`"]),
        (
            [{"rename": {"name": "who"}}, {"filter": "name = 'a'"}],
            MissingColumn,
            ["transforms[1] (s1).filter", "'name'"],
        ),
        ([{"select": ["id"]}, {"mask": {"name": "sha256"}}], MissingColumn, ["transforms[1] (s1).mask.name"]),
        ([{"filter": "n + 1"}], SchemaMismatch, ["true or false", "integer"]),
        ([{"set": {"n": "n + 1"}, "when": "n"}], SchemaMismatch, ["true or false"]),
        ([{"cast": {"n": "integr"}}], SchemaMismatch, ["no such type", "did you mean `integer`"]),
        ([{"cast": {"n": "integer) + (1"}}], SchemaMismatch, ["no such type"]),
        ([{"cast": {"paid": "date"}}], SchemaMismatch, ["no cast"]),
        ([{"rename": {"n": "id"}}], SchemaMismatch, ["two columns", "'id'"]),
        ([{"set": {"x": "lowr(name)"}}], SchemaMismatch, ["lowr", "did you mean `lower`"]),
        ([{"set": {"x": "1) ELSE (2"}, "when": "paid"}], InvalidDocument, ["not a SQL expression"]),
        ([{"mask": {"n": "sha256"}, "when": "paid"}], SchemaMismatch, ["only text"]),
        ([{"deduplicate": {"by": ["nam"]}}], MissingColumn, ["did you mean `name`"]),
        ([{"explode": {"column": "n"}}], SchemaMismatch, ["a JSON array is needed"]),
    ],
)
def test_mistakes_in_steps_are_reported_before_the_run(
    written: list[dict[str, Any]], error: type[PenstockError], words: list[str]
) -> None:
    with pytest.raises(error) as found:
        made(*written)
    for word in words:
        assert word in str(found.value)


def test_columns_that_the_target_lacks_are_reported() -> None:
    target = Table("w.t", "r", (Column("id", "bigint"), Column("total", "numeric(12,2)")))
    with pytest.raises(SchemaMismatch, match=r"CAST"):
        made({"set": {"total": "price * price"}}, {"select": ["id", "total"]}, target=target)
    with pytest.raises(MissingColumn, match="total"):
        made({"rename": {"price": "totl"}}, {"select": ["id", "totl"]}, target=target)


def test_a_value_goes_into_its_own_type_or_a_wider_one_and_a_text_into_a_label() -> None:
    for name, column, fits in (
        ("name", Column("out", "integer"), False),
        ("n", Column("out", "bigint"), True),
        ("id", Column("out", "integer"), False),
        ("name", Column("out", "mood", label=True), True),
        ("n", Column("out", "mood", label=True), False),
    ):
        target, fields = Table("w.t", "r", (column,)), (FieldSpec("out", name),)
        if fits:
            assert apply(made(fields=fields, target=target))[0]
        else:
            with pytest.raises(SchemaMismatch, match="does not fit into `out`"):
                made(fields=fields, target=target)


# -- properties ------------------------------------------------------------------------------------------------------

NUMBERS = st.one_of(st.none(), st.integers(-1000, 1000))
Python = Callable[[dict[str, Any]], Any]
SETS: dict[str, Python] = {
    "a + 1": lambda r: None if r["a"] is None else r["a"] + 1,
    "a * 2": lambda r: None if r["a"] is None else r["a"] * 2,
    "b - a": lambda r: None if r["a"] is None or r["b"] is None else r["b"] - r["a"],
    "coalesce(a, b, 0)": lambda r: next((v for v in (r["a"], r["b"]) if v is not None), 0),
    "CASE WHEN a > b THEN a ELSE b END": lambda r: r["a"] if None not in (r["a"], r["b"]) and r["a"] > r["b"] else r["b"],
}  # fmt: skip
TESTS: dict[str, Python] = {
    "a > 0": lambda r: r["a"] is not None and r["a"] > 0,
    "a <> b": lambda r: None not in (r["a"], r["b"]) and r["a"] != r["b"],
    "NOT (a < b)": lambda r: None not in (r["a"], r["b"]) and not r["a"] < r["b"],
    "a IS NULL OR b > 3": lambda r: r["a"] is None or (r["b"] is not None and r["b"] > 3),
    "a IN (1, 2, 3)": lambda r: r["a"] in (1, 2, 3),
}
PAIR = Table("public.pairs", "r", (Column("k", "bigint"), Column("a", "bigint"), Column("b", "bigint")))
PAIRS = pa.schema([("k", pa.int64()), ("a", pa.int64()), ("b", pa.int64())])


@st.composite
def random_step(draw: st.DrawFn) -> dict[str, Any]:
    kind = draw(st.sampled_from(["set", "filter", "swap"]))
    if kind == "swap":
        return {"rename": {"a": "b", "b": "a"}}
    when = {"when": draw(st.sampled_from(sorted(TESTS)))} if draw(st.booleans()) else {}
    if kind == "filter":
        return {"filter": draw(st.sampled_from(sorted(TESTS)))} | when
    return {"set": {draw(st.sampled_from(["a", "b"])): draw(st.sampled_from(sorted(SETS)))}} | when


def oracle(written: list[dict[str, Any]], rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Apply the steps row by row, in plain Python."""
    out = []
    for given_row in rows:
        row: dict[str, Any] | None = dict(given_row)
        for step in written:
            assert row is not None
            if "rename" in step:
                row["a"], row["b"] = row["b"], row["a"]
            elif "when" in step and not TESTS[step["when"]](row):
                continue
            elif "filter" in step:
                row = row if TESTS[step["filter"]](row) else None
            else:
                ((name, text),) = step["set"].items()
                row[name] = SETS[text](row)
            if row is None:
                break
        if row is not None:
            out.append(row)
    return out


def run_pairs(written: list[dict[str, Any]], rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    rules = Rules(None, steps(*written))
    mapping = bind(rules, PAIR, Table("w.p", "r", output_columns(rules, PAIR, "pairs")), "pairs", undecoded=False)
    assert isinstance(mapping.chain, Chain)
    out, refused, added = mapping.chain.apply(
        pa.RecordBatch.from_pylist(rows, schema=PAIRS).select(list(mapping.reads))
    )
    assert (refused, added) == (None, 0)
    return [{name: row[name] for name in ("k", "a", "b")} for row in out.to_pylist()]


ROWS_OF_PAIRS = st.lists(st.tuples(NUMBERS, NUMBERS), max_size=30).map(
    lambda pairs: [{"k": at, "a": a, "b": b} for at, (a, b) in enumerate(pairs)]
)


@settings(max_examples=60, deadline=None)
@given(written=st.lists(random_step(), min_size=1, max_size=6), rows=ROWS_OF_PAIRS)
def test_property_08_transforms_apply_in_the_configured_order(
    written: list[dict[str, Any]], rows: list[dict[str, Any]]
) -> None:
    """Validates: Requirements 4.1 - each step works on the result of the step before."""
    assert run_pairs(written, rows) == oracle(written, rows)


@settings(max_examples=60, deadline=None)
@given(test=st.sampled_from(sorted(TESTS)), text=st.sampled_from(sorted(SETS)), rows=ROWS_OF_PAIRS)
def test_property_13_conditional_transforms_apply_only_where_the_condition_holds(
    test: str, text: str, rows: list[dict[str, Any]]
) -> None:
    """Validates: Requirements 6.4 - the row changes where the condition is true, and not where it is false or NULL."""
    out = run_pairs([{"set": {"a": text}, "when": test}], rows)
    assert len(out) == len(rows)
    for before, after in zip(rows, out, strict=True):
        expected = SETS[text](before) if TESTS[test](before) else before["a"]
        assert after == before | {"a": expected}


EXPRESSIONS = [
    "id + n", "price * n", "price / n", "n / n", "lower(name)", "name || '!'", "CAST(name AS integer)", "placed + n",
    "CAST(price AS integer)", "CASE WHEN paid THEN price ELSE n END", "coalesce(name, 'x')", "length(name)", "paid AND n > 0",
    "round(price, 1)", "substr(name, 1, n)", "CAST(n AS text)", "extract(year FROM placed)", "abs(price)", "nullif(n, 0)",
]  # fmt: skip
TYPES = [
    "text",
    "integer",
    "bigint",
    "numeric(10,2)",
    "double precision",
    "boolean",
    "date",
    "timestamptz",
    "varchar(3)",
]
FREE_STEP = st.one_of(
    st.builds(lambda n, e: {"set": {n: e}}, st.sampled_from([*COLUMNS, "new"]), st.sampled_from(EXPRESSIONS)),
    st.builds(lambda n, t: {"cast": {n: t}}, st.sampled_from(sorted(COLUMNS)), st.sampled_from(TYPES)),
    st.builds(lambda e: {"filter": f"({e}) IS NOT NULL"}, st.sampled_from(EXPRESSIONS)),
    st.builds(lambda n: {"mask": {n: "sha256"}}, st.sampled_from(sorted(COLUMNS))),
    st.builds(lambda n: {"explode": {"column": n, "as": "integer"}}, st.sampled_from(sorted(COLUMNS))),
)
DIGITS = st.integers(-(10**12) + 1, 10**12 - 1)
FREE_ROW = st.fixed_dictionaries({
    "id": st.integers(-(2**63), 2**63 - 1),
    "name": st.none() | st.sampled_from(["", "7", " 12", "[1,2]", '["x"]', "t", "2024-02-30", "2024-02-29"]) | st.text(max_size=5),
    "price": st.none() | DIGITS.map(lambda n: Decimal(n).scaleb(-2)),
    "n": st.none() | st.sampled_from([0, 1, -1, 2**31 - 1, -(2**31)]) | st.integers(-50, 50),
    "placed": st.none() | st.dates(date(1, 1, 1), date(9999, 12, 31)), "paid": st.none() | st.booleans(),
})  # fmt: skip


def _planned(written: list[dict[str, Any]]) -> BoundMapping | None:
    try:
        return made(*written)
    except (SchemaMismatch, MissingColumn):
        return None


@settings(max_examples=150, deadline=None)
@given(written=st.lists(FREE_STEP, min_size=1, max_size=4), rows=st.lists(FREE_ROW, min_size=1, max_size=12))
def test_property_12_valid_transforms_pass_schema_validation_and_never_fail_on_types(
    written: list[dict[str, Any]], rows: list[dict[str, Any]]
) -> None:
    """Validates: Requirements 6.3 - a plan that is accepted runs: each row has the planned types or is refused."""
    mapping = _planned(written)
    if mapping is None:
        return
    assert isinstance(mapping.chain, Chain)
    batch = pa.RecordBatch.from_pylist(rows, schema=SCHEMA).select(list(mapping.reads))
    out, refused, added = mapping.chain.apply(batch)
    rules = Rules(None, steps(*written))
    planned = {one.name: one for one in output_columns(rules, SOURCE, "orders")}
    assert tuple(out.schema.names) == tuple(planned)
    for name, column in planned.items():
        kind = parse_type(column.type)
        assert out.schema.field(name).type == (arrow_type(kind) or out.schema.field(name).type)
    dead = 0 if refused is None else refused.num_rows
    assert out.num_rows + dead <= len(rows) + added


def test_a_mask_whose_condition_fails_refuses_the_row_and_never_writes_the_value() -> None:
    out, refused = apply(made({"mask": {"name": "redact"}, "when": "10 / n > 1"}))
    assert [(row["id"], row["name"]) for row in out] == [(1, "***"), (3, "12"), (4, "zoë ")]
    assert [(row["row"], row["step"], row["code"]) for row in refused] == [(1, "s0", "expression.failed")]
    assert "name" in json.loads(refused[0]["values"])


def test_a_masked_value_does_not_show_in_the_reason_of_a_failed_cast() -> None:
    _, refused = apply(made({"cast": {"name": "integer"}}))
    assert [row["reason"].rpartition("got ")[2] for row in refused] == ["'ann'", "'zoë '"]
    _, refused = apply(made({"set": {"x": "CAST(name AS integer)"}}, {"mask": {"name": "sha256"}}))
    assert not any("ann" in row["reason"] or "ann" in row["values"] for row in refused)


def test_a_row_for_which_a_filter_fails_is_a_dead_letter_and_not_filtered() -> None:
    chain = made({"filter": "10 / n > 1"}).chain
    assert isinstance(chain, Chain)
    batch = pa.RecordBatch.from_pylist([dict.fromkeys(COLUMNS) | {"n": 0}], schema=SCHEMA).select(list(chain.wanted))
    work = chain._run_stages(batch)
    assert (work.filtered, [list(one.rows) for one in work.refused]) == (0, [[0]])


def test_a_value_of_null_never_fails() -> None:
    """Whether it lies beyond a range is not known then."""
    rows = [*ROWS, dict.fromkeys(COLUMNS) | {"id": 5}]
    sets = {"later": "placed + n", "wide": "price + 1e20", "share": "10 / nullif(n, 0)", "whole": "CAST(name AS text)"}
    out, refused = apply(made({"set": sets}), rows)
    assert (refused, [row["later"] for row in out]) == (
        [], [date(2024, 2, 2), None, None, date(9999, 12, 30), None],
    )  # fmt: skip


def test_explode_keeps_trailing_zeros_of_numbers() -> None:
    rows = [dict.fromkeys(COLUMNS) | {"id": 1, "name": "[1.10]"}]
    out, _ = apply(made({"explode": {"column": "name", "as": "text"}}), rows)
    assert [row["name"] for row in out] == ["1.10"]


def test_a_condition_that_fails_behind_null_fails_and_behind_false_does_not() -> None:
    out, refused = apply(
        made({"set": {"x": "paid AND 10 / n > 1"}}), [ROWS[1], ROWS[1] | {"paid": None}, ROWS[1] | {"paid": True}]
    )
    assert [row["x"] for row in out] == [False]
    assert [row["row"] for row in refused] == [1, 2]


def test_a_lookup_by_padded_characters_equals_sql() -> None:
    codes = LookupTable(
        {"code": parse_type("character(6)"), "label": parse_type("text")},
        pl.DataFrame({"code": ["ann   ", "12    "], "label": ["A", "B"]}),
    )
    resources = Resources(load=lambda _, __: codes)
    chain = made(
        {"lookup": {"connection": "w", "object": "codes", "on": {"name": "code"}, "take": {"x": "label"}}},
        resources=resources,
    )
    assert values(chain, "x") == ["A", None, "B", None]


@pytest.mark.parametrize(("column", "kind"), [("price", "numeric(20,2)"), ("n", "bigint"), ("id", "smallint")])
def test_a_lookup_by_numbers_of_another_size_equals_sql(column: str, kind: str) -> None:
    keys = [row[column] for row in ROWS]
    array = pa.array(sorted({key for key in keys if key is not None}), arrow_type(parse_type(kind)))
    known = pl.DataFrame(pa.table({"key": array, "label": array.cast(pa.string())}))
    table = LookupTable({"key": parse_type(kind), "label": parse_type("text")}, known)
    rule = {"connection": "w", "object": "codes", "on": {column: "key"}, "take": {"x": "label"}}
    chain = made({"lookup": rule}, resources=Resources(load=lambda _, __: table))
    assert values(chain, "x") == [None if key is None else str(key) for key in keys]


def reversed_rows(batch: pa.RecordBatch) -> pa.RecordBatch:
    order = pa.array(range(batch.num_rows - 1, -1, -1))
    return batch.take(order).append_column("x", batch.column("id").cast(pa.string()).take(order))


def test_a_function_that_returns_its_rows_in_another_order_is_refused() -> None:
    rule = {"python": {"call": f"{__name__}:reversed_rows", "columns": {"x": "text"}}}
    with pytest.raises(BadData, match="another order"):
        apply(made(rule, resources=Resources(modules=frozenset({__name__}))))
