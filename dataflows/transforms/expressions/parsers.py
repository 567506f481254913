"""Parsers of text columns: numbers, dates, times and UUIDs in the forms that PostgreSQL accepts.

Each parser returns NULL where the text is not such a value. Polars parses the common forms; rare ones (``1e2``,
``0x1F``, ``1_000``) are parsed one by one.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import ROUND_HALF_UP, Context, Decimal, InvalidOperation
from typing import Final

import polars as pl

from dataflows.transforms.expressions.terms import DAY_MICROS, FIRST_DAY, LAST_DAY, MAX_DIGITS

__all__ = ["BLANKS", "dates", "integers", "scaled_integers", "significant_digits", "times", "uuids"]

BLANKS: Final = " \t\n\r\f\v"
_PLAIN_NUMBER: Final = r"^[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)$"
_GROUPED: Final = r"\d+(?:_\d+)*"
_NUMBER: Final = re.compile(rf"[+-]?(?:{_GROUPED}\.?(?:{_GROUPED})?|\.{_GROUPED})(?:e[+-]?{_GROUPED})?", re.ASCII)
_WHOLE: Final = re.compile(rf"[+-]?(?:{_GROUPED}|0x(?:_?[0-9a-f])+|0o(?:_?[0-7])+|0b(?:_?[01])+)", re.ASCII)
_MOST_DECIMALS: Final = 16_383
"""Digits after the point that a numeric of PostgreSQL may have; a text with more is refused before it is rounded."""
_EXACT: Final = Context(prec=2000, rounding=ROUND_HALF_UP)
_UUID: Final = r"^(?:(?:[0-9a-f]{4}-?){7}[0-9a-f]{4}|\{(?:[0-9a-f]{4}-?){7}[0-9a-f]{4}\})$"
_ZONE: Final = r"z|utc|gmt|[+-][0-9]{1,2}(?::[0-9]{2}(?::[0-9]{2})?)?|[+-][0-9]{3,4}"
_TIME: Final = (
    rf"(?:[{BLANKS}]+|t)([0-9]{{1,2}}):([0-9]{{1,2}})(?::([0-9]{{1,2}})(?:\.([0-9]*))?)?[{BLANKS}]*({_ZONE})?"
)
_STAMP: Final = rf"^[{BLANKS}]*([0-9]{{4,6}})-([0-9]{{1,2}})-([0-9]{{1,2}})(?:{_TIME})?(?:[{BLANKS}]*(bc))?[{BLANKS}]*$"
_MAX_OFFSET_HOURS: Final = 15


def integers(texts: pl.Series) -> pl.Series:
    """Parse integers (Int128), also in hexadecimal, octal and binary, and with ``_`` between digits."""
    bare = texts.str.strip_chars(BLANKS)
    plain = bare.str.contains(r"^[+-]?[0-9]{1,38}$")
    numbers = _null_unless(plain, bare.str.replace(r"^\+", "")).cast(pl.Int128, strict=False)
    return _parse_rest(numbers, bare, plain, _integer)


def _integer(text: str) -> int | None:
    text = text.lower()
    if not _WHOLE.fullmatch(text):
        return None
    digits = text.replace("_", "")
    value = int(digits, 0) if re.search("[xob]", digits) else int(digits)
    return value if abs(value) < 10**MAX_DIGITS else None


def scaled_integers(texts: pl.Series, scale: int) -> pl.Series:
    """Parse numbers, round them half away from zero to `scale` decimals, and return them times 10**scale (Int128)."""
    bare = texts.str.strip_chars(BLANKS)
    plain = bare.str.contains(_PLAIN_NUMBER)
    usual = _null_unless(plain, bare)
    whole = usual.str.extract(r"^[+-]?([0-9]*)").str.strip_chars_start("0")
    fraction = usual.str.extract(r"\.([0-9]*)$").fill_null("").str.slice(0, scale + 1).str.pad_end(scale + 1, "0")
    digits = (whole + fraction).str.strip_chars_start("0")
    fits = plain & (digits.str.len_bytes() <= MAX_DIGITS)
    size = _null_unless(fits, pl.select(pl.when(digits == "").then(pl.lit("0")).otherwise(digits)).to_series())
    number = size.cast(pl.Int128, strict=False)
    ten, five = (pl.Series([one], dtype=pl.Int128) for one in (10, 5))
    rounded = (number + five) // ten
    signed = pl.select(pl.when(usual.str.starts_with("-")).then(pl.lit(0, pl.Int128) - rounded).otherwise(rounded))
    return _parse_rest(signed.to_series(), bare, fits, lambda text: _scaled_integer(text, scale))


def _scaled_integer(text: str, scale: int) -> int | None:
    value = _scaled_value(text.lower(), scale)
    return None if value is None or abs(value) >= 10**MAX_DIGITS else value


def _scaled_value(text: str, scale: int) -> int | None:
    if not _NUMBER.fullmatch(text):
        whole = _integer(text)
        return None if whole is None else whole * 10**scale
    try:
        value = Decimal(text.replace("_", ""))
    except InvalidOperation:
        return None
    if int(value.as_tuple().exponent) < -_MOST_DECIMALS:
        return None
    if value.is_zero() or value.adjusted() < -scale - 2:
        return 0
    if value.adjusted() > MAX_DIGITS:
        return None
    return int(value.scaleb(scale, _EXACT).to_integral_value(ROUND_HALF_UP, _EXACT))


def significant_digits(numbers: pl.Series, digits: int) -> pl.Series:
    """Write doubles with that many significant digits, as PostgreSQL does when it converts them to numeric."""
    return pl.Series([None if one is None else f"{one:.{digits}g}" for one in numbers.to_list()], dtype=pl.String)


def uuids(texts: pl.Series) -> pl.Series:
    """Parse UUIDs (also upper case, in braces, with other dashes or none) to lower case with dashes."""
    low = texts.str.to_lowercase()
    digits = _null_unless(low.str.contains(_UUID), low).str.replace_all(r"[{}-]", "")
    return digits.str.replace(r"^(.{8})(.{4})(.{4})(.{4})(.{12})$", "${1}-${2}-${3}-${4}-${5}")


def dates(texts: pl.Series) -> pl.Series:
    """Parse dates; a time after the date must be valid, and is ignored."""
    parts = _parts(texts)
    fine = parts["day_number"].is_between(FIRST_DAY, LAST_DAY) & parts["micros"].is_not_null()
    return _null_unless(fine, parts["day_number"]).cast(pl.Int32).cast(pl.Date)


def times(texts: pl.Series, *, zone: bool) -> pl.Series:
    """Parse timestamps in microseconds. An offset is subtracted if `zone`, else ignored."""
    parts = _parts(texts)
    micros = parts["day_number"] * DAY_MICROS + parts["micros"]
    micros = micros - parts["offset"] if zone else micros
    return _null_unless(micros.is_between(FIRST_DAY * DAY_MICROS, LAST_DAY * DAY_MICROS), micros).cast(
        pl.Datetime("us")
    )


def _parts(texts: pl.Series) -> pl.DataFrame:
    """Return the day, the microseconds within it, and the offset in microseconds; NULL where one is invalid."""
    names = ("year", "month", "day", "hour", "minute", "second", "fraction", "zone", "bc")
    parts = (
        texts.str.to_lowercase()
        .alias("text")
        .to_frame()
        .select(pl.col("text").str.extract(_STAMP, at + 1).alias(name) for at, name in enumerate(names))
    )
    fraction = ("0." + pl.col("fraction").fill_null("") + "0").cast(pl.Float64) * 1e6
    numbers = parts.with_columns(
        pl.col("year", "month", "day").cast(pl.Int64),
        pl.col("hour", "minute", "second").cast(pl.Int64).fill_null(0),
        micros=fraction.round(0, mode="half_to_even").cast(pl.Int64),
    )
    before_christ = pl.when(pl.col("bc").is_null()).then("year").otherwise(1 - pl.col("year"))
    numbers = numbers.with_columns(year=before_christ, written="year")
    return numbers.select(
        pl.when(_is_date()).then(_day_number()).alias("day_number"),
        pl.when(_is_time())
        .then((pl.col("hour") * 3600 + pl.col("minute") * 60 + pl.col("second")) * 1_000_000 + pl.col("micros"))
        .alias("micros"),
        _offset().alias("offset"),
    ).with_columns(micros=pl.when(pl.col("offset").is_not_null()).then("micros"))


def _is_date() -> pl.Expr:
    year, month, day = pl.col("year"), pl.col("month"), pl.col("day")
    leap = (year % 4 == 0) & ((year % 100 != 0) | (year % 400 == 0))
    short = pl.when(leap).then(29).otherwise(28)
    longest = pl.when(month == 2).then(short).when(month.is_in([4, 6, 9, 11])).then(30).otherwise(31)  # noqa: PLR2004 - February
    return (pl.col("written") > 0) & month.is_between(1, 12) & day.is_between(1, longest)


def _day_number() -> pl.Expr:
    """Return the days since 1970 of a Gregorian date, by counting years from March on."""
    year, month, day = pl.col("year"), pl.col("month"), pl.col("day")
    date_arithmetic = pl.when(month <= 2).then(year - 1).otherwise(year)  # noqa: PLR2004 - January and February end a year
    era, of_era = date_arithmetic // 400, date_arithmetic % 400
    of_year = (153 * ((month + 9) % 12) + 2) // 5 + day - 1
    return era * 146_097 + of_era * 365 + of_era // 4 - of_era // 100 + of_year - 719_468


def _is_time() -> pl.Expr:
    """True for times up to 24:00:00; a second may be 60."""
    rest = pl.col("minute") + pl.col("second") + pl.col("micros")
    day_end = (pl.col("hour") < 24) | ((pl.col("hour") == 24) & (rest == 0))  # noqa: PLR2004 - the end of a day
    return day_end & (pl.col("minute") < 60) & (pl.col("second") <= 60)  # noqa: PLR2004 - minutes and seconds


def _offset() -> pl.Expr:
    zone = pl.col("zone")
    digits = zone.str.replace_all(r"[^0-9]", "")
    colon = zone.str.contains(":", literal=True)
    short = digits.str.len_bytes() <= len("HH")
    hours = pl.when(colon).then(zone.str.extract(r"^.([0-9]+)")).when(short).then(digits).otherwise(digits.str.head(-2))
    minutes = pl.when(colon).then(zone.str.extract(r":([0-9]{2})")).when(~short).then(digits.str.tail(2))
    h, m, s = (
        part.cast(pl.Int64, strict=False).fill_null(0)
        for part in (hours, minutes, zone.str.extract(r":[0-9]{2}:([0-9]{2})"))
    )
    micros = (h * 3600 + m * 60 + s) * 1_000_000 * pl.when(zone.str.starts_with("-")).then(-1).otherwise(1)
    fine = (h <= _MAX_OFFSET_HOURS) & (m < 60) & (s < 60)  # noqa: PLR2004 - minutes and seconds
    return pl.when(zone.is_null()).then(0).when(fine).then(micros)


def _null_unless(mask: pl.Series, values: pl.Series) -> pl.Series:
    """Return the values where the mask is true, else NULL."""
    return pl.select(pl.when(mask).then(values)).to_series()


def _parse_rest(parsed: pl.Series, texts: pl.Series, done: pl.Series, read: Callable[[str], int | None]) -> pl.Series:
    """Return `parsed`, completed by parsing each text that is not `done` by `read`."""
    left = ~done.fill_null(value=True)
    if not left.any():
        return parsed
    rest = pl.Series([None if one is None else read(one) for one in texts.filter(left).to_list()], dtype=parsed.dtype)
    return parsed.scatter(left.arg_true(), rest)
