"""The position of a pipeline that reads each file once: the set of files read, as text.

It has hashes of the names and versions of all files that were read. Files need not arrive in the order of their times
(they do not if they are copied with their old times, or uploaded in parts), so that only its name tells that a file was
read: a folder with more files than can be remembered is refused.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from dataflows.connectors.files.store import Listed
from penstock.errors import Refused

__all__ = ["MAX_FILES", "Seen"]

MAX_FILES: Final = 50_000
"""Files whose names are remembered, about 30 bytes each."""


@dataclass(frozen=True, slots=True)
class Seen:
    """Hashes of paths and versions of the files read.

    Positions of older versions have an `upto`: files last changed at or before it count as read, too.
    """

    files: Mapping[str, str] = field(default_factory=dict)
    upto: datetime | None = None

    @classmethod
    def parse(cls, text: str | None) -> Seen:
        """Parse the result of `text`; None is the empty set."""
        if text is None:
            return cls()
        data = json.loads(text)
        return cls(data["files"], datetime.fromisoformat(data["upto"]) if data["upto"] else None)

    def text(self) -> str:
        """Return the set as a cursor's value."""
        upto = self.upto.isoformat() if self.upto else None
        return json.dumps({"upto": upto, "files": dict(sorted(self.files.items()))}, separators=(",", ":"))

    def has(self, file: Listed) -> bool:
        """True if this version of the file was read."""
        return self.files.get(_hash(file.path)) == _hash(file.version) or self._forgotten(file)

    def changed(self, file: Listed) -> bool:
        """True if another version of the file was read."""
        return self.files.get(_hash(file.path), _hash(file.version)) != _hash(file.version)

    def _forgotten(self, file: Listed) -> bool:
        return _hash(file.path) not in self.files and self.upto is not None and file.modified <= self.upto

    def with_files(self, new: Sequence[Listed], listed: Sequence[Listed], where: str) -> Seen:
        """Return the set with `new` added; if it grows too large, without files that are not `listed` any more.

        Raises:
            Refused: more files are listed than can be remembered.
        """
        files = {**self.files, **{_hash(one.path): _hash(one.version) for one in new}}
        if len(files) > MAX_FILES:
            known = {_hash(one.path) for one in listed}
            files = {path: version for path, version in files.items() if path in known}
        if len(files) > MAX_FILES:
            what = f"{len(files):,} files are more than a cursor on files can remember ({MAX_FILES:,})"
            hint = "move files that were read out of the folder, or narrow the pattern"
            raise Refused(what, where=where, hint=hint)
        return Seen(files, self.upto)


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.blake2b(text.encode(), digest_size=9).digest()).decode()
