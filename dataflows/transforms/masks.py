"""Masks: values hidden from readers, as a hash or as asterisks."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

import polars as pl

from dataflows.transforms.scope import BoundExpression
from dataflows.transforms.stages import Work, evaluate_frame, refuse_wrong

__all__ = ["Mask"]


@dataclass(frozen=True, slots=True)
class Mask:
    """Replace values: `hash` is HMAC-SHA-256 by `key`, `sha256` SHA-256, both in hexadecimal; `redact` three asterisks.

    NULL stays NULL.
    """

    step: str
    values: Mapping[str, tuple[BoundExpression, str]]
    condition: BoundExpression | None = None
    key: bytes = field(default=b"", repr=False)

    def __call__(self, work: Work) -> None:
        texts = {key: one for key, (one, _) in self.values.items()}
        asked = texts if self.condition is None else texts | {"when": self.condition}
        done = evaluate_frame(work.frame, asked)
        masked = done.with_columns(
            pl.when(done["when"].fill_null(value=False))
            .then(_masked(key, how, self.key))
            .otherwise(pl.col(key))
            .alias(key)
            if self.condition is not None
            else _masked(key, how, self.key).alias(key)
            for key, (_, how) in self.values.items()
        )
        work.frame = work.frame.with_columns(masked.select(list(self.values)))
        refuse_wrong(work, done, asked, self.step)


def _masked(name: str, how: str, key: bytes) -> pl.Expr:
    if how == "redact":
        return pl.when(pl.col(name).is_not_null()).then(pl.lit("***"))
    if how == "hash":
        return pl.col(name).map_batches(partial(_keyed, key), return_dtype=pl.String)
    import polars_hash

    hashed: pl.Expr = polars_hash.col(name).chash.sha2_256()
    return hashed


def _keyed(key: bytes, values: pl.Series) -> pl.Series:
    hashed = (None if one is None else hmac.digest(key, one.encode(), "sha256").hex() for one in values)
    return pl.Series(values.name, hashed, pl.String)
