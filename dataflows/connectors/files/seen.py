"""Which files were read: the position of a pipeline that reads each file once, as a text.

Names and versions of the last ten thousand files, shortened to hashes. Files need not come in the order of their times,
as they do not where they are copied with their old times or uploaded in parts. Where there are more, the oldest are
forgotten, and whatever is as old as the newest of those is taken for read.
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

__all__ = ["MAX_FILES", "Seen"]

MAX_FILES: Final = 10_000


@dataclass(frozen=True, slots=True)
class Seen:
    """Hashes of paths with those of versions; whatever was last changed at `upto` or before has been read too."""

    files: Mapping[str, str] = field(default_factory=dict)
    upto: datetime | None = None

    @classmethod
    def parse(cls, text: str | None) -> Seen:
        """What `text` wrote."""
        if text is None:
            return cls()
        data = json.loads(text)
        return cls(data["files"], datetime.fromisoformat(data["upto"]) if data["upto"] else None)

    def text(self) -> str:
        """As a cursor."""
        upto = self.upto.isoformat() if self.upto else None
        return json.dumps({"upto": upto, "files": dict(sorted(self.files.items()))}, separators=(",", ":"))

    def has(self, file: Listed) -> bool:
        """Whether this version of the file was read."""
        return self.files.get(_hash(file.path)) == _hash(file.version) or self._forgotten(file)

    def changed(self, file: Listed) -> bool:
        """Whether another version of the file was read."""
        return self.files.get(_hash(file.path), _hash(file.version)) != _hash(file.version)

    def _forgotten(self, file: Listed) -> bool:
        return _hash(file.path) not in self.files and self.upto is not None and file.modified <= self.upto

    def with_files(self, new: Sequence[Listed], listed: Sequence[Listed]) -> Seen:
        """With `new` read too; `there` are all that are there now, for others go first where many are kept."""
        files = {**self.files, **{_hash(one.path): _hash(one.version) for one in new}}
        if len(files) <= MAX_FILES:
            return Seen(files, self.upto)
        kept = sorted((one for one in listed if _hash(one.path) in files), key=lambda one: one.modified)
        over, kept = kept[:-MAX_FILES], kept[-MAX_FILES:]
        upto = max((one.modified for one in over), default=self.upto)
        return Seen(
            {_hash(one.path): files[_hash(one.path)] for one in kept},
            max(filter(None, (upto, self.upto)), default=None),
        )


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.blake2b(text.encode(), digest_size=9).digest()).decode()
