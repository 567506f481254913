"""What discovery tells of a dataset besides its schema: indexes, size and features, never a value."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import date
from typing import Annotated, Any, Final

from pydantic import Field

from penstock.models.base import Model

__all__ = ["ColumnProfile", "DatasetProfile", "Index", "Partitions", "about", "fingerprint_of"]

Count = Annotated[int, Field(ge=0, lt=2**63)]
Text = Annotated[str, Field(max_length=512)]
Share = Annotated[float, Field(ge=0, le=1)]


class Index(Model):
    """An index, or a unique key; `columns` has expressions as the system writes them."""

    name: Text
    columns: tuple[Text, ...]
    unique: bool = False


class Partitions(Model):
    """How a table or topic is divided: by what, as the system writes it, and into how many parts."""

    by: Text
    count: Count


class ColumnProfile(Model):
    """Features of a column; what is not known is left out."""

    name: Text
    native: Text | None = None
    """Its type as the system itself spells it, if that differs from the schema's."""
    nulls: Share | None = None
    distinct: Count | None = None
    tags: dict[Text, Share] = {}
    """Meanings, with the confidence in each."""
    personal: bool = False


class DatasetProfile(Model):
    """Features of a dataset; numbers are rounded by `about`, so that small changes are no news."""

    rows: Count | None = None
    bytes: Count | None = None
    files: Count | None = None
    newest: date | None = None
    """The day, in UTC, on which its newest file was written."""
    format: Text | None = None
    """Format of its files or messages, in a word."""
    key_format: Text | None = None
    """Format of its messages' keys; None if they have none."""
    indexes: tuple[Index, ...] = ()
    partitions: Partitions | None = None
    columns: tuple[ColumnProfile, ...] = ()
    values: Text | None = None
    """Hash of the values that are kept about it outside of the log."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 of its canonical JSON, without the hash of values, which change all the time."""
        return fingerprint_of(self.to_dict())

    @property
    def tags(self) -> tuple[str, ...]:
        """The meanings of its columns, and `personal` if one of them has personal data."""
        found = {tag for column in self.columns for tag in column.tags}
        return tuple(sorted(found | ({"personal"} if any(column.personal for column in self.columns) else set())))


def fingerprint_of(document: Mapping[str, Any]) -> str:
    """Return the fingerprint of the profile that `document` is, as `to_dict` returns it."""
    known = {name: value for name, value in document.items() if name != "values"}
    return hashlib.sha256(_canonical(known).encode()).hexdigest()


_canonical: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def about(number: float | None) -> int | None:
    """Return a number with two significant digits: 15,234 is about 15,000."""
    if number is None:
        return None
    whole = max(0, int(number))
    digits = len(str(whole)) - 2
    return round(whole, -digits) if digits > 0 else whole
