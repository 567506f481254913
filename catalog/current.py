"""Current version of a pipeline, by psycopg alone: a task looks whether its own has been replaced."""

from __future__ import annotations

from contextlib import closing
from typing import Final

import psycopg

from penstock.postgres import address, connect, translated

__all__ = ["current_version"]

_VERSION: Final = "SELECT version FROM catalog.pipelines WHERE uid = %s"


def current_version(dsn: str, uid: str) -> int | None:
    """Return the version of a pipeline, as far as the catalog has read the log; None if it does not know it.

    Raises:
        Unavailable: the catalog's database does not answer.
    """
    with closing(connect(dsn, "penstock:version", autocommit=True)) as session:
        try:
            row = session.execute(_VERSION, (uid,)).fetchone()
        except psycopg.Error as error:
            raise translated(error, where=address(dsn)) from error
    return None if row is None else row[0]
