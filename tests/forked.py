"""A process that a fork server has forked, for tests that otherwise would start it by a command."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from typing import Any

from dataflows.process.fork_server import Offspring

__all__ = ["Command"]


class Command(subprocess.Popen[str]):
    """A command that was forked, with the methods of one that was started.

    `reading` and `writing` are our ends of the pipes from its output and to its input.
    """

    def __init__(
        self, offspring: Offspring, words: Sequence[str], reading: int | None = None, writing: int | None = None
    ) -> None:
        self._offspring = offspring
        self._child_created = self._communication_started = False
        self._input, self.text_mode = None, True
        self.args, self.pid, self.stderr = words, offspring.pid, None
        self.stdin = None if writing is None else os.fdopen(writing, "w")
        self.stdout = None if reading is None else os.fdopen(reading)

    @property
    def returncode(self) -> Any:  # type: ignore[override]
        return self._offspring.returncode

    def poll(self) -> int | None:
        return self._offspring.poll()

    def wait(self, timeout: float | None = None) -> int:
        return self._offspring.wait(timeout)

    def send_signal(self, sig: int) -> None:
        self._offspring._send(sig)  # type: ignore[arg-type]
