"""The log of a folder: entries numbered without gaps, each created only if it does not exist yet.

A writer of entry N + 1 has read all entries up to N. Of two writers that have read the same N, one succeeds; the other
reads the new entries and checks again if it may continue. So a process that was wrongly taken for dead cannot miss the
claim of its successor.

From time to time a writer stores a checkpoint, the whole state after an entry. New readers begin with the latest one.
Entries below a checkpoint are deleted once it is a week old. Until then they block a process that was paused before it
wrote an entry of such a number. Later, such a process could write into the gap, where no one reads; so after a pause of
days, a process looks for a checkpoint beyond its entry before it counts the entry as written.
"""

from __future__ import annotations

import json
import random
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from typing import Any, Final

from dataflows.connectors.files.manifest import Change, Entry, FolderState
from dataflows.connectors.files.store import Gone, Store
from dataflows.data.repeats import without_repeats
from penstock.clock import now
from penstock.errors import PenstockError, Unavailable

__all__ = ["PENSTOCK_FOLDER", "FolderLog", "folder_removed"]

PENSTOCK_FOLDER: Final = "_penstock/"
ENTRIES: Final = f"{PENSTOCK_FOLDER}log/"
CHECKPOINTS: Final = f"{PENSTOCK_FOLDER}checkpoints/"
CHECKPOINT_EVERY: Final = 64
KEEP_ENTRIES: Final = timedelta(days=7)
MAX_TRIES: Final = 200
PAUSE_SECONDS: Final = 0.01
NEVER: Final = datetime.max.replace(tzinfo=UTC)


@dataclass(slots=True)
class FolderLog:
    """The log of `folder`, and the state after all entries read so far. Not thread-safe."""

    store: Store
    folder: str
    where: str
    table: FolderState = field(default_factory=FolderState)
    _opened: bool = False
    _read_at: datetime = NEVER
    """Time at which the log last ended with the last entry of `table`."""

    def at(self, path: str) -> str:
        """Return the store's path of a path in this folder.

        Raises:
            PenstockError: the path leads out of the folder, so Penstock did not write it.
        """
        if ".." in path.split("/") or path.startswith("/") or "\\" in path:
            hint = "another program wrote below `_penstock/`; delete that folder, or choose another one"
            what = "its log names a file outside the folder"
            raise PenstockError(what, where=self.where, value=path, hint=hint)
        return f"{self.folder}/{path}" if self.folder else path

    def refresh(self) -> FolderState:
        """Read new entries; return the state after them."""
        if not self._opened:
            self.table = self._checkpoint()
            self._opened = True
        while (data := self._entry(self.table.number + 1)) is not None:
            self.table.apply(Entry.of(data))
        return self.table

    def append(self, uid: str, generation: int, decide: Callable[[FolderState], tuple[Change, ...]]) -> None:
        """Append one entry with the changes that `decide` returns for the current state; none if it returns none.

        `decide` is called again after a lost race, and raises to give up.

        Raises:
            Unavailable: every race was lost, or the store failed.
        """
        token = uuid.uuid4().hex
        for attempt in range(MAX_TRIES):
            changes = decide(self.table)
            if not changes:
                return
            entry = Entry(uid, generation, token, changes)
            if self._try_create(entry):
                return
            time.sleep(random.uniform(0, PAUSE_SECONDS * min(attempt, 20)))  # noqa: S311 - only spreads writers
        raise Unavailable("too many writers compete for the folder", where=self.where, hint="try again")

    def _try_create(self, entry: Entry) -> bool:
        """Create the entry and return True; after a lost race, read the new entries, in case one of them is ours."""
        number = self.table.number + 1
        data = json.dumps(entry.as_dict(), separators=(",", ":")).encode()
        at = now()
        if self._put(number, data):
            if now() - self._read_at > KEEP_ENTRIES / 2 and self._checkpoint().number >= number:
                raise self._stale_entry()
            self._read_at = at
            self._apply(entry)
            return True
        mine = False
        while (newer := self._entry(self.table.number + 1)) is not None:
            other = Entry.of(newer)
            if other.token == entry.token:
                mine = True
                self._apply(other)
            else:
                self.table.apply(other)
        return mine

    def _put(self, number: int, data: bytes) -> bool:
        """Create an entry; only the first one creates the log's folder."""
        try:
            return self.store.create(self.at(_name(number)), data, folder_exists=number > 1)
        except Gone:
            raise folder_removed(self.where) from None

    def _apply(self, entry: Entry) -> None:
        if not self.table.apply(entry):
            raise self._stale_entry()
        if self.table.number % max(CHECKPOINT_EVERY, len(self.table.files) // 16) == 0:
            data = json.dumps(self.table.as_dict(), separators=(",", ":")).encode()
            self.store.put(self.at(f"{CHECKPOINTS}{self.table.number:012d}.json"), data)

    def _stale_entry(self) -> PenstockError:
        what = "an entry was written too late to count: this process was paused for more than a week"
        return PenstockError(what, where=self.where, hint="run it again")

    def _entry(self, number: int) -> dict[str, Any] | None:
        at = now()
        try:
            data = self.store.get(self.at(_name(number)))
        except Gone:
            self._read_at = at
            return None
        return self._read(data)

    def _read(self, data: bytes) -> dict[str, Any]:
        try:
            content: dict[str, Any] = json.loads(data, object_pairs_hook=without_repeats)
            if content["v"] != 1:
                what, hint = f"it has version {content['v']}, which this release does not know", "use a newer release"
                raise PenstockError(what, where=f"{self.where}: the log of {self.folder}", hint=hint)
        except (ValueError, KeyError, TypeError) as error:
            hint = "another program wrote below `_penstock/`; delete it, or choose another folder"
            raise PenstockError(
                "it cannot be read", where=f"{self.where}: the log of {self.folder}", hint=hint
            ) from error
        return content

    def _checkpoint(self) -> FolderState:
        while True:
            names = [one.path for one in self.store.list(self.at(CHECKPOINTS.rstrip("/")))]
            if not names:
                return FolderState()
            try:
                return FolderState.of(self._read(self.store.get(max(names))))
            except Gone:  # replaced by a newer one
                continue

    def trim(self) -> None:
        """Delete entries below the latest checkpoint that is a week old, by the store's clock.

        Not below a newer one: a reader of the checkpoint before it would take the gap for the log's end.
        """
        limit = self.store.head(self.at(_name(self.table.number))).modified - KEEP_ENTRIES
        old = [one.path for one in self.store.list(self.at(CHECKPOINTS.rstrip("/"))) if one.modified < limit]
        if not old:
            return
        last = max(old)
        first = self.at(_name(int(last.rpartition("/")[2].removesuffix(".json"))))
        entries = (one.path for one in self.store.list(self.at(ENTRIES.rstrip("/"))))
        self.store.delete([*(path for path in old if path != last), *takewhile(lambda path: path < first, entries)])


def folder_removed(where: str) -> Unavailable:
    """Return the error for a log that has disappeared since it was read."""
    what = "the folder was deleted or emptied during the run"
    return Unavailable(what, where=where, hint="run it again: it starts over in a new folder")


def _name(number: int) -> str:
    return f"{ENTRIES}{number:012d}.json"
