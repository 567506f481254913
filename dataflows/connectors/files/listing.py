"""Objects of a folder or bucket: what lies at the depth of the patterns that are asked for.

Each folder is an object, with all files below it. Of the files, those whose names differ only from a number or date on
are one: `orders_2026-11-30.csv` is part of `orders_[0-9]*.csv`. Folders such as `year=2026` are one for each key,
`year=*/**`. A pattern with a slash looks deeper: `raw/*` has what is in the folder `raw`. The pattern `**` looks into
folders that only have folders, and takes those that have files.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from glob import escape
from typing import Final

from dataflows.connectors.files.names import is_hidden, is_wild
from dataflows.connectors.files.store import Store
from dataflows.connectors.formats.contract import ending_of
from dataflows.connectors.listing import ListedObject

__all__ = ["objects_of"]

_NUMBERED: Final = re.compile(r"(|.*?[-_. ])(?=[0-9])")
"""The text before the number or date of a name, up to its first digit after a separator or at the beginning."""
KIND: Final = "files"
EVERYWHERE: Final = "**"
DEEPEST: Final = 8
"""Levels of folders that are looked into."""
_KEYED: Final = re.compile(r"([^=]+)=")


def objects_of(
    store: Store, patterns: Sequence[str], check: Callable[[], None], *, any_ending: bool
) -> Iterator[ListedObject]:
    """Yield the objects at the depth of each pattern, each once.

    Files whose ending names no format are hidden, unless the pipeline says how to read `any_ending`.
    """
    folders = dict.fromkeys(folder for pattern in patterns for folder in _parents(store, pattern, check))
    for folder in folders:
        check()
        below, files = _level(store, folder)
        named = [_of_folder(path) for path in below]
        if EVERYWHERE in patterns and not folder:
            named = [one for path in below for one in _within(store, path, check, 1)]
        named += [_of_file(path, any_ending=any_ending) for path in files]
        yield from {one.name: one for one in named}.values()


def _within(store: Store, folder: str, check: Callable[[], None], depth: int) -> Iterator[ListedObject]:
    """Yield a folder if it has files, or folders of a key; else what is in its folders."""
    check()
    keyed = _KEYED.match(folder.rpartition("/")[2]) is not None
    below, files = ([], []) if keyed else _level(store, folder)
    if keyed or files or depth == DEEPEST or any(_KEYED.match(path.rpartition("/")[2]) for path in below):
        yield _of_folder(folder)
    else:
        for path in below:
            yield from _within(store, path, check, depth + 1)


def _level(store: Store, folder: str) -> tuple[list[str], list[str]]:
    """Return the folders and files in a folder that are not hidden."""
    below, files = store.level(folder)
    return [path for path in below if not is_hidden(path)], [path for path in files if not is_hidden(path)]


def _parents(store: Store, pattern: str, check: Callable[[], None]) -> Iterable[str]:
    """Return the folders that contain what a pattern may match."""
    parts = [part for part in pattern.split("/") if part]
    found = [""]
    for part in parts[: -2 if parts[-1:] == ["**"] else -1]:
        check()
        found = [path for folder in found for path in _folders(store, folder, part)]
    return found


def _folders(store: Store, folder: str, part: str) -> Sequence[str]:
    if not is_wild(part):
        return [f"{folder}/{part}".lstrip("/")]
    below, _ = _level(store, folder)
    return [path for path in below if fnmatchcase(path.rpartition("/")[2], part)]


def _of_folder(path: str) -> ListedObject:
    parent, slash, last = path.rpartition("/")
    if keyed := _KEYED.match(last):
        return ListedObject(f"{escape(parent)}{slash}{escape(keyed[1])}=*/**", "", keyed[1], kind=KIND)
    name = f"{escape(path)}/**" if is_wild(path) else path
    return ListedObject(name, "", last.removesuffix(ending_of(last) or "") or last, kind=KIND)


def _of_file(path: str, *, any_ending: bool) -> ListedObject:
    parent, slash, last = path.rpartition("/")
    known = ending_of(last)
    ending = known if known is not None else "".join(last.rpartition(".")[1:]) if "." in last else ""
    stem = last.removesuffix(ending)
    numbered = _NUMBERED.match(stem)
    begin = numbered[1] if numbered else stem
    name = f"{begin and escape(begin)}[0-9]*{escape(ending)}" if numbered else escape(last)
    table = begin.rstrip("-_. ") or stem if not numbered or begin else ending.lstrip(".").partition(".")[0]
    hidden = known is None and not any_ending
    return ListedObject(f"{escape(parent)}{slash}{name}", "", table or last, hidden=hidden, kind=KIND)
