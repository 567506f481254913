"""Transactions of Kafka: one transactional id for each slot of a pipeline, whose newest holder fences all others.

`init_transactions` waits until whatever an older holder left open is aborted, or until what it was committing is
committed. A broker that ends a transaction by itself, for it was open too long, answers as if there were a newer
holder: so who was fenced asks the state who owns the pipeline.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException

from dataflows.connectors.contract import Place
from dataflows.connectors.kafka.client import SECONDS, error_of, producer
from penstock.errors import AccessDenied, PenstockError, Refused, Unavailable, Unreachable

__all__ = ["LostTransaction", "Transactions", "transactional_id"]

TIMEOUT_SECONDS: Final = 300
"""Time after which the brokers abort a transaction that was neither committed nor aborted."""
COMMIT_SECONDS: Final = 60.0
"""Longest wait for the outcome of a commit."""
STEP_SECONDS: Final = 0.2
"""Longest wait between two looks at whether the flow has ended."""
_LOST: Final = {
    KafkaError._FENCED,  # noqa: SLF001 - the client's own codes begin with an underscore
    KafkaError._STATE,  # noqa: SLF001 - as above
    KafkaError.INVALID_PRODUCER_EPOCH,
    KafkaError.INVALID_PRODUCER_ID_MAPPING,
    KafkaError.INVALID_TXN_STATE,
    KafkaError.PRODUCER_FENCED,
    KafkaError.UNKNOWN_PRODUCER_ID,
}


class LostTransaction(Unavailable):
    """The brokers have ended the transaction: for a newer holder of its id, or since it was open too long."""


def transactional_id(uid: str, slot: str | None = None) -> str:
    """Return the transactional id of a slot of a pipeline; without a slot, that of changes of its state alone."""
    return f"penstock-{uid}" if slot is None else f"penstock-{uid}-{slot}"


@dataclass(slots=True)
class Transactions:
    """Producer of one transactional id. Not thread-safe; after an error it can only be closed."""

    id: str
    where: str
    check: Callable[[], None]
    _producer: Any = None
    _failed: list[KafkaError] = field(default_factory=list, init=False)
    _open: bool = field(default=False, init=False)

    @classmethod
    def begun(cls, place: Place, name: str, where: str, check: Callable[[], None], **settings: Any) -> Transactions:
        """Take over the id: what an older holder left open is aborted, and it can commit nothing any more.

        Raises:
            AccessDenied, Refused, Unreachable, Unavailable: the brokers.
        """
        made = cls(name, where, check)
        fixed = {"transactional.id": name, "transaction.timeout.ms": TIMEOUT_SECONDS * 1000}
        made._producer = producer(place, on_delivery=made._delivered, **fixed, **settings)
        made._repeated(made._producer.init_transactions, SECONDS * 2)
        return made

    def send(self, topic: str, value: bytes | None, key: bytes | None = None, partition: int = -1) -> None:
        """Add a message to the transaction, which begins with its first one."""
        if not self._open:
            self.begin()
        while True:
            try:
                with self._translated():
                    self._producer.produce(topic, value, key, partition)
            except BufferError:
                self.check()
                self.poll(STEP_SECONDS)
            else:
                return

    def begin(self) -> None:
        """Begin a transaction; the brokers learn of it with its first message."""
        with self._translated():
            self._producer.begin_transaction()
        self._open = True

    def flush(self) -> None:
        """Wait until all messages so far are stored.

        Raises:
            PenstockError: one was not.
        """
        while self._flushed():
            self.check()

    def _flushed(self) -> int:
        """Wait a moment; return how many messages are not stored yet."""
        with self._translated():
            left = int(self._producer.flush(STEP_SECONDS))
        self._raise_failed()
        return left

    def commit(self) -> None:
        """Commit. If it raises, the outcome is unknown until the id is taken over again.

        Raises:
            LostTransaction: the brokers have ended it.
        """
        if not self._open:
            self.begin()
        self._repeated(self._producer.commit_transaction, COMMIT_SECONDS)
        self._open = False

    def abort(self) -> None:
        """Abort what is open, if anything is; else readers would wait for it until the id is taken over."""
        if self._open:
            self._open = False
            with suppress(KafkaException):
                self._producer.purge()
                self._producer.abort_transaction(SECONDS)
            self._failed.clear()

    def poll(self, seconds: float = 0.0) -> None:
        """Serve the client, and raise if a message was refused."""
        with self._translated():
            self._producer.poll(seconds)
        self._raise_failed()

    def close(self) -> None:
        """Abort what is open, and end the client."""
        if self._producer is not None:
            self.abort()
            self._producer = None

    def _delivered(self, error: KafkaError | None, _: Any) -> None:
        if error is not None:
            self._failed.append(error)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except KafkaException as error:
            raise self._error(self._cause(error.args[0])) from None

    def _cause(self, error: KafkaError) -> KafkaError:
        """Return why the client is in a state in which it takes no more: a message may have been refused."""
        if error.code() == KafkaError._STATE:  # noqa: SLF001 - as above
            end = time.monotonic() + STEP_SECONDS * 3  # the state comes first, its reason a moment later
            while not self._failed and time.monotonic() < end:
                self._producer.poll(STEP_SECONDS)
            return next((one for one in self._failed if one.code() == KafkaError.MSG_SIZE_TOO_LARGE), error)
        return error

    def _raise_failed(self) -> None:
        if self._failed:
            raise self._error(self._failed[0])

    def _repeated(self, call: Callable[[float], None], seconds: float) -> None:
        """Call until it succeeds: a call whose answer is late goes on where it was when it is called again."""
        end = time.monotonic() + seconds
        while True:
            try:
                call(STEP_SECONDS)
            except KafkaException as error:
                cause = error.args[0]
                if not cause.retriable() or time.monotonic() > end:
                    raise self._error(cause) from None
                self.check()
            else:
                return

    def _error(self, error: KafkaError) -> PenstockError:
        code, where = error.code(), f"{self.where}: transactional id {self.id}"
        if code in _LOST:
            what = f"the brokers have ended the transaction, which may be open for {TIMEOUT_SECONDS} s: {error.name()}"
            return LostTransaction(what, where=where, hint="try again; smaller `limits.batch_rows` take less time")
        if code == KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED:
            hint = "kafka-acls --add --producer --transactional-id penstock- --resource-pattern-type prefixed …"
            return AccessDenied("the brokers refuse this user", where=where, hint=hint)
        if code == KafkaError.MSG_SIZE_TOO_LARGE:
            what = "the topic does not take a row of this size, and its settings were not known, or changed"
            hint = "allow DescribeConfigs on the topic, so that such rows become dead letters"
            return Unavailable(what, where=where, hint=hint)
        if code == KafkaError.INVALID_TRANSACTION_TIMEOUT:
            what = f"the brokers do not allow transactions of {TIMEOUT_SECONDS} s"
            hint = f"set their `transaction.max.timeout.ms` to {TIMEOUT_SECONDS * 1000} or more"
            return Refused(what, where=where, hint=hint)
        if code == KafkaError._TIMED_OUT:  # noqa: SLF001 - as above
            return Unreachable("the brokers do not answer in time", where=where, hint="try again")
        return error_of(error, where)
