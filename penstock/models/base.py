"""The base of all models: strict, one entry point for outside data, round trips, and errors that name the path."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, ValidationError

from penstock.errors import InvalidDocument, Issue, did_you_mean
from penstock.models.secrets import looks_random, sensitive
from penstock.models.sql import MAX_LENGTH, parsed

__all__ = ["Bytes", "Duration", "Fraction", "Model", "Name", "PipelineName", "Sql", "duration_text", "issues_of"]

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "y": 365 * 86400.0}
_LENGTH = re.compile(r"datetime\.timedelta\(([^)]*)\)")
"""A duration as pydantic writes it in a message."""
_BREAKS = re.compile("[\x85\u2028\u2029\ufeff]")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|y)")


class Model(BaseModel):
    """A frozen model that takes no unknown key and no value of another type.

    Outside data comes in by `parse`, as JSON types, so that YAML, JSON, a form and a record are validated alike.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        populate_by_name=True,
        serialize_by_alias=True,
        defer_build=True,
        allow_inf_nan=False,
    )

    @classmethod
    def parse(cls, data: object, *, where: str | None = None) -> Self:
        """Parse `data` (builtins) as this model.

        Raises:
            InvalidDocument: lists every issue found, each with its path.
        """
        try:
            return cls.model_validate_json(_json(data), strict=True)
        except ValidationError as error:
            raise InvalidDocument(issues_of(error, cls), where=where) from error
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidDocument([Issue("", f"is not plain data: {error}")], where=where) from error

    def to_dict(self) -> dict[str, Any]:
        """Return plain builtins that `parse` reads back; what is not set is left out."""
        return self.model_dump(mode="json", exclude_none=True)

    def to_json(self) -> str:
        """Return `to_dict` as JSON."""
        return json.dumps(self.to_dict(), ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read what `to_json` wrote."""
        try:
            return cls.parse(json.loads(text))
        except ValueError as error:
            raise InvalidDocument([Issue("", f"is not JSON: {error}")]) from error

    def to_yaml(self) -> str:
        """Return `to_dict` as YAML."""
        data = self.to_dict()
        # PyYAML writes these characters unescaped, and reads them back as line breaks or not at all.
        plain = not _BREAKS.search(json.dumps(data, ensure_ascii=False))
        import yaml

        return yaml.safe_dump(data, sort_keys=False, allow_unicode=plain)

    @classmethod
    def from_yaml(cls, text: str | bytes) -> Self:
        """Read what `to_yaml` wrote."""
        import yaml

        try:
            return cls.parse(yaml.safe_load(text))
        except yaml.YAMLError as error:
            raise InvalidDocument([Issue("", f"is not YAML: {error}")]) from error


def _json(data: object) -> bytes:
    """Return `data` as standard JSON.

    Raises:
        ValueError: it contains infinity, NaN, or a lone surrogate.
    """
    text = json.dumps(data, default=str, ensure_ascii=False, allow_nan=False)
    try:  # JSON may write a character as two surrogates, which YAML's reader does not join
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le").encode()
    except UnicodeDecodeError:
        message = "it contains half of a character (a lone surrogate)"
        raise ValueError(message) from None


def issues_of(error: ValidationError, model: type[BaseModel], *, quoted: bool = True) -> list[Issue]:
    """Return pydantic's errors as paths that a user knows (``spec.transforms[2].when``) and sentences.

    A sentence quotes the wrong value unless it may be a secret; of texts, only if `quoted` or one of a list is wanted.
    """
    return [Issue(_path(item["loc"]), _sentence(item, model, quoted=quoted)) for item in error.errors()]


def _path(location: tuple[int | str, ...]) -> str:
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _sentence(item: Mapping[str, Any], model: type[BaseModel], *, quoted: bool) -> str:
    kind, value = item["type"], item.get("input")
    if kind == "extra_forbidden":
        known = _keys_at(model, item["loc"][:-1])
        hint = did_you_mean(str(item["loc"][-1]), known) or (f"known: {', '.join(known)}" if known else None)
        return f"unknown key{f'; {hint}' if hint else ''}"
    if kind == "union_tag_invalid":
        tag, known = str(item["ctx"]["tag"]), item["ctx"]["expected_tags"].split("'")[1::2]
        said = "" if _may_be_secret(tag) else f" {tag!r}"
        return f"there is no type{said or ' of that name'}; {did_you_mean(tag, known) or 'known: ' + ', '.join(known)}"
    if kind == "union_tag_not_found":
        return f"needs {item['ctx']['discriminator'].strip(chr(39))!r}"
    if kind == "missing":
        return "is required"
    message = str(item["msg"]).removeprefix("Value error, ").removeprefix("Assertion failed, ")
    message = _LENGTH.sub(_length_text, message)
    message = message[:1].lower() + message[1:]
    if kind == "value_error" or isinstance(value, dict | list) or _hidden(item, quoted=quoted):
        return message
    hint = (
        did_you_mean(value, item["ctx"]["expected"].split("'")[1::2])
        if kind == "literal_error" and isinstance(value, str)
        else None
    )
    return f"{message}, got {value!r}{f'; {hint}' if hint else ''}"


def _length_text(found: re.Match[str]) -> str:
    parts = dict(one.split("=") for one in found[1].split(", ") if "=" in one)
    return duration_text(timedelta(**{unit: int(count) for unit, count in parts.items()}))


def _hidden(item: Mapping[str, Any], *, quoted: bool) -> bool:
    """True if a message must not quote the wrong value."""
    if any(isinstance(part, str) and sensitive(part) for part in item["loc"]):
        return True
    value = item.get("input")
    return isinstance(value, str) and (_may_be_secret(value) or not (quoted or item["type"] == "literal_error"))


def _may_be_secret(value: str) -> bool:
    return "@" in value or looks_random(value)


def _keys_at(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """Return the keys that `model` takes at `location`."""
    current: Any = model
    for part in location:
        if isinstance(part, int) or not (isinstance(current, type) and issubclass(current, BaseModel)):
            continue
        fields = {field.alias or name: field.annotation for name, field in current.model_fields.items()}
        current = next((inner for inner in _models_in(fields.get(part))), current)
    if not (isinstance(current, type) and issubclass(current, BaseModel)):
        return []
    return [field.alias or name for name, field in current.model_fields.items()]


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for inner in getattr(annotation, "__args__", ()) for found in _models_in(inner)]


_SIZES = {"GB": 10**9, "GiB": 2**30, "MB": 10**6, "MiB": 2**20, "kB": 10**3, "B": 1}
_SIZE = re.compile(r"(\d{1,12}(?:\.\d{1,3})?)\s?(GB|GiB|MB|MiB|kB|B)")


def _duration(value: object) -> object:
    """Return ``90s``, ``5m``, ``1h30m``, ``2d`` as a timedelta; a value of another type is left to pydantic."""
    if isinstance(value, timedelta):
        return value
    parts = _DURATION.findall(value) if isinstance(value, str) else []
    if not parts or "".join(number + unit for number, unit in parts) != value:
        message = "is not a duration such as 90s, 5m, 1h30m, 2d or 1y"
        raise ValueError(message)
    try:
        return timedelta(seconds=sum(float(number) * _UNITS[unit] for number, unit in parts))
    except OverflowError as error:
        message = "is longer than a duration can be"
        raise ValueError(message) from error


def duration_text(value: timedelta) -> str:
    """Return the shortest text that `_duration` reads back to the same value, to the millisecond."""
    rest, text = round(value.total_seconds() * 1000), ""
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)):
        count, rest = divmod(rest, size)
        text += f"{count}{unit}" if count else ""
    return text or "0s"


def _bytes(value: object) -> object:
    """Return ``500MB``, ``2GB`` or ``2GiB`` as a number of bytes; a number is one already."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    found = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        message = "is not a size such as 500MB, 2GB or 2GiB"
        raise ValueError(message)
    return int(float(found[1]) * _SIZES[found[2]])


def _bytes_text(value: int) -> str:
    """Return the shortest text that `_bytes` reads back to the same value."""
    return next((f"{value // size}{unit}" for unit, size in _SIZES.items() if value % size == 0), str(value))


def _fraction(value: object) -> object:
    if isinstance(value, str) and re.fullmatch(r"\d+(\.\d+)?%", value):
        return float(value[:-1]) / 100
    return value


def _sql(value: str) -> str:
    """Check that a SQL scalar expression parses; the compiler checks what it may contain."""
    parsed(value)
    return value


Duration = Annotated[
    timedelta,
    BeforeValidator(_duration),
    PlainSerializer(duration_text, return_type=str, when_used="json"),
    Field(json_schema_extra={"type": "string", "examples": ["90s", "5m", "1h30m", "2d"]}),
]
"""A length of time, written ``90s``, ``5m``, ``1h30m`` or ``2d``; the resolution is a millisecond."""

Bytes = Annotated[
    int,
    BeforeValidator(_bytes),
    PlainSerializer(_bytes_text, return_type=str, when_used="json"),
    Field(json_schema_extra={"type": "string", "examples": ["500MB", "2GB"]}),
]
"""A number of bytes, written ``500MB`` or ``2GB`` (powers of ten) or ``2GiB``."""

Fraction = Annotated[float, BeforeValidator(_fraction), Field(ge=0, le=1)]
"""A share between 0 and 1, also written ``1%``."""

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,62}$")]
"""A name that people type: lower case, starts with a letter, at most 63 characters of ``a-z 0-9 _ -``."""

PipelineName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,62}(/[^\x00-\x1f]{1,512})?$")]
"""The name of a pipeline; that of a member of a set is ``SET/OBJECT``, such as ``shop/public.orders``."""

Sql = Annotated[str, Field(min_length=1, max_length=MAX_LENGTH), AfterValidator(_sql)]
"""A SQL scalar expression over the columns; it is compiled, never sent to a database."""
