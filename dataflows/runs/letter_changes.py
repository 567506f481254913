"""Dead letters of a stream of changes, as a source: what a redrive writes of them, and what not.

A change that a later one of its key has overtaken is not written: the target has a newer state. It is decided when a
split is read, and asked again in the commit, while the stream cannot commit.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Final

import pyarrow as pa

from catalog.redrives import Redrives, Sent
from dataflows.connectors.isolation import RowRefused
from dataflows.data.changes import CHANGE, keep
from dataflows.runs.letter_source import LettersSource, Restored

__all__ = ["ChangeLetters", "Fates"]

_STEP: Final = "letter"
_KEYLESS: Final = "its key cannot be read, or was another one, so that nothing shows if a later change of it is written"
_TRUNCATED: Final = "rows that came after a TRUNCATE would be deleted: a new snapshot does what it did"
_MOVED: Final = "values that it leaves out were in the row of its key before, which is gone: set"
_UNSENT: Final = "which the update leaves out: set it to a value, or choose other letters"
_LATER: Final = "a later state of its key is written, and an older one cannot be added to a history"


@dataclass(slots=True)
class ChangeLetters(LettersSource):
    """The letters of a redrive of changes; `identity` and `unsent` are what the pipeline's source says."""

    identity: tuple[str, ...] | None = None
    unsent: AbstractSet[str] = frozenset()

    def filled(self, known: Mapping[str, str], columns: Collection[str]) -> Mapping[str, str | None]:
        """Return nothing: a redrive has no positions."""
        return {}

    def forget(self) -> None:
        """Do nothing: letters have nothing at the source."""


def _decide(found: Restored, sent: Sequence[Sent], *, history: bool) -> None:
    """Decide which changes stay, and which are dropped as a later one has overtaken them."""
    for row, one in enumerate(sent):
        change = one.change or {}
        if row in found.left:
            continue
        if one.overtaken is not None and history:
            found.stays[row] = (_STEP, "overtaken", _LATER)
        elif one.overtaken is not None:
            found.stays.pop(row, None)
            found.dropped.add(row)
        elif change.get("op") == "truncate":
            found.stays[row] = (_STEP, "truncate", _TRUNCATED)
        elif change.get("key") is None:
            found.stays[row] = (_STEP, "not_known", _KEYLESS)
        elif change["op"] == "delete" and found.stays.get(row, ("", ""))[:2] == (_STEP, "not_kept"):
            del found.stays[row]  # it needs nothing but the key
    _check_known(found)
    _complete(found)
    for row, text in enumerate(found.batch.column(CHANGE).to_pylist()):
        moved = json.loads(text) if text else {}
        if "key" in moved and row not in found.dropped:  # another row may have that key now
            found.stays.setdefault(row, (_STEP, "not_kept", f"{_MOVED} {', '.join(moved['columns'])}"))


def _check_known(found: Restored) -> None:
    """Let changes stay of which the fix needs a value that they leave out: it would be computed from NULL."""
    for row, text in enumerate(found.batch.column(CHANGE).to_pylist() if found.needs else ()):
        lacking = set(json.loads(text).get("columns", ())) if text else set()
        unknown = [(part, min(needs & lacking)) for part, needs in found.needs.items() if needs & lacking]
        if unknown and row not in found.dropped:
            part, name = unknown[0]
            found.stays.setdefault(row, (_STEP, "not_kept", f"`{part}` needs `{name}`, {_UNSENT}"))


def _complete(found: Restored) -> None:
    """Count what a fix has given to a row among the values that were sent."""
    at = found.batch.schema.get_field_index(CHANGE)
    column = found.batch.column(at)
    texts = [_without(text, row, found) for row, text in enumerate(column.to_pylist())]
    found.batch = found.batch.set_column(at, found.batch.schema.field(at), pa.array(texts, column.type))


def _without(text: str | None, row: int, found: Restored) -> str | None:
    said = json.loads(text) if text else {}
    lacking = said.get("columns")
    if not lacking or not any(found.fixed(row, name) for name in lacking):
        return text
    left = [name for name in lacking if not found.fixed(row, name)]
    return keep(left, said.get("key")) if left else None


@dataclass(slots=True)
class Fates:
    """What a redrive decides of its splits as it reads them, and checks as it commits them."""

    redrive: str
    history: bool
    where: str
    _overtaken: dict[int, list[bool]] = field(default_factory=dict, init=False)
    """Which letters of a split were overtaken when it was read last."""

    def __call__(self, split: int, found: Restored, sent: Sequence[Sent]) -> None:
        """Decide of the rows of a split."""
        self._overtaken[split] = [one.overtaken is not None for one in sent]
        _decide(found, sent, history=self.history)

    def check(self, split: int, redrives: Redrives) -> None:
        """Check that what was decided of a split still holds.

        Raises:
            RowRefused: a later change has come; the split is to be read again.
        """
        if redrives.overtaken(self.redrive, split) != self._overtaken.get(split, []):
            what = "a later change of a key came while its dead letter was redriven"
            raise RowRefused(what, where=self.where, hint="try again", state="overtaken")
