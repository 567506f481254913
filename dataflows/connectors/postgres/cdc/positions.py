"""Positions in the changes of a table: where the next transaction may begin, and what that stands on.

A place in the WAL alone lies: a slot that was made again under its name begins later, a server that was restored
begins another timeline, and a column that was made again has lost its values without a change.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Final

from dataflows.connectors.postgres.cdc.replication import lsn_number, lsn_text
from dataflows.data.changes import PART

__all__ = ["HISTORY", "LOG", "MIRROR", "PART", "PENDING", "REBUILD", "Position"]

MIRROR, HISTORY, LOG = "a mirror", "a history", "a log"
PENDING: Final = '{"snapshot":"pending"}'
"""Position of a stream whose snapshot is not written yet: a new one is begun with each start."""
REBUILD: Final = (
    "to rebuild, `penstock run NAME --from earliest --reset`: it begins with a new snapshot, in one transaction"
)
"""The hint where changes are lost, or what a position stands on is gone."""


@dataclass(frozen=True, slots=True)
class Position:
    """Position from which the next transaction is read, with its server, timeline, slot, table and publication.

    `columns` are the table's columns as its rows at the sink have them: number and type by name. `read` are those whose
    values the sink got.
    """

    lsn: int
    system: str
    timeline: int
    slot: str
    table: int
    published: int
    """Row of the system's catalog by which the publication has the table; a new one if it is taken out and put back."""
    columns: Mapping[str, tuple[int, str]]
    read: tuple[str, ...]
    numbered: int
    """Number of the last column that the table had."""
    keys: tuple[int, ...]
    """Constraints and indexes by which the key was unique; one created later says nothing about the time before.

    A log has none: its rows are never found again.
    """
    file: int
    """Number of the table's file: another one if its rows were rewritten without a change that says so."""
    emptied: str | None = None
    """Last transaction that emptied the table, which gave it a new file, too."""
    time: int | None = None
    """Of a history: the time up to which it has the changes, in microseconds of Unix time; later ones are later."""

    @property
    def kind(self) -> str:
        """What the sink has: a mirror of the table, a history of its rows, or a log of its changes."""
        return LOG if not self.keys else MIRROR if self.time is None else HISTORY

    @classmethod
    def parse(cls, text: str) -> Position | None:
        """Parse what `str` returned; None for `PENDING`."""
        data = json.loads(text)
        if "lsn" not in data:
            return None
        columns = {name: (number, kind) for name, (number, kind) in data.pop("columns").items()}
        read, keys = tuple(data["read"]), tuple(data["keys"])
        return cls(**data | {"lsn": lsn_number(data["lsn"]), "columns": columns, "read": read, "keys": keys})

    def __str__(self) -> str:
        data = asdict(self) | {"lsn": lsn_text(self.lsn)}
        if self.time is None:  # positions of before stay as they were written
            del data["time"]
        return json.dumps(data, separators=(",", ":"))

    def at(self, lsn: int, time: int | None = None) -> Position:
        """Return the same further on."""
        return replace(self, lsn=lsn, time=time)
