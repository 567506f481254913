"""serve.py HOME [UID]: take a lease, print the server's pid, return the lease when the input ends, print `released`.

With UID, become that user first. What has to be read for that is read before, for that user may be unable to reach
the interpreter and the wheel.
"""

import contextlib
import os
import sys
from pathlib import Path

from penstock import postgres
from penstock.errors import PenstockError
from penstock.topics import embedded
from penstock.topics.binaries import copied


def become(uid: int, programs: Path) -> None:
    with contextlib.suppress(PenstockError):  # imports what connecting needs
        postgres.connect("host=/nowhere", "warm-up")
    os.setgroups([])
    os.setgid(uid)
    os.setuid(uid)
    setattr(embedded, "wheel_programs", lambda: programs)  # noqa: B010 - not exported there


home = Path(sys.argv[1])
if len(sys.argv) > 2:
    become(int(sys.argv[2]), copied(home.parent.parent))
server = embedded.EmbeddedServer(home)
try:
    server.acquire()
except PenstockError as error:
    sys.exit(f"{type(error).__name__}: {error}")
with postgres.connect(server.dsn("postgres"), "serve") as session:
    session.execute("SELECT 1")
sys.stdout.write(f"{server.pid}\n")
sys.stdout.flush()
sys.stdin.read()
server.release()
sys.stdout.write("released\n")
