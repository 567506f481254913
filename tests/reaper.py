"""End the processes that a killed test process leaves behind: servers, launchers and flows.

Runs as a program next to each pytest process and reads its standard input: the first line is a token that the
environment of every process started by the tests holds, as do the names of their short folders; each further line is
a folder that only they use. The input ends
when the test process does, however it ends; then all that carry the token or work in one of the folders are killed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import psutil

from penstock.topics.server_paths import ELSEWHERE, OWNER

ROUNDS: Final = 20
ROOM: Final = 6 << 30
"""Bytes that the temporary folders of a test run may need."""
VARIABLE: Final = "TESTS_TOKEN"


def _temporary() -> str:
    """Return a folder with a short path, in memory if there is room: no test needs its files after the machine stops.

    On a disk, each fsync of a server, a database file or a log that a test makes takes milliseconds.
    """
    memory = "/dev/shm"  # noqa: S108 - as below
    with contextlib.suppress(OSError):
        found = os.statvfs(memory)
        room = min(found.f_bavail * found.f_frsize, psutil.virtual_memory().available)
        fit = room > ROOM and not found.f_flag & os.ST_NOEXEC
        if fit and os.access(memory, os.W_OK):
            return memory
    return "/tmp"  # noqa: S108 - short enough for sockets; mkdtemp creates what is in it


TEMPORARY: Final = os.environ.setdefault("TESTS_FOLDER", _temporary())
"""One folder for all processes of a test run."""


def short_folder() -> Path:
    """Make a folder with a path short enough for sockets; it and its processes end with this test process."""
    return Path(tempfile.mkdtemp(prefix=f"pen-{os.environ[VARIABLE]}-", dir=TEMPORARY))


def _left(token: str, folders: list[str], spared: set[int]) -> list[int]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            environment = (process / "environ").read_bytes()
            command = (process / "cmdline").read_bytes().decode(errors="replace")
            marked = f"{VARIABLE}={token}".encode() in environment.split(b"\0")
            if marked or any(folder in command for folder in folders):
                found.append(int(process.name))
    return [one for one in found if one not in spared]


def _data_elsewhere(folders: list[str]) -> list[Path]:
    """Folders of embedded servers whose account could not enter those of the tests."""
    owners = ELSEWHERE.glob(f"*/{OWNER}")
    return [owner.parent for owner in owners if any(owner.read_text().startswith(folder) for folder in folders)]


def main() -> None:
    """Wait for the end of the input, then kill until nothing is left."""
    for held in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(held, signal.SIG_IGN)
    spared = {os.getpid(), os.getppid()}  # the test process is spared if it closed the input itself
    token, *folders = sys.stdin.read().splitlines()
    folders.append(f"{TEMPORARY}/pen-{token}-")
    data = _data_elsewhere(folders)
    for _ in range(ROUNDS):
        left = _left(token, [*folders, *map(str, data)], spared)
        if not left:
            break
        for process in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        time.sleep(0.1)
    for folder in (*data, *Path(TEMPORARY).glob(f"pen-{token}-*")):
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
