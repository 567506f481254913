"""hold.py DSN NAME: take a lock, print `held`, and keep the lock until killed."""

import signal
import sys

from penstock.topics.postgres import PostgresLog

with PostgresLog(sys.argv[1]) as log:
    if log.lock(sys.argv[2], wait=False):
        sys.stdout.write("held\n")
        sys.stdout.flush()
        signal.pause()
