"""Files that have arrived since the last look: those of a set that are new, or have other content, and are complete."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256

from dataflows.connectors.contract import Place
from dataflows.connectors.files.seen import Seen
from dataflows.connectors.files.source import FilesSource
from dataflows.connectors.files.store import Listed, Store
from dataflows.connectors.listing import Arrived

__all__ = ["FilesWatch"]


@dataclass(slots=True)
class FilesWatch:
    """Looks for files of one set. A file on this machine counts once it has stayed as it is; in a bucket it is whole.

    No clock is compared with the files' times, which another machine's clock may have set.
    """

    place: Place
    store: Store
    _files: Sequence[Listed] = ()

    def look(self) -> str:
        self._files = self._listed()
        return sha256(Seen().with_files(self._files, self._files, self.place.where).text().encode()).hexdigest()

    def arrived(self, seen: str | None, pause: Callable[[], None]) -> Arrived | None:
        before = Seen.parse(seen)
        new = [one for one in self._files if not before.has(one)]
        if new and not self.store.remote:
            pause()
            after = {one.path: one.version for one in self._listed()}
            new = [one for one in new if after.get(one.path) == one.version]
        if not new:
            return None
        return Arrived(tuple(one.path for one in new), before.with_files(new, self._files, self.place.where).text())

    def _listed(self) -> Sequence[Listed]:
        return FilesSource(self.place, self.store).files()
