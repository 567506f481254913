"""Server that forks processes from one that has imported what they need: they start at once, and share its memory.

A process that has run anything has threads, locks and connections, which a fork would copy in the middle of their work.
So a process of its own imports, runs nothing, and forks. The threads that libraries start when they are imported are
idle: jemalloc and OpenBLAS end and restart theirs at a fork, and that of polars only deletes files of dead processes.
"""

from __future__ import annotations

import errno
import json
import os
import select
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

from dataflows.process.forked import Forked

__all__ = ["ForkServer", "Offspring", "serve_forks"]

START_SECONDS: Final = 60.0
"""Longest wait for a process; the first one waits until the server has imported everything."""
MESSAGE: Final = 256
LOST: Final = -signal.SIGKILL
"""Exit code of a process whose server has died: the true one is lost."""


def serve_forks(door: socket.socket, run: Callable[[int], int]) -> None:
    """Fork a process for each request, report the end of each, and return when the other end of `door` is closed.

    A request is one message with four descriptors: the standard streams of the process, and its lifeline, which `run`
    gets as a number; it returns the exit code.
    """
    children: dict[int, Forked] = {}
    poll = select.poll()
    poll.register(door, select.POLLIN)
    while True:
        for descriptor, _ in poll.poll():
            if descriptor in children:
                poll.unregister(descriptor)
                child = children.pop(descriptor)
                code = child.wait()
                with suppress(OSError):
                    door.send(_message(pid=child.pid, code=code))
            elif (made := _answered(door, run)) is None:
                return
            elif isinstance(made, Forked):
                children[made.descriptor] = made
                poll.register(made.descriptor, select.POLLIN)


def _answered(door: socket.socket, run: Callable[[int], int]) -> Forked | OSError | None:
    """Fork a process for the next request; None if there will be none."""
    asked, given, _, _ = socket.recv_fds(door, MESSAGE, 4)
    if not asked:
        return None
    stdin, stdout, stderr, lifeline = given
    try:
        child = Forked(partial(run, lifeline), (stdin, stdout, stderr), lifeline)
    except OSError as error:
        door.send(_message(errno=error.errno))
        return error
    finally:
        for descriptor in given:
            os.close(descriptor)
    socket.send_fds(door, [_message(pid=child.pid)], [child.descriptor])
    return child


def _message(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


class Offspring:
    """Process that a server has forked; offers the part of `subprocess.Popen` that its owner needs. Thread-safe.

    `descriptor` refers to the process, and to no later one of the same id.
    """

    def __init__(self, pid: int, descriptor: int) -> None:
        self.pid, self._descriptor = pid, descriptor
        self.returncode: int | None = None
        self._changed = threading.Condition()

    def poll(self) -> int | None:
        """Return the exit code (negative: the signal that killed it); None while it runs."""
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end and return the exit code.

        Raises:
            subprocess.TimeoutExpired: it still runs after `timeout` seconds.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self.returncode is not None, timeout):
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)
        return self.returncode or 0

    def terminate(self) -> None:
        """Send SIGTERM."""
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self._send(signal.SIGKILL)

    def _send(self, number: signal.Signals) -> None:
        with self._changed, suppress(ProcessLookupError):
            if self.returncode is None:
                signal.pidfd_send_signal(self._descriptor, number)

    def ended(self, code: int) -> None:
        """Learn of its end."""
        with self._changed:
            if self.returncode is None:
                self.returncode = code
                os.close(self._descriptor)
                self._changed.notify_all()

    def follow(self) -> None:
        """Wait for its end on this thread, without the server."""
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        poll.poll()
        self.ended(LOST)


class ForkServer:
    """The server, and the processes that it has forked for this one; it ends with this process. Thread-safe."""

    def __init__(self, command: Sequence[str], folder: Path) -> None:
        """Start `command` in `folder`, with one more argument: the descriptor of its end of the door.

        Raises:
            OSError: it cannot be started.
        """
        self._door, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            words, number = [*command, str(theirs.fileno())], theirs.fileno()
            self.process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, pass_fds=(number,), cwd=folder, start_new_session=True
            )
        self.alive = True
        self._living: dict[int, Offspring] = {}
        self._answer: Offspring | OSError | None = None
        self._asking = threading.Lock()
        self._changed = threading.Condition()
        threading.Thread(target=self._listen, daemon=True, name="forks").start()

    def fork(self, stdin: int, stdout: int, stderr: int, lifeline: int) -> Offspring:
        """Fork a process with these descriptors.

        A server that does not answer is ended: what it says later would be taken for the answer to another request.

        Raises:
            OSError: it cannot, or the server has died.
        """
        with self._asking, self._changed:
            socket.send_fds(self._door, [_message()], [stdin, stdout, stderr, lifeline])
            if not self._changed.wait_for(self._is_answered, START_SECONDS):
                self.alive = False
                self.process.kill()
            answer, self._answer = self._answer, None
        if isinstance(answer, Offspring) and self.alive:
            return answer
        if isinstance(answer, OSError):
            raise answer
        raise ConnectionAbortedError(errno.ECONNABORTED, "the process that forks others has ended")

    def _is_answered(self) -> bool:
        return self._answer is not None or not self.alive

    def close(self) -> None:
        """End the server; its processes are ended by their owner."""
        self.process.kill()
        self.process.wait()

    def _listen(self) -> None:
        with suppress(OSError):
            while True:
                text, given, _, _ = socket.recv_fds(self._door, MESSAGE, 1)
                if not text:
                    break
                self._learn(json.loads(text), given)
        with self._changed:
            self.alive = False
            self._changed.notify_all()
        self.close()
        for one in self._living.values():
            threading.Thread(target=one.follow, daemon=True, name=f"follow-{one.pid}").start()
        self._door.close()

    def _learn(self, message: dict[str, int], given: list[int]) -> None:
        if "code" in message:
            self._living.pop(message["pid"]).ended(message["code"])
            return
        with self._changed:
            if "errno" in message:
                self._answer = OSError(message["errno"], os.strerror(message["errno"]))
            else:
                self._answer = self._living[message["pid"]] = Offspring(message["pid"], given[0])
            self._changed.notify_all()
