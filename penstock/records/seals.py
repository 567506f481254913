"""Seals: digests over spans of the control topic, which show that a record was altered, dropped or moved since.

A seal covers the messages of `[begin, upto)`, every byte of them, with their offsets and stamps, and the digest of the
seal before it. So each seal stands for the whole log before it, and it is enough to keep the last one elsewhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import msgspec
import orjson

from penstock.topics.log import Stored

__all__ = ["SEAL", "SEAL_LOCK", "SPAN", "Problem", "Seal", "SealCheck", "digest_of", "line_of", "seals_in"]

SEAL: Final = "log.sealed"
SEAL_LOCK: Final = "seals"
"""Lock held while sealing; seals of other sessions do not count."""
SPAN: Final = 10_000
"""Messages that a seal covers at most: an alteration is found to be among that many."""
_encode: Final = msgspec.msgpack.Encoder().encode


@dataclass(frozen=True, slots=True)
class Seal:
    """A span of the log and its digest; `offset` is where the seal itself is, None for one that is not on the log."""

    begin: int
    upto: int
    digest: str
    offset: int | None = None


@dataclass(frozen=True, slots=True)
class Problem:
    """What does not agree with a seal: among the messages from `begin` to before `upto`."""

    kind: Literal["altered", "missing", "chain", "copy"]
    begin: int
    upto: int
    what: str


class _Digest:
    """The digest of a span, message by message."""

    def __init__(self, before: str) -> None:
        self._hash = hashlib.sha256(before.encode())

    def add(self, stored: Iterable[Stored]) -> None:
        parts = list[bytes]()
        for one in stored:
            message, stamp = _encode(one.message), -1 if one.lock is None else one.lock
            parts += (b"%d %d %d " % (one.offset, stamp, len(message)), message)
        self._hash.update(b"".join(parts))

    def hex(self) -> str:
        return self._hash.hexdigest()


def digest_of(before: str, stored: Sequence[Stored]) -> str:
    """Return the digest of a seal over `stored`, all messages of its span, after the seal with digest `before`."""
    found = _Digest(before)
    found.add(stored)
    return found.hex()


class SealCheck:
    """Compares a log, read from its first message on, with its seals, and with copies of seals kept elsewhere.

    A seal comes after what it covers, so all of them are read first.
    """

    def __init__(self, seals: Sequence[Seal], copies: Sequence[Seal] = ()) -> None:
        self.problems: list[Problem] = []
        self.seals, self._next = self._chain(seals), 0
        self._copies = copies
        self._at, self._digest = 0, _Digest("")

    @property
    def sealed(self) -> int:
        """The end of what seals cover."""
        return self.seals[-1].upto if self.seals else 0

    def _chain(self, seals: Sequence[Seal]) -> list[Seal]:
        chain: list[Seal] = []
        for seal in seals:
            upto = chain[-1].upto if chain else 0
            if any((seal.begin, seal.upto, seal.digest) == (one.begin, one.upto, one.digest) for one in chain[-3:]):
                continue  # sealed again by one that did not know of the first
            if seal.begin != upto or seal.upto <= seal.begin:
                what = f"the seal at offset {seal.offset} begins at {seal.begin}, the one before it ends at {upto}"
                self.problems.append(Problem("chain", upto, seal.begin, what))
                continue
            chain.append(seal)
        return chain

    def take(self, stored: Sequence[Stored]) -> None:
        """Compare the next messages."""
        for one in stored:
            if one.offset != self._at:
                what = f"{one.offset - self._at} messages before offset {one.offset} are missing"
                self.problems.append(Problem("missing", self._at, one.offset, what))
                self._at = one.offset
            self._at += 1
        rest = list(stored)
        while rest and self._next < len(self.seals):
            upto = self.seals[self._next].upto
            inside = sum(one.offset < upto for one in rest) if rest[-1].offset >= upto else len(rest)
            self._digest.add(rest[:inside])
            if rest[-1].offset < upto - 1:
                return
            rest = rest[inside:]
            self._close(self.seals[self._next])

    def _close(self, seal: Seal) -> None:
        if self._digest.hex() != seal.digest:
            what = f"what is there is not what was sealed at offset {seal.offset}"
            self.problems.append(Problem("altered", seal.begin, seal.upto, what))
        self._next += 1
        # From the seal as it is written, so that one alteration is reported once.
        self._digest = _Digest(seal.digest)

    def end(self) -> None:
        """Compare what is left once the log is read to its end."""
        for seal in self.seals[self._next :]:
            what = f"the log ends at {self._at}, before the end of what was sealed"
            self.problems.append(Problem("missing", self._at, seal.upto, what))
        known = {(seal.begin, seal.upto): seal.digest for seal in self.seals}
        for copy in self._copies:
            if known.get((copy.begin, copy.upto)) != copy.digest:
                what = "the copy of a seal kept outside has no equal on the log"
                self.problems.append(Problem("copy", copy.begin, copy.upto, what))


def line_of(seal: Seal, log: str) -> bytes:
    """Return a seal of the log with this identity as a line of a file."""
    return orjson.dumps({"log": log, "begin": seal.begin, "upto": seal.upto, "digest": seal.digest}) + b"\n"


def seals_in(lines: Iterable[bytes], log: str) -> list[Seal]:
    """Return the seals of the log with this identity among the lines of a file; others, and torn lines, are skipped."""
    found = []
    for line in lines:
        try:
            one = orjson.loads(line)
            seal = Seal(int(one["begin"]), int(one["upto"]), str(one["digest"]))
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
            continue
        if one.get("log") == log:
            found.append(seal)
    return found
