"""Date and time functions on terms, with SQL's rules."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Final

import polars as pl

from dataflows.transforms.expressions.casts import cast
from dataflows.transforms.expressions.functions import unified
from dataflows.transforms.expressions.terms import (
    DATE,
    DAY_MICROS,
    FIRST_DAY,
    INTEGER,
    LAST_DAY,
    STAMP,
    STAMPTZ,
    Term,
    any_of,
    in_date_range,
    numeric,
)
from penstock.errors import SchemaMismatch

TIMES: Final = {DATE.name, STAMP.name, STAMPTZ.name}
_PARTS: Final[dict[str, Callable[[pl.Expr], pl.Expr]]] = {
    "year": lambda e: _year(e.dt.year()), "month": lambda e: e.dt.month(), "day": lambda e: e.dt.day(),
    "quarter": lambda e: e.dt.quarter(), "week": lambda e: e.dt.week(), "isodow": lambda e: e.dt.weekday(),
    "dow": lambda e: e.dt.weekday() % 7, "doy": lambda e: e.dt.ordinal_day(),
    "isoyear": lambda e: _year(e.dt.iso_year()),
    "hour": lambda e: e.dt.hour(), "minute": lambda e: e.dt.minute(),
}  # fmt: skip
_UNITS: Final = {
    "microseconds": "us", "milliseconds": "ms", "second": "1s", "minute": "1m", "hour": "1h", "day": "1d", "week": "1w",
    "month": "1mo", "quarter": "1q", "year": "1y",
}  # fmt: skip


def _year(year: pl.Expr) -> pl.Expr:
    """Return the year as PostgreSQL's extract does: the year before 1 is -1."""
    return pl.when(year > 0).then(year).otherwise(year - 1)


def extract(part: str, term: Term, where: str) -> Term:
    """``extract(part FROM x)``: a numeric, as in PostgreSQL."""
    value = _time(term, "extract", where)
    if part in {"hour", "minute", "second"} and value.name == DATE.name:
        raise SchemaMismatch(f"a date has no {part}", where=where, hint="write CAST(… AS timestamp) around it")
    if part == "second":
        micros = value.expr.dt.second().cast(pl.Int128) * pl.lit(
            10**6, dtype=pl.Int128
        ) + value.expr.dt.microsecond().cast(pl.Int128)
        return Term(micros, numeric(8, 6), value.wrong)
    if part == "epoch":
        if value.name == DATE.name:
            days = value.expr.to_physical().cast(pl.Int128)
            return Term(days * pl.lit(86_400, dtype=pl.Int128), numeric(14, 0), value.wrong)
        return Term(value.expr.dt.timestamp("us").cast(pl.Int128), numeric(20, 6), value.wrong)
    if part not in _PARTS:
        raise SchemaMismatch(
            f"extract({part} …) is not supported", where=where, hint=f"one of {', '.join(_PARTS)}, second, epoch"
        )
    return Term(_PARTS[part](value.expr).cast(pl.Int128), numeric(10, 0), value.wrong)


def _time(term: Term, name: str, where: str) -> Term:
    if term.name not in TIMES:
        raise SchemaMismatch(
            f"{name} takes a date or timestamp, not {term.type}", where=where, hint="write CAST(… AS timestamp)"
        )
    return term


def truncated(unit: str, term: Term, where: str) -> Term:
    """``date_trunc(unit, x)``, in UTC; a date becomes a timestamptz, as in PostgreSQL."""
    value = _time(term, "date_trunc", where)
    if unit not in _UNITS or unit in {"microseconds", "milliseconds"}:
        raise SchemaMismatch(
            f"date_trunc('{unit}', …) is not supported", where=where, hint=f"one of {', '.join(_UNITS)}"
        )
    value = cast(value, STAMPTZ, where) if value.name == DATE.name else value
    return replace(value, expr=value.expr.dt.truncate(_UNITS[unit]), literal=None)


def date_arithmetic(sign: str, left: Term, right: Term, where: str) -> Term | None:
    """``date ± integer`` and ``date - date``; None if neither side is a date."""
    if left.name == DATE.name and right.name in {"smallint", "integer"}:
        days = right.expr.cast(pl.Int64) * (1 if sign == "+" else -1)
        day = left.expr.to_physical().cast(pl.Int64) + days
        inside = day.is_between(FIRST_DAY, LAST_DAY)
        moved = pl.when(inside).then(day).cast(pl.Int32).cast(pl.Date)
        return Term(moved, DATE, any_of(left.wrong, right.wrong, ~inside))
    if sign == "+" and right.name == DATE.name and left.name in {"smallint", "integer"}:
        return date_arithmetic("+", right, left, where)
    if sign == "-" and DATE.name in {left.name, right.name}:
        a, b = unified([left, right], where)
        if a.name == DATE.name:
            return Term((a.expr - b.expr).dt.total_days().cast(pl.Int32), INTEGER, any_of(a.wrong, b.wrong))
    if left.name in TIMES or right.name in TIMES:
        raise SchemaMismatch(
            f"`{left.type} {sign} {right.type}` is not supported",
            where=where,
            hint="add an interval, or a whole number of days to a date",
        )
    return None


_PART: Final = r"([+-]?)\s*(\d+)\s*(year|month|mon|week|day|hour|minute|min|second|sec)s?"
_INTERVAL: Final = re.compile(rf"\s*{_PART}(?:\s+{_PART})*(\s+ago)?\s*", re.IGNORECASE | re.ASCII)
_OFFSETS: Final = {"year": "y", "mon": "mo", "month": "mo", "week": "w", "day": "d", "hour": "h", "minute": "m",
                   "min": "m",
                   "second": "s", "sec": "s"}  # fmt: skip
_ORDER: Final = ["y", "mo", "w", "d", "h", "m", "s"]
_DAYS: Final = {"mo": 31, "w": 7, "d": 1, "h": 1 / 24, "m": 1 / 1440, "s": 1 / 86_400}
_OPPOSITE: Final = {"+": "-", "-": "+"}
MAX_DAYS: Final = 10_000_000


def add_interval(sign: str, term: Term, interval: str, where: str) -> Term:
    """Add or subtract an interval such as ``1 month 2 days``: first months, clamped to the month, then the rest."""
    value = _time(term, "an interval", where)
    match = _INTERVAL.fullmatch(interval)
    if match is None:
        hint = "such as '1 month 2 days', '-3 hours' or '1 day ago'"
        raise SchemaMismatch("an interval of whole units is needed", where=where, value=interval, hint=hint)
    value = cast(value, STAMP, where) if value.name == DATE.name else value
    amounts: dict[str, int] = {}
    for minus, number, unit in re.findall(_PART, interval.lower()):
        short = _OFFSETS[unit]
        amounts[short] = amounts.get(short, 0) + int(number) * (-1 if minus == "-" else 1)
    sign = _OPPOSITE[sign] if match[0].rstrip().lower().endswith("ago") else sign
    months = amounts.pop("y", 0) * 12 + amounts.pop("mo", 0)
    steps = ([(months, "mo")] if months else []) + [(amounts[unit], unit) for unit in _ORDER if amounts.get(unit)]
    result = _null_out_of_range(value, steps, 1 if sign == "+" else -1, where)
    for number, unit in steps:
        result = result.dt.offset_by(f"{number if sign == '+' else -number}{unit}")
    return in_date_range(replace(value, expr=result, literal=None)).also_wrong(
        value.expr.is_not_null() & result.is_null()
    )


def _null_out_of_range(value: Term, steps: list[tuple[int, str]], sign: int, where: str) -> pl.Expr:
    """Return the times that stay in the supported range after the interval is added; NULL instead of others."""
    days = sum(abs(number) * _DAYS[unit] for number, unit in steps)
    if days > MAX_DAYS:
        raise SchemaMismatch("the interval is too long", where=where, hint=f"at most {MAX_DAYS} days")
    step = sign * round(sum(number * _DAYS[unit] for number, unit in steps) * DAY_MICROS)
    target = value.expr.to_physical().cast(pl.Int64) + step
    return pl.when(target.is_between(2 * FIRST_DAY * DAY_MICROS, LAST_DAY * DAY_MICROS)).then(value.expr)
