"""Types whose binary form in PostgreSQL is not that of the Arrow type that carries them."""

from __future__ import annotations

from typing import cast

import polars as pl
import pyarrow as pa

__all__ = ["encoded"]


def encoded(array: pa.Array, kind: str) -> pa.Array:
    """The bytes that a binary COPY takes: 16 bytes of a uuid, a version byte and the text of a jsonb."""
    series = cast("pl.Series", pl.from_arrow(array))
    if kind == "uuid":
        made = series.str.replace_all("[-{}]", "").str.decode("hex", strict=True)
    else:
        made = ("\x01" + series).cast(pl.Binary)
    return made.to_arrow(compat_level=pl.CompatLevel.oldest())
