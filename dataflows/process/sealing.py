"""Sealing: a thread that seals the control topic once a minute, and keeps a copy of each seal outside the database."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from dataflows.process.condition import Report
from penstock.clock import now
from penstock.errors import PenstockError
from penstock.records import Record, encode, records_of
from penstock.records.seals import SEAL, SEAL_LOCK, SPAN, Seal, digest_of, line_of
from penstock.topics.log import Stored, TopicLog, read_between
from penstock.topics.table import CONTROL

__all__ = ["Sealing", "seal_to_end"]

ACTOR: Final = "sealing"
FIRST_SECONDS: Final = 5.0
"""Seconds before the first seal: a command's own processes are over by then, and leave it to the next ones."""
SECONDS: Final = 60.0
"""Seconds between two seals."""
READ: Final = 2000

_log = logging.getLogger(__name__)


class Sealing:
    """Seals in the background until `close`, unless another one does; a failure is logged, and tried again later."""

    def __init__(self, open_log: Callable[[], TopicLog], copies: Path, report: Report) -> None:
        self._open_log, self._copies, self._report = open_log, copies, report
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sealing", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        wait = FIRST_SECONDS
        while not self._ended.wait(wait):
            wait = SECONDS
            try:
                with self._open_log() as log:
                    if log.lock(SEAL_LOCK, wait=False):
                        self._seal(log)
            except (PenstockError, OSError) as error:
                _log.warning("the log is not sealed: %s", error)
                self._report(error)

    def _seal(self, log: TopicLog) -> None:
        last = None
        while True:
            last = seal_to_end(log, self._copies, last)
            _keep(self._copies, b"")  # there may have been nothing to seal
            self._report(None)
            if self._ended.wait(SECONDS):
                return

    def close(self) -> None:
        """End the thread."""
        self._ended.set()
        self._thread.join()


def seal_to_end(log: TopicLog, copies: Path, last: Seal | None = None) -> Seal | None:
    """Seal what no seal covers yet, by as many seals as it takes; return the last one, None if there is none.

    `log` holds the lock `SEAL_LOCK`. `last` is the last seal, if it is known. What is nothing but a seal is not sealed,
    so that a log on which nothing happens does not grow.
    """
    end = log.end(CONTROL, 0)
    last = last or _last(log, end)
    while _is_news(stored := _unsealed(log, last, end), last):
        begin, upto = stored[0].offset, stored[-1].offset + 1
        digest = digest_of(last.digest if last else "", stored)
        payload = {"begin": begin, "upto": upto, "digest": digest}
        record = Record(type=SEAL, key="log", at=now(), actor=ACTOR, payload=payload)
        ((_, offset),) = log.append(CONTROL, [encode(record)])
        last = Seal(begin, upto, digest, offset)
        _keep(copies, line_of(last, log.identity()))
    return last


def _unsealed(log: TopicLog, last: Seal | None, end: int) -> list[Stored]:
    """Return the messages of the next seal."""
    begin = last.upto if last else 0
    return read_between(log, CONTROL, 0, begin, min(end, begin + SPAN))


def _is_news(stored: list[Stored], last: Seal | None) -> bool:
    return len(stored) > 1 or (bool(stored) and (last is None or stored[0].offset != last.offset))


def _last(log: TopicLog, end: int) -> Seal | None:
    """Return the last seal before `end`, searched backwards."""
    while end > 0:
        begin = max(0, end - READ)
        found = [one for one in read_between(log, CONTROL, 0, begin, end) if SEAL.encode() in one.message.value]
        for offset, record in reversed(records_of(found)):
            if record.type == SEAL:
                return Seal(offset=offset, **record.payload)
        end = begin
    return None


def _keep(path: Path, line: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(descriptor, line)
        with suppress(OSError):  # not every file system can
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
