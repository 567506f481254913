"""Supervisor of the flows of one machine: restarts child processes that die, and ends them with their parent."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from dataflows.process.forked import Forked, can_fork
from dataflows.runtime.retention import drop_leftovers
from penstock.clock import now
from penstock.disk import make_private
from penstock.errors import PenstockError, Unavailable
from penstock.settings import Settings

__all__ = ["BRAIN", "WORKER", "Supervisor"]

BRAIN: Final = ("control", "projector", "scheduler")
"""The flows of the control plane, which share one process."""
WORKER: Final = ("worker",)
LINEAGE: Final = ("openlineage",)
"""The flow that sends lineage, where the settings name a receiver: in a process of its own, since it waits for it."""

FIRST_WAIT, LONGEST_WAIT, HEALTHY = 0.2, 15.0, 30.0
"""Seconds: the first wait before a restart, the longest, and the uptime after which the wait is reset."""
STOP_SECONDS: Final = 15.0
LINEAGE_STOP_SECONDS: Final = 1.0
"""A receiver that does not answer holds nothing up: what is not sent is sent the next time."""
KILLED: Final = "if memory was short, the log of the system's kernel says so"
LAST_WORDS: Final = 1000
"""Characters of a child's log that may say why it ended."""


@dataclass(slots=True)
class _Child:
    flows: tuple[str, ...]
    patience: float = STOP_SECONDS
    """Seconds to wait for its end before it is killed."""
    process: subprocess.Popen[bytes] | Forked | None = None
    lifeline: int = -1
    began: float = 0.0
    wait: float = FIRST_WAIT
    deaths: int = 0


class Supervisor:
    """Keeps a process for each group of flows alive. Call `check` regularly; nothing runs in the background.

    Output of the children goes to ``<home>/logs/<first flow>.log``. A child is forked if that is safe (see `can_fork`),
    and then starts without importing anything. `killed` is called if a signal has ended one, which could say nothing.
    """

    def __init__(
        self,
        settings: Settings,
        groups: Sequence[tuple[str, ...]] = (BRAIN, WORKER),
        killed: Callable[[Sequence[str], PenstockError], None] = lambda *_: None,
    ) -> None:
        self._settings, self._killed = settings, killed
        first = [_Child(LINEAGE, LINEAGE_STOP_SECONDS)] if settings.openlineage and groups else []
        self._children = [*first, *map(_Child, groups)]

    def start(self) -> None:
        """Start every child, and clean up after earlier ones."""
        drop_leftovers(self._settings.home, now())
        for child in self._children:
            self._begin(child)

    def check(self) -> list[str]:
        """Restart children that have died and waited long enough; return a line for each new death."""
        deaths = []
        for child in self._children:
            if child.process is not None and (code := child.process.poll()) is not None:
                why = self._last_words(child) if code > 0 else ""
                if code < 0:
                    self._killed(child.flows, Unavailable(f"it was killed by signal {-code}", hint=KILLED))
                deaths.append(f"{'+'.join(child.flows)} ended with {code}{why}; restart in {child.wait:g} s")
                self._clear(child)
            deleted = not self._settings.home.exists()  # with its project: a child would create it again
            if child.process is None and not deleted and time.monotonic() - child.began >= child.wait:
                self._begin(child)
        return deaths

    def pids(self) -> dict[str, int]:
        """Return the process id of each live group, by its first flow."""
        return {child.flows[0]: child.process.pid for child in self._children if child.process is not None}

    def stop(self) -> None:
        """Ask every child to stop, the worker first, what sends lineage last, and wait; kill those that do not."""
        for child in reversed(self._children):
            if child.process is not None:
                child.process.terminate()
                try:
                    child.process.wait(child.patience)
                except subprocess.TimeoutExpired:
                    child.process.kill()
                    child.process.wait()
                self._clear(child)

    def _last_words(self, child: _Child) -> str:
        """Return the last line of a child's log, which says why it ended."""
        try:
            with self._log(child).open("rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - LAST_WORDS))
                lines = log.read().decode(errors="replace").split("\n")
        except OSError:
            return ""
        said = next((line.strip() for line in reversed(lines) if line.strip()), "")
        return f": {said}" if said else ""

    def _log(self, child: _Child) -> Path:
        return self._settings.home / "logs" / f"{child.flows[0]}.log"

    def _begin(self, child: _Child) -> None:
        log = self._log(child)
        make_private(self._settings.home)
        log.parent.mkdir(parents=True, exist_ok=True)
        reading, child.lifeline = os.pipe()
        words = [*child.flows, "--lifeline", str(reading), "--project", str(self._settings.project)]
        child.process = (_forked if can_fork() else _spawned)(words, log, reading)
        os.close(reading)
        child.began = time.monotonic()

    def _clear(self, child: _Child) -> None:
        lived = time.monotonic() - child.began
        child.wait = FIRST_WAIT if lived > HEALTHY else min(child.wait * 2, LONGEST_WAIT)
        child.began = time.monotonic()
        child.process = None
        os.close(child.lifeline)


def _forked(words: Sequence[str], log: Path, reading: int) -> Forked:
    from dataflows.runtime.flows import main

    with Path(os.devnull).open("rb") as nothing, log.open("ab") as output:
        return Forked(partial(main, words), (nothing.fileno(), output.fileno(), output.fileno()), reading)


def _spawned(words: Sequence[str], log: Path, reading: int) -> subprocess.Popen[bytes]:
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "dataflows.runtime.flows", *words],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=(reading,),
            start_new_session=True,
        )
