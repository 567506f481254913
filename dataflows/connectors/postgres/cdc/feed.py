"""What a process gets of a slot that another one reads for it: frames over a socket of this machine.

A reader of changes takes a `Feed` in place of a session for replication: messages, places, and what it confirms.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from penstock.errors import Unavailable

__all__ = [
    "CONFIRM",
    "DATA",
    "FENCED",
    "JOINED",
    "LATER",
    "NEVER",
    "PLACE",
    "Feed",
    "FeedLost",
    "Hello",
    "frame",
    "unix",
]

_FRAME: Final = struct.Struct(">cQI")
DATA: Final = b"d"
"""A message of the server, with its place."""
PLACE: Final = b"k"
"""Everything before this place was sent."""
JOINED: Final = b"w"
LATER: Final = b"n"
"""The slot is ahead, at this place."""
FENCED: Final = b"f"
"""A newer run of the same pipeline has joined."""
CONFIRM: Final = struct.Struct(">Q")
NEVER: Final = 2**64 - 1
"""Confirmed by a member that gives up what the slot has for it."""
ANSWER_SECONDS: Final = 2.0
SILENT_SECONDS: Final = 10.0
"""Seconds without a frame after which whoever reads the slot is taken for dead; one comes each second."""
BLOCK: Final = 1 << 20
PATH_BYTES: Final = 100
"""Longest path of a socket that every system takes."""


class FeedLost(Unavailable):
    """Whoever reads the slot is gone, or gives this process no more, as it took too little."""


@dataclass(frozen=True, slots=True)
class Hello:
    """Who joins: a pipeline, the generation of its run and its table, which was read up to `begin`.

    The sink has what comes before `kept`.
    """

    uid: str
    generation: int
    table: int
    begin: int
    kept: int
    joins: bool = True
    """False if it only tells that it tries to come back."""

    @classmethod
    def parse(cls, line: bytes) -> Hello:
        return cls(**json.loads(line))

    def line(self) -> bytes:
        """Return it as a line."""
        return json.dumps({name: getattr(self, name) for name in self.__slots__}).encode() + b"\n"


def frame(kind: bytes, place: int, data: bytes = b"") -> bytes:
    """Return a frame."""
    return _FRAME.pack(kind, place, len(data)) + data


@contextlib.contextmanager
def unix(path: Path) -> Iterator[str]:
    """Return an address of a socket of the file system, also for a path that is too long for one."""
    if len(os.fsencode(path)) <= PATH_BYTES:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


@dataclass(slots=True)
class Feed:
    """The changes of one table out of a slot that a process of this machine reads."""

    peer: socket.socket
    where: str
    check: Callable[[], None]
    _unread: bytearray = field(default_factory=bytearray, init=False)
    _more: bool = field(default=False, init=False)
    """True if frames that have come may not have been taken."""
    _heard: float = field(default_factory=time.monotonic, init=False)

    @classmethod
    def asked(cls, path: Path, hello: Hello, where: str, check: Callable[[], None]) -> Feed | int:
        """Join; return the place of the slot if it is further on than what the sink has.

        Raises:
            FeedLost: nobody answers.
            Unavailable: a newer run of the pipeline has joined.
        """
        peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        one = cls(peer, where, check)
        try:
            peer.settimeout(ANSWER_SECONDS)
            with unix(path) as address:
                peer.connect(address)
            peer.sendall(hello.line())
            end = time.monotonic() + ANSWER_SECONDS
            while (answer := next(one.frames(0.1), None)) is None:
                check()
                if time.monotonic() > end:
                    raise one.lost()
        except OSError as error:
            peer.close()
            raise one.lost() from error
        except BaseException:
            peer.close()
            raise
        if answer[0] == LATER:
            peer.close()
            return answer[1]
        return one

    @staticmethod
    def told(path: Path, hello: Hello) -> None:
        """Tell whoever reads the slot, if anybody does."""
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
            peer.settimeout(ANSWER_SECONDS)
            with unix(path) as address:
                peer.connect(address)
            peer.sendall(hello.line())

    def messages(self, seconds: float) -> Iterator[tuple[bytes | None, int]]:
        """Yield the messages that are there, or come within `seconds`, as `Replication.messages` does.

        Raises:
            FeedLost: no more come, maybe in the middle of a transaction.
        """
        for kind, place, data in self.frames(seconds):
            yield (data if kind == DATA else None), place

    def frames(self, seconds: float) -> Iterator[tuple[bytes, int, bytes]]:
        """Yield the frames that are there, or come within `seconds`."""
        if select.select([self.peer], [], [], 0.0 if self._more else seconds)[0]:
            try:
                came = self.peer.recv(BLOCK)
            except OSError as error:
                raise self.lost() from error
            if not came:
                raise self.lost()
            self._unread += came
            self._heard = time.monotonic()
        elif time.monotonic() - self._heard > SILENT_SECONDS:
            raise self.lost()
        at, end, self._more = 0, len(self._unread), True
        try:
            while end - at >= _FRAME.size:
                kind, place, size = _FRAME.unpack_from(self._unread, at)
                if end - at < _FRAME.size + size:
                    break
                data = bytes(self._unread[at + _FRAME.size : at + _FRAME.size + size])
                at += _FRAME.size + size
                if kind == FENCED:
                    raise Unavailable("a newer run reads this table", where=self.where, hint="nothing to do")
                yield kind, place, data
            self._more = False
        finally:
            del self._unread[:at]

    def confirm(self, upto: int, *, answer: bool = False) -> None:
        """Report that everything before `upto` is kept elsewhere; places come each second, asked for or not."""
        try:
            self.peer.settimeout(ANSWER_SECONDS)
            self.peer.sendall(CONFIRM.pack(upto))
        except OSError as error:
            raise self.lost() from error

    def close(self) -> None:
        """Leave."""
        self.peer.close()

    def lost(self) -> FeedLost:
        """Return the error of a feed that has ended."""
        return FeedLost("the process that reads the set's slot is gone", where=self.where, hint="try again")
