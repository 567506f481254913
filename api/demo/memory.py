"""Memory of processes and their descendants: the sum of their proportional set sizes (PSS)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

__all__ = ["Memory", "family", "pss"]

EVERY: Final = 0.5
"""Seconds between two samples."""


class Memory:
    """Samples while entered; `peak` is the largest sum seen, in bytes.

    `roots` is called at each sample; its processes count with all their descendants. A process that lives for less than
    `EVERY` may be missed. Memory that several processes share counts once.
    """

    def __init__(self, roots: Callable[[], Iterable[int]]) -> None:
        self.peak = 0
        self._roots = roots
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="memory", daemon=True)

    def _sample(self) -> None:
        while True:
            self.peak = max(self.peak, sum(pss(pid) for pid in family(self._roots())))
            if self._over.wait(EVERY):
                return

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self._over.set()
        self._thread.join()


def family(roots: Iterable[int]) -> set[int]:
    """Return `roots` and their descendants."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError, ValueError):
                # A program's name may hold anything: read what follows its last bracket.
                parents[int(entry.name)] = int(
                    (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[1]
                )
    wanted = set(roots)
    while more := {pid for pid, parent in parents.items() if parent in wanted} - wanted:
        wanted |= more
    return wanted


def pss(pid: int) -> int:
    """Return the proportional set size in bytes; 0 for a process that has ended or may not be read."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_bytes().splitlines():
            if line.startswith(b"Pss:"):
                return int(line.split()[1]) * 1024
    return 0
