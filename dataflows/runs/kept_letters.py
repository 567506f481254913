"""Dead letters over a session with the catalog that a process keeps from one run to the next."""

from __future__ import annotations

import select
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus

from catalog.letters import DeadLetters
from dataflows.connectors.idle_sessions import IDLE_SESSIONS

__all__ = ["KeptLetters"]


class KeptLetters(DeadLetters):
    """Letters of one pipeline for one run, over the session of the run before if there is one."""

    def __init__(self, dsn: str, uid: str, name: str) -> None:
        self._key = ("letters", dsn)
        super().__init__(dsn, uid, name, _alive(IDLE_SESSIONS.take(self._key)))

    def close(self) -> None:
        """Keep the session for the next run, or end it."""
        if IDLE_SESSIONS.wanted and self.session.info.transaction_status == TransactionStatus.IDLE:
            IDLE_SESSIONS.put(self._key, self.session)
        else:
            super().close()


def _alive(session: object) -> psycopg.Connection[Any] | None:
    """Return the session unless the server has ended it: then its socket has something to read."""
    if not isinstance(session, psycopg.Connection):
        return None
    if session.closed or select.select([session], [], [], 0)[0]:
        session.close()
        return None
    return session
