r"""Convert lists, structs and maps to JSON text, as PostgreSQL's `to_json` writes them, without rounding.

Numbers keep all their digits, bytes are strings such as ``\x00ff``, times are in ISO 8601; a map is an array of its
entries, as its keys need not be strings. NaN and infinity, which JSON cannot represent, make the whole row invalid.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["json_texts", "not_representable", "unsupported_in_json", "uuid_texts"]

_CONTROLS: Final = [chr(code) for code in range(0x20)]
JSON_TYPES: Final = (pa.types.is_struct, pa.types.is_map)
_LISTS: Final = (
    pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list, pa.types.is_list_view,
    pa.types.is_large_list_view,
)  # fmt: skip
_BYTES: Final = (
    pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary, pa.types.is_binary_view,
)  # fmt: skip
_TEXTS: Final = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
_QUOTED: Final = (pa.types.is_date, pa.types.is_time, pa.types.is_timestamp)
_NUMBERS: Final = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal)


def _is(kind: pa.DataType, checks: tuple[Callable[[pa.DataType], bool], ...]) -> bool:
    return any(check(kind) for check in checks)


def unsupported_in_json(kind: pa.DataType) -> pa.DataType | None:
    """Return the (nested) type that JSON cannot represent; None if it can represent all but NaN and infinity."""
    if isinstance(kind, pa.BaseExtensionType):
        return unsupported_in_json(kind.storage_type)
    if pa.types.is_dictionary(kind):
        return unsupported_in_json(kind.value_type)
    if _is(kind, (*_LISTS, *JSON_TYPES)):
        inner = (kind.field(at).type for at in range(kind.num_fields))
        return next((inner_type for one in inner if (inner_type := unsupported_in_json(one)) is not None), None)
    plain = (*_BYTES, *_TEXTS, *_QUOTED, *_NUMBERS, pa.types.is_boolean, pa.types.is_null)
    return None if _is(kind, plain) else kind


def json_texts(array: pa.Array) -> pa.Array:
    """Return the values as JSON, NULL as NULL; NaN and infinity become ``null``."""
    return pc.if_else(pc.is_valid(array), _texts(array), pa.scalar(None, pa.string()))


def not_representable(array: pa.Array) -> pa.Array | None:
    """Return a mask of the values that contain NaN or infinity; None if there are none."""
    mask = _not_finite(array)
    return mask if mask is not None and pc.any(mask).as_py() else None


def _not_finite(array: pa.Array) -> pa.Array | None:  # noqa: PLR0911 - a table of kinds
    kind = array.type
    if isinstance(kind, pa.BaseExtensionType):
        return _not_finite(array.storage)
    if pa.types.is_floating(kind):
        return pc.fill_null(pc.invert(pc.is_finite(array)), fill_value=False)
    if pa.types.is_map(kind):
        return _not_finite(_entries(array))
    if _is(kind, _LISTS):
        inner = _not_finite(pc.list_flatten(array))
        if inner is None:
            return None
        rows = pc.unique(pc.filter(pc.list_parent_indices(array), inner))
        places = pa.array(range(len(array)), pa.int64())
        return pc.is_in(places, rows.cast(pa.int64()))
    if pa.types.is_struct(kind):
        masks = [one for at in range(kind.num_fields) if (one := _not_finite(pc.struct_field(array, [at]))) is not None]
        result = None
        for mask in masks:
            result = mask if result is None else pc.or_(result, mask)
        return result
    return None


def _texts(array: pa.Array) -> pa.Array:  # noqa: PLR0911 - a table of kinds
    """Return the values as JSON, NULL as ``null``."""
    kind = array.type
    if isinstance(kind, pa.UuidType):
        return _filled(_quoted(uuid_texts(array.storage)))
    if isinstance(kind, pa.BaseExtensionType):
        return _texts(array.storage)
    if pa.types.is_dictionary(kind):
        return _texts(array.cast(kind.value_type))
    if pa.types.is_map(kind):
        return _texts(_entries(array))
    if _is(kind, _LISTS):
        return _filled(_list(array))
    if pa.types.is_struct(kind):
        return _filled(_struct(array))
    return _filled(_plain(array))


def _plain(array: pa.Array) -> pa.Array:
    kind = array.type
    if _is(kind, _BYTES):
        return _quoted(pc.binary_join_element_wise(pa.scalar("\\\\x"), _hex(array), pa.scalar("")))
    if _is(kind, _TEXTS):
        return _quoted(_escaped(array.cast(pa.string())))
    if pa.types.is_floating(kind):
        finite = pc.if_else(pc.is_finite(array), array, pa.scalar(None, kind))
        return finite.cast(pa.float32() if kind == pa.float16() else kind).cast(pa.string())
    if _is(kind, _QUOTED):
        text = array.cast(pa.string())
        if pa.types.is_timestamp(kind):
            text = pc.replace_substring(text, " ", "T")
            if kind.tz:
                utc = pc.strftime(array.cast(pa.timestamp(kind.unit, "UTC")), "%Y-%m-%dT%H:%M:%S")
                text = pc.binary_join_element_wise(utc, pa.scalar("+00:00"), pa.scalar(""))
        return _quoted(text)
    return array.cast(pa.string())


def _hex(array: pa.Array) -> pa.Array:
    import polars as pl

    digits: Any = pl.Series(pa.array(array).cast(pa.binary())).bin.encode("hex").to_arrow()
    return digits.cast(pa.string())


def uuid_texts(array: pa.Array) -> pa.Array:
    """Return sixteen bytes as the text of a UUID."""
    return pc.replace_substring_regex(_hex(array), r"^(.{8})(.{4})(.{4})(.{4})(.{12})$", r"\1-\2-\3-\4-\5")


def _escaped(texts: pa.Array) -> pa.Array:
    texts = pc.replace_substring(pc.replace_substring(texts, "\\", "\\\\"), '"', '\\"')
    if pc.any(pc.match_substring_regex(texts, r"[\x00-\x1f]")).as_py():
        for sign in _CONTROLS:
            texts = pc.replace_substring(texts, sign, f"\\u{ord(sign):04x}")
    return texts


def _quoted(texts: pa.Array) -> pa.Array:
    return pc.binary_join_element_wise(pa.scalar('"'), texts, pa.scalar('"'), pa.scalar(""))


def _filled(texts: pa.Array) -> pa.Array:
    return pc.fill_null(texts, "null")


def _struct(array: pa.Array) -> pa.Array:
    parts: list[Any] = []
    for at in range(array.type.num_fields):
        name = _quoted(_escaped(pa.array([array.type.field(at).name])))[0].as_py()
        parts += [pa.scalar(f"{',' if at else ''}{name}:"), _texts(pc.struct_field(array, [at]))]
    if not parts:
        return pc.if_else(pc.is_valid(array), "{}", pa.scalar(None, pa.string()))
    text = pc.binary_join_element_wise(pa.scalar("{"), *parts, pa.scalar("}"), pa.scalar(""))
    return pc.if_else(pc.is_valid(array), text, pa.scalar(None, pa.string()))


def _list(array: pa.Array) -> pa.Array:
    lengths = pc.fill_null(pc.list_value_length(array), 0).cast(pa.int32())
    offsets = pa.concat_arrays([pa.array([0], pa.int32()), pc.cumulative_sum(lengths).cast(pa.int32())])
    inner = pa.ListArray.from_arrays(offsets, _texts(pc.list_flatten(array)))
    text = pc.binary_join_element_wise(pa.scalar("["), pc.binary_join(inner, ","), pa.scalar("]"), pa.scalar(""))
    return pc.if_else(pc.is_valid(array), text, pa.scalar(None, pa.string()))


def _entries(array: pa.Array) -> pa.Array:
    """Return a map as a list of structs of key and value."""
    kind = array.type
    wanted = pa.list_(pa.struct([pa.field("key", kind.key_type, nullable=False), pa.field("value", kind.item_type)]))
    return array.cast(wanted)
