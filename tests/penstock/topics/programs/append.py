"""append.py URL WRITER COUNT SIZE: append to CONTROL in calls of SIZE, and print each acknowledged `number offset`."""

import os
import sys
from datetime import UTC, datetime

from penstock.topics import CONTROL, Message
from penstock.topics.opening import open_log

dsn, writer, count, size = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
at = datetime(2026, 1, 1, tzinfo=UTC)
with open_log(dsn, os.environ.get("LOCKS", dsn)) as log:
    os.write(1, b"ready\n")
    for first in range(0, count, size):
        batch = [Message(key=None, value=f"{writer} {n}".encode(), at=at) for n in range(first, first + size)]
        placed = log.append(CONTROL, batch)
        os.write(1, "".join(f"{first + n} {offset}\n" for n, (_, offset) in enumerate(placed)).encode())
