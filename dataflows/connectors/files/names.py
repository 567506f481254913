"""Names of file sets: ``raw/orders/*.parquet``, ``raw/**/year=*/*.csv.gz``, a folder, or one file.

``*`` and ``?`` match characters within one part of a path, ``[…]`` one of several, so that ``[*]`` is a star, and
``**`` any number of parts. Parts that begin with ``_`` or ``.`` are ignored. A folder named ``key=value`` adds a column
`key`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote

from dataflows.data.tables import Column
from penstock.errors import Refused

__all__ = ["FileSet", "is_hidden", "is_wild", "partition_columns", "partitions"]

_WILD: Final = re.compile(r"[*?\[]")
_TOKEN: Final = re.compile(r"\[(!?)(\]?[^\]]*)\]|.", re.DOTALL)
"""A set of characters, or one character."""
_NULL: Final = "__HIVE_DEFAULT_PARTITION__"
_WHOLE: Final = re.compile(r"0|-?[1-9][0-9]{0,17}")


@dataclass(frozen=True, slots=True)
class FileSet:
    """A pattern, and the deepest folder that contains all its matches."""

    pattern: str
    folder: str

    @classmethod
    def parse(cls, text: str, where: str) -> FileSet:
        """Parse an object's name.

        Raises:
            Refused: the name leads out of the connection's root, or is reserved for Penstock.
        """
        parts = [part for part in text.split("/") if part not in {"", "."}]
        if "_penstock" in parts:
            hint = "name the folder that contains it"
            raise Refused("this name is reserved for Penstock", where=where, value=text, hint=hint)
        if ".." in parts or "\\" in text or not parts:
            hint = "name files below the connection's root, with / between folders"
            raise Refused("the name is not below the root", where=where, value=text, hint=hint)
        fixed = next((at for at, part in enumerate(parts) if _WILD.search(part)), len(parts))
        return cls("/".join(parts), "/".join(parts[:fixed]))

    @property
    def plain(self) -> bool:
        """True if it is one name, without wildcards: a file or a folder."""
        return self.pattern == self.folder

    def matches(self, path: str) -> bool:
        """True if a path is in the set."""
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
    return "".join(map(_token, _TOKEN.finditer(part)))


def _token(found: re.Match[str]) -> str:
    """Return the expression of one character or of a set; ``[*]`` is a set of one, a star."""
    if found[2]:
        inside = "".join(one if one == "-" else re.escape(one) for one in found[2])
        return f"[{'^' if found[1] else ''}{inside}]"
    return {"*": "[^/]*", "?": "[^/]"}.get(found[0], re.escape(found[0]))


def is_wild(text: str) -> bool:
    """True if a name has characters that a pattern gives a meaning to."""
    return _WILD.search(text) is not None


def is_hidden(path: str) -> bool:
    """True if the last part of a path is ignored."""
    return path.rpartition("/")[2].startswith(("_", "."))


def partitions(path: str) -> dict[str, str | None]:
    """Return the keys and values of the ``key=value`` folders of a path."""
    pairs = [part.partition("=") for part in path.split("/")[:-1] if "=" in part]
    return {unquote(key): None if value == _NULL else unquote(value) for key, _, value in pairs if key}


def partition_columns(paths: Iterable[str], declared: Mapping[str, str], where: str) -> tuple[Column, ...]:
    """Return the columns of ``key=value`` folders: bigint if all values are integers, else text, or as declared.

    Raises:
        Refused: only some files are in folders of a key.
    """
    keys = [partitions(path) for path in paths]
    names = list(dict.fromkeys(name for one in keys for name in one))
    columns = []
    for name in names:
        if not all(name in one for one in keys):
            hint = "put all files into such folders, or none"
            raise Refused(f"some files have no folder {name}=…", where=where, hint=hint)
        values = [one[name] for one in keys]
        whole = all(value is None or _WHOLE.fullmatch(value) for value in values)
        columns.append(Column(name, declared.get(name, "bigint" if whole else "text"), nullable=None in values))
    return tuple(columns)
