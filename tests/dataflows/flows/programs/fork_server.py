"""Start flows by forking a process that has imported everything already: in 10 ms instead of 1.5 s.

Each line on stdin is an order: {"arguments", "environment", "output"}; the answer is the child's pid. Children are
processes as any other: what they share with this one they share by the kernel's copy-on-write.
"""

import faulthandler
import json
import os
import signal
import sys

from dataflows.runtime import flows


def child(order: dict[str, object]) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    output = os.open(str(order["output"]), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for descriptor in (1, 2):
        os.dup2(output, descriptor)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    faulthandler.register(signal.SIGUSR1)
    os.environ.update(order["environment"])  # type: ignore[call-overload]
    code = 1
    try:
        code = flows.main(order["arguments"])  # type: ignore[arg-type]
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for line in sys.stdin:
    pid = os.fork()
    if not pid:
        child(json.loads(line))
    sys.stdout.write(f"{pid}\n")
    sys.stdout.flush()
