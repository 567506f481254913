"""Speed of the topic log on the embedded server, with fsync: ``python -m benchmarks.topics [--readme]``.

Prints one line for each figure. Needs about 200 MB of disk and 20 seconds.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.parts.readme import machine, write_table
from penstock.clock import now
from penstock.topics import CONTROL, METRICS, Message, TopicLog
from penstock.topics.embedded import EmbeddedServer
from penstock.topics.postgres import PostgresLog

BATCH = 1000

found: list[tuple[str, str]] = []
"""Results so far: name and figure."""


def show(what: str, figure: str) -> None:
    """Print a figure, and keep it for the table."""
    found.append((what, figure))
    print(f"{what:<40}{figure:>22}")


def message(n: int) -> Message:
    """Return a message of about 200 bytes, half of them random."""
    return Message(key=b"key-%d" % (n % 100), value=os.urandom(100) + b'{"rows": 12, "state": "ok"}' * 3, at=now())


@contextmanager
def timed(what: str, count: int) -> Iterator[None]:
    """Show how many of `count` were done per second."""
    began = time.perf_counter()
    yield
    show(what, f"{count / (time.perf_counter() - began):,.0f} /s")


def appends(log: TopicLog) -> None:
    """Append one by one, then a thousand at a time, to one partition and spread over eight."""
    batch = [message(n) for n in range(BATCH)]
    with timed("appends of one message", 2000):
        for n in range(2000):
            log.append(CONTROL, [batch[n % BATCH]])
    for topic, calls in ((CONTROL, 300), (METRICS, 100)):
        with timed(f"messages appended by {BATCH} to {topic.name}", calls * BATCH):
            for _ in range(calls):
                log.append(topic, batch)


def replay(log: TopicLog) -> None:
    """Read everything from the beginning, a thousand messages at a time."""
    at, end = 0, log.end(CONTROL, 0)
    with timed("messages replayed", end):
        while at < end:
            at += len(log.read(CONTROL, 0, at, BATCH))


def tail(writer: TopicLog, reader: TopicLog, count: int = 500) -> None:
    """Measure from before an append until another session has the message, 200 times a second."""
    sent: dict[bytes, float] = {}
    spans: list[float] = []
    first = writer.end(CONTROL, 0)

    def follow() -> None:
        at = first
        while at < first + count:
            if reader.wait(CONTROL, 0, at, timeout=10):
                for stored in reader.read(CONTROL, 0, at, BATCH):
                    spans.append(time.perf_counter() - sent[stored.message.value])
                    at = stored.offset + 1

    thread = threading.Thread(target=follow)
    thread.start()
    for n in range(count):
        value = b"%d" % n
        sent[value] = time.perf_counter()
        writer.append(CONTROL, [Message(key=None, value=value, at=now())])
        time.sleep(0.005)
    thread.join()
    spans.sort()
    show(
        "append to read elsewhere",
        f"p50 {spans[count // 2] * 1000:.1f} ms, p99 {spans[count * 99 // 100] * 1000:.1f} ms",
    )


def main() -> None:
    """Run all of it on a server of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--readme", action="store_true", help="write the README's table")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pen-", dir="/tmp") as folder:
        Path(folder).chmod(0o711)
        server = EmbeddedServer(Path(folder) / "home")
        server.ensure()
        try:
            server.create_database("log")
            with PostgresLog(server.dsn("log")) as writer, PostgresLog(server.dsn("log")) as reader:
                writer.create(CONTROL)
                writer.create(METRICS)
                appends(writer)
                replay(reader)
                tail(writer, reader)
        finally:
            server.remove()
    if options.readme:
        lines = [
            "| the log on the embedded server | |",
            "|---|---|",
            *(f"| {what} | {figure} |" for what, figure in found),
        ]
        write_table("topics", [*lines, "", f"{machine()}."])


if __name__ == "__main__":
    main()
