"""follow.py URL COUNT: follow CONTROL for COUNT messages, and print each `offset value`."""

import os
import sys

from penstock.topics import CONTROL
from penstock.topics.opening import open_log

dsn, count = sys.argv[1], int(sys.argv[2])
at = 0
with open_log(dsn, os.environ.get("LOCKS", dsn)) as log:
    while at < count:
        if log.wait(CONTROL, 0, at, timeout=30):
            for stored in log.read(CONTROL, 0, at, 1000):
                sys.stdout.write(f"{stored.offset} {stored.message.value.decode()}\n")
                at = stored.offset + 1
