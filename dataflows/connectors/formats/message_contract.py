"""The contract of formats of messages: the columns that topics have in one, and the readers of values."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import pyarrow as pa

from dataflows.connectors.formats.lines import BadLine
from dataflows.connectors.formats.messages import Message
from dataflows.data.tables import Column

__all__ = ["About", "Columns", "MessageFormat", "Subjects", "Values", "logged"]

if TYPE_CHECKING:
    from dataflows.connectors.formats.avro_schema import AvroSchema

_log = logging.getLogger(__name__)

Columns = tuple[tuple[Column, ...], str | None]
"""Columns of a topic, and the origin of their types, if they were inferred."""


class Values(Protocol):
    """Reads values of messages as columns."""

    def __call__(self, values: Sequence[bytes | None]) -> tuple[pa.Table, list[BadLine]]:
        """Return the rows of the values that can be read, None as a row of NULLs, and the others, in any order."""


class Subjects(Protocol):
    """A registry of schemas."""

    def by_id(self, number: int) -> AvroSchema | str:
        """Return a schema, or why there is none.

        Raises:
            Unreachable, Unavailable, AccessDenied: the registry does not answer.
        """

    def latest(self, subject: str) -> AvroSchema | None:
        """Return the newest schema of a subject; None if there is no such subject."""


class MessageFormat(Protocol):
    """A format of messages."""

    def columns(self, sample: Callable[[], Sequence[Message]]) -> Columns:
        """Return the columns; `sample` returns some of the newest messages.

        Raises:
            SchemaMismatch, BadData: there are no messages to infer them from.
        """

    def values(self, wanted: Mapping[str, Column], columns: Sequence[Column]) -> Values:
        """Return a reader of the `wanted` columns among all."""


@dataclass(frozen=True, slots=True)
class About:
    """Topics as a format sees them: their names, and the words for them and for its setting in errors.

    `noticed` is called with news of their columns; `registry` returns that of their schemas, if there is one.
    """

    setting: str
    where: str
    noticed: Callable[[str], None]
    names: Callable[[], Sequence[str]] = tuple
    registry: Callable[[], Subjects | None] = lambda: None


def logged(where: str) -> Callable[[str], None]:
    """Return a function that warns of news of the columns of `where`, in the log of the run."""
    return lambda what: _log.warning("%s: %s", where, what)
