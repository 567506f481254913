"""Memory of this process: measured, limited by the kernel, and the traces of an allocation that failed.

`RLIMIT_AS` cannot be used: polars, jemalloc and thread stacks reserve more than a gigabyte that they never touch. The
limit is `RLIMIT_DATA`, which counts private writable memory only.
"""

from __future__ import annotations

import os
import re
import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

__all__ = ["ABORTED", "failed_allocation", "limited_memory", "resident_memory", "unlimited_memory", "used_memory"]

ABORTED: Final = frozenset({-signal.SIGABRT, -signal.SIGSEGV})
"""Exit codes of a process whose library got no memory, if its log says so."""
STACKS: Final = 64 << 20
"""Bytes for the stacks of threads that start later: they are reserved at once, and hardly touched."""
_FAILED: Final = re.compile(rb"(?i)memory allocation of \d+ bytes failed|std::bad_alloc|MemoryError|out of memory")
_TAIL: Final = 1 << 16


def used_memory() -> int:
    """Return the resident bytes of this process, and the anonymous ones of its children; 0 if nothing says so."""
    return _field("self", "VmRSS") + sum(_anonymous(pid) for pid in _children())


def resident_memory(pid: int) -> int:
    """Return the resident bytes of a process; 0 if nothing says so."""
    return _field(str(pid), "VmRSS")


def _anonymous(pid: str) -> int:
    return _field(pid, "RssAnon") + _field(pid, "RssShmem")


def _field(pid: str, name: str) -> int:
    with suppress(OSError, ValueError, IndexError):
        text = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
        return int(text.split(f"\n{name}:")[1].split(None, 1)[0]) << 10
    return 0


def _children() -> list[str]:
    found: list[str] = []
    if sys.platform != "linux":
        return found
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)  # reaps none
    except ChildProcessError:  # most have no children: a look at each of their threads takes half a millisecond
        return found
    with suppress(OSError):
        for task in Path("/proc/self/task").iterdir():
            with suppress(OSError):
                found += (task / "children").read_text().split()
    return found


@contextmanager
def limited_memory(limit: int) -> Iterator[None]:
    """Let allocations fail in this process, and in each one that it starts here, far beyond `limit` bytes.

    That is a quarter more, since libraries abort where an allocation fails: measuring should come first. What was
    reserved until now and never touched is not counted.
    """
    if sys.platform == "linux":
        reserved = max(0, _field("self", "VmData") - _anonymous("self"))
        _set(limit + limit // 4 + reserved + STACKS)
    try:
        yield
    finally:
        unlimited_memory()


def unlimited_memory() -> None:
    """Lift the limit of this process, to report that it was reached."""
    if sys.platform == "linux":
        _set(resource.RLIM_INFINITY)


def _set(size: int) -> None:
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    allowed = hard if size == resource.RLIM_INFINITY else size if hard == resource.RLIM_INFINITY else min(size, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (allowed, hard))


def failed_allocation(log: Path | int) -> bool:
    """Return True if a file ends with the message of a library whose process aborted since it got no memory."""
    path = Path(f"/proc/self/fd/{log}") if isinstance(log, int) else log
    with suppress(OSError), path.open("rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL))
        return _FAILED.search(file.read(_TAIL)) is not None
    return False
