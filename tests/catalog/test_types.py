"""The lattice of types: an order, its least upper bounds, and the values that a narrower type loses."""

from __future__ import annotations

from itertools import product

import pytest

from catalog.types import least_upper, loss, parse_type, widens

TYPES = [
    parse_type(text)
    for text in (
        "smallint", "integer", "bigint", "real", "double precision", "numeric", "numeric(3)", "numeric(4)",
        "numeric(5)", "numeric(4,2)", "numeric(9)", "numeric(10)", "numeric(12,2)", "numeric(18)", "numeric(19)",
        "numeric(30,4)", "boolean", "date", "timestamp", "timestamp(3)", "timestamptz", "timestamptz(0)", "time",
        "time(2)", "interval", "text", "varchar", "varchar(10)", "varchar(36)", "varchar(40)", "char(3)", "char(8)",
        "bpchar", "uuid", "json", "jsonb", "label", "bytea", "inet", "cidr", "bit(3)", "bit varying(4)", "bit varying",
        "integer[]", "bigint[]", "varchar(4)[]", "text[]", "boolean[]", "struct", "struct[]", "map", "mood", "xml",
    )
]  # fmt: skip


def test_the_types_are_ordered() -> None:
    below = {one: {other for other in TYPES if widens(one, other)} for one in TYPES}
    for one in TYPES:
        assert one in below[one]
        for other in below[one]:
            assert below[other] <= below[one], f"{one} -> {other} -> {below[other] - below[one]}"
            same = {str(one), str(other)} <= {"text", "character varying"}
            assert one == other or one not in below[other] or same, f"{one} and {other}"


def test_the_least_upper_type_is_the_smallest_that_stores_both() -> None:
    for one, other in product(TYPES, TYPES):
        uppers = [kind for kind in TYPES if widens(one, kind) and widens(other, kind)]
        found = least_upper(one, other)
        if found is None:
            assert not uppers, f"{one} and {other}: {[str(kind) for kind in uppers]}"
        else:
            assert widens(one, found)
            assert widens(other, found)
            missed = [str(kind) for kind in uppers if not widens(found, kind)]
            assert not missed, f"{one} and {other}: {found} is not below {missed}"


@pytest.mark.parametrize(
    ("value", "target", "lost"),
    [
        ("bigint", "integer", "numbers above 2147483647"),
        ("bigint", "double precision", "numbers above 9007199254740992"),
        ("numeric(12,2)", "bigint", "digits after the point"),
        ("numeric(12,2)", "numeric(12,1)", "more than 1 digits after the point"),
        ("numeric(12,2)", "numeric(11,2)", "numbers of more than 9 digits before the point"),
        ("numeric", "numeric(30,2)", "numbers of more than 28 digits before the point"),
        ("numeric(4,2)", "double precision", "digits that a binary fraction cannot represent"),
        ("double precision", "real", "digits that are rounded"),
        ("real", "numeric", "fractions, infinity and NaN"),
        ("text", "varchar(40)", "texts of more than 40 characters"),
        ("varchar(4)", "char(4)", "spaces at the end"),
        ("timestamp", "timestamp(3)", "more than 3 digits of a second"),
        ("json", "jsonb", "repeated keys, and the order of keys"),
        ("bigint[]", "integer[]", "numbers above 2147483647, as elements"),
        ("text", "integer", "text is of another kind than integer: not each of its values is one"),
        ("date", "timestamptz", "date is of another kind than timestamp with time zone: not each of its values is one"),
    ],
)  # fmt: skip
def test_a_narrower_type_says_what_it_loses(value: str, target: str, lost: str) -> None:
    assert loss(parse_type(value), parse_type(target)) == lost


@pytest.mark.parametrize(
    ("one", "other", "upper"),
    [
        ("integer", "bigint", "bigint"),
        ("integer", "numeric(4,2)", "numeric(12,2)"),
        ("integer", "real", "double precision"),
        ("bigint", "real", None),
        ("numeric(10,2)", "numeric(8,4)", "numeric(12,4)"),
        ("varchar(10)", "uuid", "character varying(36)"),
        ("varchar(10)", "char(20)", "character varying(20)"),
        ("date", "timestamp", "timestamp without time zone"),
        ("integer[]", "bigint[]", "bigint[]"),
        ("boolean", "text", None),
        ("integer[]", "struct", "jsonb"),
        ("uuid", "jsonb", "text"),
    ],
)
def test_the_least_upper_type_of_two(one: str, other: str, upper: str | None) -> None:
    found = least_upper(parse_type(one), parse_type(other))
    assert (str(found) if found else None) == upper
