"""A folder that is watched as a stream: each new file is read once, in the order of the files' times.

The one partition's position is the set of files read, as in a batch with the cursor `_modified`. A split has whole
files, so that a file is in the sink completely or not at all. A file on this machine is taken once it has stayed as it
is for a while; one that changes after it was read stops the stream by name.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from dataflows.connectors.contract import SplitReader
from dataflows.connectors.files.seen import Seen
from dataflows.connectors.files.store import Listed
from dataflows.connectors.streaming import Beginning, Restarted, StreamOrder
from dataflows.data.chunks import Chunk
from dataflows.data.positions import Move
from dataflows.data.splits import Split
from penstock.clock import now
from penstock.errors import Refused

__all__ = ["LISTING_SHARE", "PART", "FolderWatcher", "begun", "restarted"]

PART: Final = "files"
SETTLED: Final = timedelta(seconds=1)
"""How long a file on this machine must stay as it is before it is read."""
LOOK_SECONDS: Final = 0.5
LISTING_SHARE: Final = 20
"""A listing that takes long is made rarer: the pause after it is so many times as long as it took."""
PAUSE_SECONDS: Final = 0.1
"""Seconds between two looks at whether the flow has ended, or is to drain."""
WRITTEN_SECONDS: Final = 0.01
"""Seconds between two looks at whether the last splits of a drained stream are written."""
START_OVER: Final = "restore it and write changes to new files, or `penstock run NAME --from earliest --reset`"


def begun(files: Sequence[Listed], begin: Beginning, where: str) -> Seen:
    """Return the files that a new stream counts as read: none, all that are there, or those before a time."""
    if begin == "earliest":
        return Seen()
    return Seen().with_files([one for one in files if begin == "latest" or one.modified < begin], files, where)


def restarted(
    files: Sequence[Listed], known: Mapping[str, str], begin: Beginning | Mapping[str, str], where: str
) -> Restarted:
    """Return where the stream begins once more, and how many of the files it repeats or skips.

    Raises:
        Refused: positions are given, and files have none.
    """
    if isinstance(begin, Mapping):
        raise Refused("files have no offsets", where=where, hint="write --from earliest, latest, or a time")
    old, new = Seen.parse(known.get(PART)), begun(files, begin, where)
    counts = {
        "repeats": sum(old.has(one) and not new.has(one) for one in files),
        "skips": sum(new.has(one) and not old.has(one) for one in files),
    }
    shifts = [f"it {does} {count:,} files" for does, count in counts.items() if count and PART in known]
    return Restarted({PART: new.text()}, shifts)


@dataclass
class FolderWatcher:
    """Reads one slot; `listed` lists the folder, `packed` makes splits' bounds of files, `read_split` reads one."""

    order: StreamOrder
    where: str
    listed: Callable[[], Sequence[Listed]]
    packed: Callable[[Sequence[Listed]], Iterator[tuple[str, Sequence[Listed]]]]
    check: Callable[[Sequence[Listed]], None]
    """Raises if files cannot be read as those before them."""
    reader: SplitReader
    at_once: bool
    """True if a file is complete as soon as it is listed."""
    splits: dict[int, Split] = field(default_factory=dict, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)
    _found: dict[str, tuple[str, float]] = field(default_factory=dict, init=False)
    """Version of each file that is not read yet, and when it was first seen."""

    def chunks(self) -> Iterator[Chunk]:
        seen = Seen.parse(self.order.positions[PART])
        number, upto = self.order.first, None
        while True:
            self.order.read.check()
            draining, start = self.order.draining(), time.monotonic()
            files = self.listed()
            self.order.moved()
            if draining and upto is None:
                upto = {one.path for one in files}
            new = self._new(files, seen, upto)
            for lower, pack in self.packed([one for one in new if self._is_complete(one)]):
                self.check(pack)
                after = seen.with_files(pack, files, self.where)
                yield from self._read(number, lower, pack, (seen, after))
                number, seen = number + 1, after
            if upto is not None and all(map(seen.has, new)):
                break
            self._pause(max(LOOK_SECONDS, LISTING_SHARE * (time.monotonic() - start) if not new else 0))
        while self.splits:
            self.order.read.check()
            time.sleep(WRITTEN_SECONDS)

    def read(self, slot: str, split: Split) -> Iterator[Chunk]:
        return self.reader.read(slot, split)

    def committed(self, number: int) -> None:
        with self._lock:
            for one in [one for one in self.splits if one <= number]:
                del self.splits[one]

    def close(self) -> None:
        self.reader.close()

    def _new(self, files: Sequence[Listed], seen: Seen, upto: set[str] | None) -> list[Listed]:
        """Return the files that are not read yet, the oldest first.

        Raises:
            Refused: a file that was read has changed.
        """
        if changed := next((one.path for one in files if seen.changed(one)), None):
            raise Refused(f"{changed} has changed since its rows were read", where=self.where, hint=START_OVER)
        new = [one for one in files if not seen.has(one) and (upto is None or one.path in upto)]
        return sorted(new, key=lambda one: (one.modified, one.path))

    def _is_complete(self, file: Listed) -> bool:
        """True if the file seems to be complete."""
        if self.at_once:
            return True
        version, since = self._found.get(file.path, ("", 0.0))
        if version != file.version:
            since = time.monotonic()
            self._found[file.path] = (file.version, since)
        settled = SETTLED.total_seconds()
        return now() - file.modified >= SETTLED or time.monotonic() - since >= settled  # its time may lie in the future

    def _read(self, number: int, lower: str, pack: Sequence[Listed], seen: tuple[Seen, Seen]) -> Iterator[Chunk]:
        times = [one.modified.timestamp() for one in pack]
        move = Move(PART, *(one.text() for one in seen))
        split = Split(number, lower, moves=(move,), times=(min(times), max(times)))
        with self._lock:
            self.splits[number] = split
        yield from self.reader.read(self.order.slot, split)
        for one in pack:
            self._found.pop(one.path, None)

    def _pause(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.order.read.check()
            time.sleep(min(left, PAUSE_SECONDS))
            if self.order.draining():
                break
