"""Names of columns, as users write them."""

from __future__ import annotations

from collections import Counter
from typing import Annotated

from pydantic import AfterValidator, Field

__all__ = ["ColumnName", "Columns", "unique"]

ColumnName = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[^\x00-\x1f]+$")]


def unique(values: tuple[str, ...]) -> tuple[str, ...]:
    """Return the values, or raise ValueError if one of them occurs twice."""
    if double := [value for value, count in Counter(values).items() if count > 1]:
        message = f"names {', '.join(map(repr, double))} twice"
        raise ValueError(message)
    return values


Columns = Annotated[tuple[ColumnName, ...], AfterValidator(unique)]
