"""The obvious way into the catalog: `MetadataStore`, one transaction a use case."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import monotonic
from types import TracebackType
from typing import Any, Self

import psycopg
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from catalog import history, snapshots
from catalog.entries import Command, Snapshot
from catalog.waiting import Commits, remaining
from penstock.errors import NotFound, SettingsError, Unavailable
from penstock.postgres import translated

__all__ = ["MetadataStore"]


class MetadataStore:
    """Reads the catalog, and keeps what belongs beside it. Safe in many threads.

    Every method is one transaction of its own, and raises Unavailable when the database cannot be used.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._commits = Commits(self._session)

    # --- commands

    def command(self, id: str) -> Command:  # noqa: A002 - the name in the contract
        """The command `id`. Raises NotFound; a command that was just sent may not be here yet."""
        found = self._find_command(id)
        if found is None:
            raise NotFound("there is no such command", value=id, hint="see the latest: penstock events --type command")
        return found

    def wait_command(self, id: str, timeout: float) -> Command:  # noqa: A002
        """The command `id` once it is applied or refused, as soon as the projection has it.

        Raises Unavailable when it is not answered within `timeout` seconds: nothing may be running that answers.
        """
        deadline, heard = monotonic() + timeout, self._commits.listen()
        while (found := self._find_command(id)) is None or found.status == "pending":
            left = remaining(deadline)
            if not left:
                hint = "it stays on the log and is answered as soon as the control process runs: penstock up"
                raise Unavailable(f"no answer within {timeout:g} s", where=f"command {id}", hint=hint)
            heard = self._commits.wait(heard, left)
        return found

    def _find_command(self, id: str) -> Command | None:  # noqa: A002
        with self._transaction() as connection:
            return history.command(connection, id)

    # --- snapshots

    def save_snapshots(self, found: Sequence[Snapshot]) -> None:
        """Keep `found`, each in place of its agent's last one, all or none."""
        with self._transaction() as connection:
            snapshots.save(connection, found)

    def save_snapshot(self, agent: str, offset: int, rules: int, state: Any) -> None:
        """Keep one agent's state in place of its last one."""
        self.save_snapshots([Snapshot(agent, offset, rules, state)])

    def load_snapshots(self) -> dict[str, Snapshot]:
        """The snapshot of each agent that has one."""
        with self._transaction() as connection:
            return snapshots.load(connection)

    def drop_snapshots(self, agent: str | None = None) -> None:
        """Forget the snapshot of `agent`, or all of them: they are folded anew from the topic."""
        with self._transaction() as connection:
            snapshots.drop(connection, agent)

    # --- life

    def close(self) -> None:
        """Stop listening and close idle connections; more than once is fine."""
        self._commits.close()
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self.close()

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        try:
            with self._engine.begin() as connection:
                yield connection
        except DBAPIError as error:
            if isinstance(error.orig, psycopg.Error):
                raise translated(error.orig, where="catalog") from error
            raise

    def _session(self) -> psycopg.Connection:
        """A session of its own, outside the pool."""
        raw = self._engine.raw_connection()
        driver = raw.driver_connection
        raw.detach()
        if not isinstance(driver, psycopg.Connection):
            raise SettingsError("does not speak through psycopg 3", where="engine", hint="make it by catalog.engine()")
        driver.rollback()
        driver.autocommit = True
        return driver
