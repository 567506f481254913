"""The session of a target, which the only writer of a run uses, too: a second one costs more than a small run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from psycopg import pq

from dataflows.connectors.postgres.session import Session, one_message, release
from penstock.errors import PenstockError

__all__ = ["OwnSession"]

_OPEN = {pq.TransactionStatus.INTRANS, pq.TransactionStatus.INERROR}


@dataclass(slots=True)
class OwnSession:
    """A session that is opened again, by `connect` with its name, if the writer that had it has broken it."""

    connect: Callable[[str], Session]
    name: str
    _session: Session | None = field(default=None, init=False)
    _is_lent: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self._session = self.connect(self.name)

    @property
    def session(self) -> Session:
        """The session, for those that have not lent it."""
        if self._session is None:
            self._session = self.connect(self.name)
        return self._session

    @contextmanager
    def lent(self, name: str) -> Iterator[Session | None]:
        """Lend the session, which has this name by now; None if another one has it, or it is not idle.

        At the end an open transaction is rolled back.
        """
        session = self.session
        if self._is_lent or session.info.transaction_status != pq.TransactionStatus.IDLE:
            yield None
            return
        self._is_lent, self.name = True, name
        try:
            yield session
        finally:
            self._is_lent = False
            self._take_back(session)

    def _take_back(self, session: Session) -> None:
        if session.info.transaction_status in _OPEN:
            with suppress(PenstockError):
                one_message(session, "ROLLBACK", "")
        if session.info.transaction_status != pq.TransactionStatus.IDLE:  # a COPY that was broken off has no end
            self._session = None
            session.close()

    def close(self) -> None:
        """End the session, or keep it for the next run of this process."""
        if self._session is not None:
            release(self._session)
