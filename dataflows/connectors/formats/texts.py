"""Convert text to values of a type, exactly or not at all; and infer the type of a sample.

An inferred type is as strict for every row as for the sample: ``007`` is not an integer, and a number that a double
would round is not a double. A declared type accepts what PostgreSQL accepts for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal
from functools import partial
from typing import Final

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from dataflows.connectors.formats.types import LONG_BIGINT, UNKNOWN
from dataflows.data.decimals import decimals
from dataflows.data.tables import Column
from dataflows.data.types import SqlType, arrow_type, parse_type

__all__ = ["infer_type", "parse_column"]

_DAY: Final = r"\d{4}-\d\d-\d\d"
_CLOCK: Final = r"\d\d:\d\d:\d\d(\.\d{1,6})?"
_OFFSET: Final = r"(Z|[+-]\d\d(:?\d\d)?)"
_WHOLE: Final = r"^(0|-?[1-9][0-9]*)$"
_NUMBER: Final = r"^-?(0|[1-9][0-9]*)?(\.[0-9]+)?([eE][+-]?[0-9]{1,3})?$"
_ANY_NUMBER: Final = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"
_FEW_DIGITS: Final = r"^[-.0]*([0-9][.]?){0,15}([eE].*)?$"
"""Numbers of at most 15 digits, which a double preserves."""
_UUID: Final = r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"
_TRUE: Final = pa.array(["true", "t", "yes", "y", "on", "1"])
_FALSE: Final = pa.array(["false", "f", "no", "n", "off", "0"])
_SMALLEST_NORMAL: Final = 2.3e-308
"""Smallest normal double; those nearer to 0 have fewer digits."""
_DOUBLE_WHOLE: Final = 1 << 53
_TRY_FIRST: Final = 64
_INFERRED: Final = (
    ("boolean", r"^(true|false|True|False|TRUE|FALSE)$"), ("bigint", _WHOLE), ("numeric(38,0)", _WHOLE),
    ("double precision", _NUMBER), ("date", f"^{_DAY}$"),
    ("timestamp without time zone", f"^{_DAY}[ T]{_CLOCK}$"),
    ("timestamp with time zone", f"^{_DAY}[ T]{_CLOCK}{_OFFSET}$"),
    ("time without time zone", f"^{_CLOCK}$"),
)  # fmt: skip
_PATTERNS: Final = dict(_INFERRED)
_LIMITED: Final = {"text", "character varying", "character", "bytea"}
Read = Callable[[pa.Array], pa.Array]


def parse_column(texts: pa.Array, column: Column, *, inferred: bool) -> tuple[pa.Array, pa.Array | None]:
    """Return the texts as values of the column's type, and a mask of the invalid ones, which become NULL (or None).

    `inferred`: the type comes from a sample, so each text must be the canonical spelling of its value.
    """
    read = _parser_of(parse_type(column.type), inferred=inferred)
    if read is None:
        return texts, None
    try:
        return read(texts), None
    except pa.ArrowInvalid:
        wrong = set(_unreadable_positions(texts, read))
    mask = pa.array([at in wrong for at in range(len(texts))])
    return read(pc.if_else(mask, pa.scalar(None, pa.string()), texts)), mask


def infer_type(texts: pa.Array) -> str:
    """Infer the type of a column from its values as text: the first type of which all are canonical spellings."""
    have = texts.drop_null()
    if not len(have):
        return UNKNOWN
    for kind, _ in _INFERRED:
        read = _parser_of(parse_type(kind), inferred=True)
        if read is None or not (_can_read(have[:_TRY_FIRST], read) and _can_read(have, read)):
            continue
        if kind == "bigint" and _exceeds_double(read(have)):
            return LONG_BIGINT
        return kind
    return "text"


def _exceeds_double(numbers: pa.Array) -> bool:
    """True if a double may round some of these integers."""
    limits = pc.min_max(numbers)
    return bool(max(-limits["min"].as_py(), limits["max"].as_py()) >= _DOUBLE_WHOLE)


def _can_read(texts: pa.Array, read: Read) -> bool:
    try:
        read(texts)
    except pa.ArrowInvalid:
        return False
    return True


def _unreadable_positions(texts: pa.Array, read: Read, first: int = 0) -> Sequence[int]:
    """Return the positions of unreadable texts, by bisection."""
    if not len(texts) or _can_read(texts, read):
        return []
    if len(texts) == 1:
        return [first]
    half = len(texts) // 2
    return [*_unreadable_positions(texts[:half], read, first), *_unreadable_positions(texts[half:], read, first + half)]


def _parser_of(kind: SqlType, *, inferred: bool) -> Read | None:
    """Return a parser of this type that raises `ArrowInvalid`; None if every text is valid."""
    wanted = arrow_type(kind)
    if kind.name in _LIMITED or wanted is None:
        most, padded = kind.precision, kind.name == "character"
        return None if most is None or wanted is None else partial(_short, most=most, padded=padded)
    if kind.integer or kind.name == "numeric":
        return partial(_numeric if kind.name == "numeric" else _integer, wanted=wanted, inferred=inferred)
    if kind.name in {"double precision", "real"}:
        return partial(_floating, wanted=wanted, inferred=inferred and kind.name == "double precision")
    if kind.name in _PARSERS:
        return partial(_PARSERS[kind.name], inferred=inferred)
    if pa.types.is_date(wanted) or pa.types.is_timestamp(wanted) or pa.types.is_time(wanted):
        pattern = _PATTERNS[kind.name] if inferred else None
        return partial(_datetime, wanted=wanted, pattern=pattern, digits=kind.precision)
    return None


def _require(texts: pa.Array, pattern: str) -> None:
    if pc.all(pc.match_substring_regex(texts, pattern)).as_py() is False:
        message = "a text of another form"
        raise pa.ArrowInvalid(message)


def _short(texts: pa.Array, *, most: int, padded: bool) -> pa.Array:
    """Refuse texts that are too long; blanks count, unless they only pad them."""
    length = pc.utf8_length(pc.utf8_rtrim(texts, " ") if padded else texts)
    if pc.any(pc.greater(length, most)).as_py():
        message = "too long"
        raise pa.ArrowInvalid(message)
    return texts


def _integer(texts: pa.Array, *, wanted: pa.DataType, inferred: bool) -> pa.Array:
    if inferred:
        _require(texts, _WHOLE)
        return texts.cast(wanted)
    plain = pc.replace_substring_regex(texts, r"^\s*(?:\+|(-))?([0-9]+)\s*$", r"\1\2")
    _require(plain, r"^-?[0-9]+$")
    return plain.cast(wanted)


def _numeric(texts: pa.Array, *, wanted: pa.DataType, inferred: bool) -> pa.Array:
    plain = texts if inferred else pc.ascii_trim_whitespace(texts)
    if pa.types.is_string(wanted):  # of any size: travels as its text
        _require(plain, rf"(?i){_ANY_NUMBER}|^[+-]?(nan|inf|infinity)$")
        return plain
    _require(plain, _WHOLE if inferred and wanted.scale == 0 else _ANY_NUMBER)
    return decimals(pc.replace_substring_regex(plain, r"^\+", ""), wanted)


def _floating(texts: pa.Array, *, wanted: pa.DataType, inferred: bool) -> pa.Array:
    """Parse doubles; overflow and underflow are errors, and if `inferred` so is rounding."""
    plain = texts if inferred else pc.ascii_trim_whitespace(texts)
    _require(plain, _NUMBER if inferred else rf"(?i){_ANY_NUMBER}|^[+-]?(nan|inf|infinity)$")
    numbers = plain.cast(wanted)
    lost = pc.and_(pc.is_inf(numbers), pc.invert(pc.match_substring_regex(plain, "(?i)inf")))
    zeros = pc.and_(pc.equal(numbers, pa.scalar(0, wanted)), pc.match_substring_regex(plain, r"^[^eE]*[1-9]"))
    if pc.any(pc.or_(lost, zeros)).as_py():
        message = "out of range"
        raise pa.ArrowInvalid(message)
    if inferred:
        _check_exact(plain, numbers)
    return numbers


def _check_exact(texts: pa.Array, numbers: pa.Array) -> None:
    """Refuse a number that its double rounds, by comparing it with the double's shortest text."""
    tiny = pc.and_(pc.less(pc.abs(numbers), _SMALLEST_NORMAL), pc.not_equal(numbers, 0.0))
    doubtful = pc.or_(pc.invert(pc.match_substring_regex(texts, _FEW_DIGITS)), tiny)
    doubtful = pc.and_(doubtful, pc.not_equal(texts, numbers.cast(pa.string())))
    if not pc.any(doubtful).as_py():
        return
    for text, number in zip(texts.filter(doubtful).to_pylist(), numbers.filter(doubtful).to_pylist(), strict=True):
        if text is not None and Decimal(text) != Decimal(repr(number)):
            message = "more digits than a double can represent"
            raise pa.ArrowInvalid(message)


def _boolean(texts: pa.Array, *, inferred: bool) -> pa.Array:
    if inferred:
        _require(texts, _PATTERNS["boolean"])
    plain = pc.utf8_lower(pc.ascii_trim_whitespace(texts))
    truth = pc.is_in(plain, _TRUE)
    if pc.all(pc.or_(pc.or_(truth, pc.is_in(plain, _FALSE)), pc.is_null(texts))).as_py() is False:
        message = "neither true nor false"
        raise pa.ArrowInvalid(message)
    return pc.if_else(pc.is_valid(texts), truth, pa.scalar(None, pa.bool_()))


def _datetime(texts: pa.Array, *, wanted: pa.DataType, pattern: str | None, digits: int | None = None) -> pa.Array:
    """Parse dates and times; `digits` are those that a second has at most after the point."""
    if digits is not None:
        _require(texts, rf"^[^.]*(\.\d{{0,{digits}}}0*([^.\d].*)?)?$")
    if pattern is not None:
        _require(texts, pattern)
    else:  # zeros beyond the microseconds can be dropped
        texts = pc.replace_substring_regex(pc.ascii_trim_whitespace(texts), r"(\.\d{6})0+", r"\1")
    if not pa.types.is_time(wanted):
        return texts.cast(wanted)
    _require(texts, r"^\d\d:\d\d(:\d\d(\.\d+)?)?$")
    dated = pc.binary_join_element_wise(pa.scalar("1970-01-01"), texts, pa.scalar(" "))
    return dated.cast(pa.timestamp("us")).cast(wanted)


def _uuid(texts: pa.Array, *, inferred: bool) -> pa.Array:  # noqa: ARG001 - UUIDs are never inferred
    """Parse UUIDs as PostgreSQL does: capitals, braces and missing dashes are accepted."""
    if pc.all(pc.match_substring_regex(texts, _UUID)).as_py() is not False:
        return texts
    plain = pc.replace_substring_regex(texts, r"^\s*(?:\{([^{}]*)\}|([^{}]*?))\s*$", r"\1\2")
    digits = pc.utf8_lower(pc.replace_substring_regex(plain, r"([0-9A-Fa-f]{4})-", r"\1"))
    _require(digits, r"^[0-9a-f]{32}$")
    return pc.replace_substring_regex(digits, r"^(.{8})(.{4})(.{4})(.{4})(.{12})$", r"\1-\2-\3-\4-\5")


def _json(texts: pa.Array, *, inferred: bool) -> pa.Array:  # noqa: ARG001 - as strict in both cases
    for text in texts.to_pylist():
        if text is not None:
            try:
                msgspec.json.decode(text, type=msgspec.Raw)
            except (msgspec.DecodeError, RecursionError):
                message = "not JSON"
                raise pa.ArrowInvalid(message) from None
    return texts


_PARSERS: Final = {"boolean": _boolean, "uuid": _uuid, "json": _json, "jsonb": _json}
