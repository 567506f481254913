"""Start flows by forking a process that has imported everything already: in 10 ms instead of 1.5 s.

One JSON order a line on stdin, one answer a line on stdout: {"arguments", "environment", "folder", "output"} gives
{"pid"}; {"poll": pid} gives {"code"}, null while it runs. Children are processes as any other: what they share with
this one they share by the kernel's copy-on-write.
"""

import faulthandler
import gc
import json
import os
import signal
import sys
from typing import Any

from dataflows.runtime import flows
from penstock import failpoints


def child(order: dict[str, Any]) -> None:
    output = os.open(order["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for descriptor in (1, 2):
        os.dup2(output, descriptor)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    faulthandler.register(signal.SIGUSR1)
    os.chdir(order["folder"])
    os.environ.update(order["environment"])
    failpoints.arm(os.environ.get(failpoints.VARIABLE))
    code = 1
    try:
        code = flows.main(order["arguments"])
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def start(order: dict[str, Any]) -> int:
    pid = os.fork()
    if not pid:
        child(order)
    return pid


def poll(pid: int) -> int | None:
    found, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


gc.freeze()
for line in sys.stdin:
    order = json.loads(line)
    answer = {"code": poll(order["poll"])} if "poll" in order else {"pid": start(order)}
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()
