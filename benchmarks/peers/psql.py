"""The limit: PostgreSQL's own client, in binary format, with only a pipe between the two ends."""

from __future__ import annotations

import shutil
from typing import Final

from benchmarks.peers.peer import Command, Move, Peer

__all__ = ["LIMIT"]


def _ready() -> None:
    if shutil.which("psql") is None:
        message = "there is no psql"
        raise FileNotFoundError(message)


def _command(move: Move) -> Command:
    out = ["psql", "-qX", move.dsn, "-c", f"COPY {move.source} TO STDOUT (FORMAT binary)"]
    into = ["psql", "-qX", move.dsn, "-c", f"COPY {move.table} FROM STDIN (FORMAT binary)"]
    return Command([out, into])


LIMIT: Final = Peer(
    "`psql COPY` into `psql COPY`, binary: the limit", frozenset({"postgres-postgres"}), _ready, _command,
    makes_table=False,
)  # fmt: skip
