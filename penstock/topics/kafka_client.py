"""Clients of Kafka as the topic log uses them: time-outs everywhere, and the library's errors as ours."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any, Final, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from penstock.errors import AccessDenied, LogError, PenstockError, Unavailable, Unreachable

__all__ = [
    "APPEND_BYTES",
    "DELIVERY_SECONDS",
    "MESSAGE_BYTES",
    "OF_GROUPS",
    "PAUSE_SECONDS",
    "RECORD_OVERHEAD",
    "SECONDS",
    "Clients",
    "translated",
]

SECONDS: Final = 10.0
"""Time-out of a request, retries included; also that of connecting."""
SLICE_SECONDS: Final = 2.0
"""Time-out of one attempt."""
PAUSE_SECONDS: Final = 0.05
"""Pause between two attempts."""
DELIVERY_SECONDS: Final = 30
"""Time-out of an append: longer than a broker takes to start again."""
LINGER_SECONDS: Final = 20
"""Longer than any append takes to enqueue its messages, so that they become one batch when it flushes."""
APPEND_BYTES: Final = 64 * 1024 * 1024
"""The limit of one append to one partition, which is one batch; brokers accept requests of 100 MB by default."""
RECORD_OVERHEAD: Final = 96
"""Bytes that a message takes beyond its own, at most: lengths, differences, and the header with time and stamp."""
MESSAGE_BYTES: Final = APPEND_BYTES + 1024 * 1024
MAX_MESSAGES: Final = 1_000_000

_DENIED: Final = {
    KafkaError._AUTHENTICATION,  # noqa: SLF001 - the library's names of its own errors
    KafkaError.SASL_AUTHENTICATION_FAILED,
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
}
OF_GROUPS: Final = {
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.NOT_COORDINATOR,
}
"""Errors about the group that a consumer must name: no group is ever used, so they mean nothing."""
_SILENT: Final = {
    KafkaError._TRANSPORT,  # noqa: SLF001 - librdkafka's codes have no other name
    KafkaError._ALL_BROKERS_DOWN,  # noqa: SLF001 - as above
    KafkaError._RESOLVE,  # noqa: SLF001 - as above
    KafkaError._TIMED_OUT,  # noqa: SLF001 - as above
    KafkaError._MSG_TIMED_OUT,  # noqa: SLF001 - as above
    KafkaError._TIMED_OUT_QUEUE,  # noqa: SLF001 - as above
}
_MISSING: Final = {
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError._UNKNOWN_TOPIC,  # noqa: SLF001 - as above
    KafkaError._UNKNOWN_PARTITION,  # noqa: SLF001 - as above
}
_AGAIN: Final = _SILENT | {
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.NOT_COORDINATOR,
    KafkaError.REQUEST_TIMED_OUT,
    KafkaError.OFFSET_NOT_AVAILABLE,
    KafkaError.NETWORK_EXCEPTION,
    KafkaError.KAFKA_STORAGE_ERROR,
    KafkaError.FENCED_LEADER_EPOCH,
    KafkaError.UNKNOWN_LEADER_EPOCH,
}
_FINAL: Final = _DENIED | {
    KafkaError._SSL,  # noqa: SLF001 - as above
    KafkaError._INVALID_ARG,  # noqa: SLF001 - as above
    KafkaError._STATE,  # noqa: SLF001 - as above
    KafkaError._CONFLICT,  # noqa: SLF001 - as above
    KafkaError._NOT_IMPLEMENTED,  # noqa: SLF001 - as above
    KafkaError._UNSUPPORTED_FEATURE,  # noqa: SLF001 - as above
}
"""Errors of the library's own that no second attempt mends."""
_MEANINGS: Final[tuple[tuple[set[int], type[PenstockError], str | None, str], ...]] = (
    (_DENIED, AccessDenied, None, "check the user, its password and its ACLs"),
    ({KafkaError._SSL}, Unavailable, None, "check security.protocol and ssl.ca.location"),  # noqa: SLF001 - as above
    (_SILENT, Unreachable, None, "check that the brokers run and can be reached"),
    (_MISSING, LogError, "no such topic", "create it first"),
    (
        {KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE},
        LogError,
        "too much for one append",
        f"raise max.message.bytes of the topic to {MESSAGE_BYTES}",
    ),
    ({KafkaError.NOT_ENOUGH_REPLICAS}, Unavailable, "too few replicas are in sync", "check the cluster's brokers"),
    ({KafkaError.UNKNOWN}, Unavailable, "the broker failed by an error of its own", "read the broker's log"),
    (_AGAIN, Unavailable, None, "try again"),
)
"""Codes, the error, its sentence (None: the library's), and the hint."""

X = TypeVar("X")


def translated(error: KafkaError, where: str) -> PenstockError:
    """Return our error for the library's; raise it from that one."""
    text = error.str().rstrip(".")
    for codes, kind, what, hint in _MEANINGS:
        if error.code() in codes:
            return kind(what or text, where=where, hint=hint)
    if error.retriable() or error.fatal() or _died(error.code()):
        return Unavailable(text, where=where, hint="try again")
    return LogError(text, where=where)


def _died(code: int) -> bool:
    """True if a connection of the library's failed: it says so in more ways than one can list (a handle dropped, …)."""
    return code < 0 and code not in _FINAL


class Clients:
    """The connections of one log: a consumer for queries, a producer, an administrator, each made with its first use.

    `config` is the library's own: brokers and login.
    """

    def __init__(self, config: dict[str, str], where: str, name: str) -> None:
        self.where = where
        self._config: dict[str, Any] = {
            **config,
            "client.id": f"penstock-{name}",
            "error_cb": self._failed,
            "log_level": 0,
            "reconnect.backoff.ms": 50,
            "reconnect.backoff.max.ms": 500,
            "socket.keepalive.enable": True,
            "socket.connection.setup.timeout.ms": int(SECONDS * 1000),
        }
        self._error: KafkaError | None = None
        self._queries: Consumer | None = None
        self._producer: Producer | None = None
        self._admin: AdminClient | None = None

    def _failed(self, error: KafkaError) -> None:
        """Remember an error of the connection; it tells more than the time-out that follows."""
        if error.code() in OF_GROUPS:
            return
        if error.code() != KafkaError._ALL_BROKERS_DOWN or self._error is None:  # noqa: SLF001 - as above
            self._error = error

    def consumer(self) -> Consumer:
        """Return a consumer of its own for one partition, to be closed by the caller."""
        return Consumer(
            {
                **self._config,
                "group.id": "penstock",  # required, and not used: partitions are assigned, positions kept elsewhere
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "auto.offset.reset": "error",
                "isolation.level": "read_committed",
                "check.crcs": True,
                "fetch.wait.max.ms": 500,
                "fetch.error.backoff.ms": 50,
                "fetch.message.max.bytes": 8 * 1024 * 1024,
                "receive.message.max.bytes": 256 * 1024 * 1024,
                "queued.max.messages.kbytes": 32 * 1024,
            }
        )

    @property
    def producer(self) -> Producer:
        """The idempotent producer, which sends only when it is flushed: then one batch for each partition."""
        if self._producer is None:
            self._producer = Producer(
                {
                    **self._config,
                    "enable.idempotence": True,
                    "acks": "all",
                    "linger.ms": LINGER_SECONDS * 1000,
                    "delivery.timeout.ms": DELIVERY_SECONDS * 1000,
                    "request.timeout.ms": int(SECONDS * 1000),
                    "retry.backoff.ms": 50,
                    "retry.backoff.max.ms": 500,
                    "message.max.bytes": MESSAGE_BYTES,
                    "batch.size": MESSAGE_BYTES,
                    "batch.num.messages": MAX_MESSAGES,
                    "queue.buffering.max.messages": 0,
                    "queue.buffering.max.kbytes": 2_000_000,
                }
            )
        return self._producer

    @property
    def administrator(self) -> AdminClient:
        """The client for topics; kept, because one that is collected ends what it has begun."""
        if self._admin is None:
            self._admin = AdminClient(self._config)
        return self._admin

    def query(self, ask: Callable[[Consumer, float], X], *, where: str | None = None) -> X:
        """Return what `ask` gets from the consumer within the time-out that it is given; try again while it may help.

        A topic that was there is not believed to be gone at once: a broker that has just started does not know it yet.

        Raises:
            PenstockError: `SECONDS` have passed, or the brokers refuse.
        """
        if self._queries is None:
            self._queries = self.consumer()
        end = time.monotonic() + SECONDS
        while True:
            try:
                found = ask(self._queries, SLICE_SECONDS)
            except KafkaException as error:
                raised: KafkaError = error.args[0]
                self._queries.poll(0)  # calls `_failed`
                again = raised.code() in _AGAIN | _MISSING or _died(raised.code())
                if not again or self._hopeless or time.monotonic() > end:
                    told = self._error if self._error is not None and raised.code() in _SILENT else raised
                    raise translated(told, where or self.where) from error
                time.sleep(PAUSE_SECONDS)
            else:
                self._error = None
                return found

    @property
    def _hopeless(self) -> bool:
        return self._error is not None and self._error.code() in _DENIED

    def watermarks(self, name: str, partition: int, where: str) -> tuple[int, int]:
        """Return the first offset of a partition and the one after its last."""
        place = TopicPartition(name, partition)
        found = self.query(
            lambda consumer, timeout: consumer.get_watermark_offsets(place, timeout=timeout, cached=False), where=where
        )
        if found is None:
            raise Unreachable("the broker does not answer", where=where, hint="check that it runs and can be reached")
        return found

    def done(self, future: Any, where: str) -> Any:
        """Return the result of an administrator's request."""
        try:
            return future.result(SECONDS + 1)
        except FutureTimeout as error:
            raise Unreachable("the broker does not answer", where=where, hint="check that it runs") from error
        except KafkaException as error:
            raise translated(error.args[0], where) from error

    def delivered(self, end: float) -> bool:
        """Send what was produced; True if it is all reported before `end`. Slices, so that signals are handled."""
        while self.producer.flush(0.5):
            if time.monotonic() > end:
                return False
        return True

    def drop_producer(self) -> None:
        """Discard the producer, with what it has not sent."""
        if self._producer is not None:
            self._producer.purge()
            self._producer.flush(0)
            self._producer = None

    def close(self) -> None:
        """Close all; they can be made again."""
        self.drop_producer()
        self._admin = None
        if self._queries is not None:
            self._queries.close()
            self._queries = None
