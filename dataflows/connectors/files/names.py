"""Names of file sets: ``raw/orders/*.parquet``, ``raw/**/year=*/*.csv.gz``, a folder, or one file.

``*`` and ``?`` stand for characters of one part of a path, ``**`` for any number of parts. Parts that begin with ``_``
or ``.`` are nobody's data. A folder named ``key=value`` gives a column `key`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote

from dataflows.data.tables import Column
from penstock.errors import Refused

__all__ = ["FileSet", "partition_columns", "partitions"]

_WILD: Final = re.compile(r"[*?\[]")
_NULL: Final = "__HIVE_DEFAULT_PARTITION__"
_WHOLE: Final = re.compile(r"0|-?[1-9][0-9]{0,17}")


@dataclass(frozen=True, slots=True)
class FileSet:
    """A pattern, and the folder below which all that it matches lies."""

    pattern: str
    folder: str

    @classmethod
    def parse(cls, text: str, where: str) -> FileSet:
        """The set that an object's name means.

        Raises:
            Refused: a name that leads out of the connection's root.
        """
        parts = [part for part in text.split("/") if part not in {"", "."}]
        if "_penstock" in parts:
            hint = "name the folder that it lies in"
            raise Refused("this name is reserved for Penstock", where=where, value=text, hint=hint)
        if ".." in parts or "\\" in text or not parts:
            hint = "name files below the connection's root, with / between folders"
            raise Refused("the name does not lie below the root", where=where, value=text, hint=hint)
        fixed = next((at for at, part in enumerate(parts) if _WILD.search(part)), len(parts))
        return cls("/".join(parts), "/".join(parts[:fixed]))

    @property
    def plain(self) -> bool:
        """Whether it is one name: a file or a folder."""
        return self.pattern == self.folder

    def matches(self, path: str) -> bool:
        """Whether a path is in the set."""
        below = path.removeprefix(self.folder).lstrip("/") if path != self.folder else ""
        if any(part.startswith(("_", ".")) for part in below.split("/")):
            return False
        if self.plain:
            return path == self.folder or path.startswith(f"{self.folder}/")
        return re.fullmatch(_expression(self.pattern), path) is not None


def _expression(pattern: str) -> str:
    text = ""
    for part in pattern.split("/"):
        text += "(?:.+/)?" if part == "**" else f"{_part(part)}/"
    return text[:-1] if not text.endswith("?") else f"{text}[^/]+"


def _part(part: str) -> str:
    found = re.escape(part).replace(r"\*", "[^/]*").replace(r"\?", "[^/]")
    return re.sub(
        r"\\\[(!?)((?:[^\]\\]|\\-)+)\\\]", lambda m: f"[{'^' if m[1] else ''}{m[2].replace(chr(92), '')}]", found
    )


def partitions(path: str) -> dict[str, str | None]:
    """The keys and values of the folders that a file lies in."""
    pairs = [part.partition("=") for part in path.split("/")[:-1] if "=" in part]
    return {unquote(key): None if value == _NULL else unquote(value) for key, _, value in pairs if key}


def partition_columns(paths: Iterable[str], declared: Mapping[str, str], where: str) -> tuple[Column, ...]:
    """Columns from folders: whole numbers where all of a key's values are written as such, else text.

    Raises:
        Refused: files of which some lie in folders of a key and some do not.
    """
    found = [partitions(path) for path in paths]
    names = list(dict.fromkeys(name for one in found for name in one))
    columns = []
    for name in names:
        if not all(name in one for one in found):
            hint = "put all files into such folders, or none"
            raise Refused(f"some files have no folder {name}=…", where=where, hint=hint)
        values = [one[name] for one in found]
        whole = all(value is None or _WHOLE.fullmatch(value) for value in values)
        columns.append(Column(name, declared.get(name, "bigint" if whole else "text"), nullable=None in values))
    return tuple(columns)
