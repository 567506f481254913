"""Records on their way to a stream: as many in a request as it takes, and again what the stream has not taken.

A request may be taken in part, and Kinesis promises no order within one. So the answer is looked at record by record:
from the first record of a key that was refused, or that got a smaller number than the one before it, all later ones of
that key are sent again. The last copy of each is then in order; an earlier one may be there, too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from dataflows.connectors.kinesis.client import Kinesis
from penstock.errors import Unavailable

__all__ = ["Outbox", "Outgoing"]

MOST_RECORDS: Final = 500
"""Records of one request."""
MOST_BYTES: Final = 5 << 20
"""Bytes of one request, with the partition keys."""
PATIENCE_SECONDS: Final = 60.0
"""Longest wait for a stream that takes nothing."""
PAUSE_SECONDS: Final = 0.1
LONGEST_PAUSE_SECONDS: Final = 2.0
FENCE_SECONDS: Final = 1.0
"""A request that begins longer after the last look at the fence looks again."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A record to send; `ordered`: it has to stay behind those of its key."""

    key: str
    data: bytes
    ordered: bool

    @property
    def size(self) -> int:
        """Bytes that Kinesis counts."""
        return len(self.data) + len(self.key.encode())


@dataclass(slots=True)
class Outbox:
    """Sends records in order, one request at a time; `fence` raises if a newer run has taken over."""

    client: Kinesis
    check: Callable[[], None]
    fence: Callable[[], None]
    _waiting: list[Outgoing] = field(default_factory=list, init=False)
    _size: int = field(default=0, init=False)
    _looked: float = field(default=float("-inf"), init=False)

    def add(self, one: Outgoing) -> None:
        """Add a record, and send those before it if a request takes no more."""
        if len(self._waiting) == MOST_RECORDS or self._size + one.size > MOST_BYTES:
            self.flush()
        self._waiting.append(one)
        self._size += one.size

    def flush(self) -> None:
        """Send all that wait; return once the stream has all of them.

        Raises:
            Fenced: a newer run took over.
            Unavailable: the stream takes nothing for a minute.
        """
        records, self._waiting, self._size = self._waiting, [], 0
        end, pause = time.monotonic() + PATIENCE_SECONDS, PAUSE_SECONDS
        while records:
            self._look()
            answer = self._sent(records)
            left = unsent(records, answer)
            if len(left) < len(records):
                end, pause = time.monotonic() + PATIENCE_SECONDS, PAUSE_SECONDS
            elif time.monotonic() > end:
                code = next((one["ErrorCode"] for one in answer if one.get("ErrorCode")), "no order")
                what = f"the stream has taken nothing for {PATIENCE_SECONDS:.0f} s: {code}"
                raise Unavailable(what, where=self.client.where, hint="give it more shards, or send less")
            records = left
            if records:
                time.sleep(pause)
                pause = min(LONGEST_PAUSE_SECONDS, 2 * pause)

    def drop(self) -> None:
        """Forget what was not sent."""
        self._waiting, self._size = [], 0

    def _sent(self, records: Sequence[Outgoing]) -> Sequence[Mapping[str, Any]]:
        entries = [{"Data": one.data, "PartitionKey": one.key} for one in records]
        parameters = {"StreamName": self.client.stream, "Records": entries}
        answer: list[dict[str, Any]] = self.client.call("put_records", parameters, self.check)["Records"]
        return answer

    def _look(self) -> None:
        self.check()
        if time.monotonic() > self._looked + FENCE_SECONDS:
            self.fence()
            self._looked = time.monotonic()


def unsent(records: Sequence[Outgoing], answer: Sequence[Mapping[str, Any]]) -> list[Outgoing]:
    """Return the records that have to be sent again, in order, by what the stream has answered to each."""
    last: dict[str, int] = {}
    broken: set[str] = set()
    left = []
    for one, found in zip(records, answer, strict=True):
        number = None if found.get("ErrorCode") else int(found["SequenceNumber"])
        if one.ordered and (one.key in broken or number is None or number <= last.get(one.key, -1)):
            broken.add(one.key)
            left.append(one)
        elif number is None:
            left.append(one)
        else:
            last[one.key] = number
    return left
