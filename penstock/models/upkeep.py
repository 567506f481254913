"""Comparisons of both sides that a pipeline's file asks for: a check by schedule, and deletes without changes."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Final, Literal, Protocol

from pydantic import Field

from penstock.models.base import Duration, Fraction, Model
from penstock.models.transforms import ColumnName

__all__ = ["REMOVE", "Check", "Deletes", "misplaced"]

Every = Annotated[Duration, Field(ge=timedelta(seconds=1), le=timedelta(days=3660))]
REMOVE: Final = "remove"


class Check(Model):
    """Compare both sides every so often; the first time, once that long has passed."""

    every: Every


class Deletes(Model):
    """Find the rows of the target whose key the source does not have any more.

    `mark` is the column that then gets the time at which they were found, or `remove`, to delete them. Without `every`
    that is done by `penstock deletes` only. More than `limit` of the target's keys are not touched without approval.
    """

    compare: Literal["keys"] = "keys"
    mark: ColumnName
    every: Every | None = None
    limit: Fraction = 0.1

    @property
    def column(self) -> str | None:
        """The column that marks a row; None if rows are deleted."""
        return None if self.mark == REMOVE else self.mark


class Written(Protocol):
    """What of a sink decides if `deletes` fits it."""

    @property
    def write(self) -> str:
        """The write mode."""

    @property
    def key(self) -> tuple[str, ...]:
        """Columns of the key."""

    @property
    def version(self) -> str | None:
        """Column of the version."""

    @property
    def delete(self) -> str | None:
        """Column that flags deleted rows."""


def misplaced(deletes: Deletes | None, mode: str, sink: Written) -> str | None:
    """Return why a pipeline cannot have `deletes`; None if it can, or has none."""
    if deletes is None:
        return None
    column = deletes.column
    if mode == "stream":
        return "`deletes` is for batches: a stream of changes has the deletes of its source"
    if sink.write != "merge":
        return (
            f"`deletes` is for `write: merge`, whose rows have a key; `write: {sink.write}` does not need or allow it"
        )
    if column is not None and column in {*sink.key, sink.version, sink.delete}:
        return f"`deletes.mark` is {column!r}, which `sink` uses for something else"
    return None
