"""Changes as rows of a history: each state of a key is one, valid from the commit that made it to the next one.

They are staged, each with its number, and made rows that `scd2` merges: a change that deletes all rows becomes one for
each key that has a row just before it, and values that were not sent are taken from the row that was current before
the split.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dataflows.connectors.history import HISTORY
from dataflows.connectors.postgres.apply import Apply
from dataflows.connectors.postgres.errors import OLDER
from dataflows.connectors.postgres.merge import NUMBER, STAGE, Merge
from dataflows.connectors.sql.names import quoted
from dataflows.data.changes import CHANGE, COMMITTED, DELETE

__all__ = ["History"]


@dataclass(frozen=True, slots=True)
class History:
    """Changes to rows of a history; `sources` are the names of columns at the source."""

    merge: Merge
    sources: Mapping[str, str]
    tombstones: None = None

    @property
    def begin(self) -> str:
        """Statement that creates the staging table."""
        return self.merge.begin

    @property
    def end(self) -> str:
        """Statements that merge the staged changes into the target."""
        kept = self._apply.kept(self._now)
        return "; ".join((*self._emptied(), self._check_newer(), *kept, self.merge.end))

    @property
    def begin_trial(self) -> str:
        """Statements that create a table for rows as they were, and have constraints checked at each attempt."""
        return f"SET CONSTRAINTS ALL IMMEDIATE; {self._apply.begin_trial}"

    @property
    def end_trial(self) -> str:
        """Statements that merge a part of a split's changes, with unsent values as they were before the split."""
        saved, before = self._apply.before_trial(self._now)
        return "; ".join((saved, *self._emptied(), *self._apply.kept(before), self.merge.end))

    @property
    def unlike(self) -> str:
        """Query that counts merged changes that the target does not have, to be asked before the commit."""
        return self.merge.unlike

    @property
    def _apply(self) -> Apply:
        columns = tuple(one for one in self.merge.columns if one.name != COMMITTED)
        return Apply(self.merge.into, columns, self.merge.key, self.sources)

    @property
    def _now(self) -> str:
        """Query for the rows that are current before the changes."""
        return f"(SELECT * FROM {self.merge.into.sql} WHERE {quoted(HISTORY[2])})"

    @property
    def _keys(self) -> str:
        return ", ".join(quoted(name) for name in self.merge.key)

    def _check_newer(self) -> str:
        """Return a statement that fails if a change is older than what its key has: it would be lost."""
        begin, end, at = (quoted(name) for name in (*HISTORY[:2], COMMITTED))
        same = " AND ".join(f"t.{quoted(name)} = s.{quoted(name)}" for name in self.merge.key)
        of_key = f"{STAGE.sql} s JOIN {self.merge.into.sql} t ON {same}"
        older = f"SELECT FROM {of_key} WHERE t.{begin} > s.{at} OR t.{end} > s.{at}"
        return f"SELECT (CASE WHEN EXISTS ({older}) THEN '{OLDER}' ELSE '1' END)::int"

    def _emptied(self) -> tuple[str, str]:
        """Return statements that put a deletion of each row that is there in place of that of all rows."""
        keys, at, change, number = self._keys, quoted(COMMITTED), quoted(CHANGE), quoted(NUMBER)
        is_all = f"s.{change} ->> 'op' = 'truncate'"
        there = (
            f"SELECT {keys}, 0 AS n FROM {self._now} t UNION ALL "
            f"SELECT {keys}, {number} FROM {STAGE.sql} s WHERE ({is_all}) IS NOT TRUE"
        )
        each = ", ".join(f"k.{quoted(name)}" for name in self.merge.key)
        put = (
            f"INSERT INTO {STAGE.sql} ({keys}, {at}, {change}, {number}) OVERRIDING SYSTEM VALUE "
            f"SELECT {each}, s.{at}, '{DELETE}', s.{number} FROM {STAGE.sql} s JOIN ({there}) k ON k.n < s.{number} "
            f"WHERE {is_all}"
        )
        return put, f"DELETE FROM {STAGE.sql} s WHERE {is_all}"
