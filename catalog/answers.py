"""Answers to commands, by psycopg alone: a client that only sends commands need not load SQLAlchemy."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from time import monotonic
from typing import Any, Final, Literal, Self

import psycopg
from psycopg.rows import class_row

from catalog.waiting import POLL_SECONDS, heard, listen, remaining
from penstock import postgres
from penstock.errors import Unavailable

__all__ = ["Answers", "Command"]

_ANSWERED: Final = "SELECT * FROM catalog.commands WHERE id = ANY(%s) AND at IS NOT NULL AND status <> 'pending'"
"""Query of the answers; one that was projected before its command does not count."""


@dataclass(frozen=True, slots=True)
class Command:
    """A command and its answer. `answer` is the offset of the record that answered it."""

    id: str
    type: str
    key: str
    actor: str
    at: datetime
    offset: int
    status: Literal["pending", "applied", "refused"]
    result: Mapping[str, Any] | None
    refusal: Mapping[str, Any] | None
    answered_at: datetime | None
    answer: int | None
    changed: int


class Answers:
    """A client's session that waits for answers. For one thread; a context manager."""

    def __init__(self, dsn: str) -> None:
        """Connect to the catalog at `dsn`. Raises Unavailable."""
        self._dsn = dsn
        self._session = self._listening()

    def wait(self, ids: Collection[str], timeout: float) -> dict[str, Command]:
        """Return the command of each of `ids`, once all of them are answered.

        Raises Unavailable after `timeout` seconds: the control process may not be running.
        """
        deadline = monotonic() + timeout
        answered: dict[str, Command] = {}
        while missing := [id_ for id_ in ids if id_ not in answered]:
            answered |= {one.id: one for one in self.answered(missing)}
            if len(answered) == len(ids):
                break
            left = remaining(deadline)
            if not left:
                hint = "it stays on the log, and is answered when the control process runs: penstock up"
                raise Unavailable(f"no answer within {timeout:g} s", where=f"command {missing[0]}", hint=hint)
            self._wait(min(left, POLL_SECONDS))
        return answered

    def answered(self, ids: Collection[str]) -> list[Command]:
        """Return those of the commands `ids` that are answered."""
        try:
            with self._session.cursor(row_factory=class_row(Command)) as cursor:
                return cursor.execute(_ANSWERED, [list(ids)]).fetchall()
        except psycopg.OperationalError:
            self._session = self._listening()  # it was lost; a second loss is raised as Unavailable
            return []
        except psycopg.Error as error:
            raise postgres.translated(error, where="catalog") from error

    def _wait(self, seconds: float) -> None:
        try:
            heard(self._session, seconds)
        except psycopg.OperationalError:
            self._session = self._listening()

    def _listening(self) -> psycopg.Connection[Any]:
        session = postgres.connect(self._dsn, "penstock:answers")
        try:
            listen(session)
        except psycopg.Error as error:
            session.close()
            raise postgres.translated(error, where="catalog") from error
        return session

    def close(self) -> None:
        """Close the session."""
        self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
