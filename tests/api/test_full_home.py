"""A home on a full disk: each command says so soon, and whether it is on the log; with room all goes on."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.api.project import Project, ending, until
from tests.reaper import short_folder

SECONDS = 10.0
"""Five seconds for a command to say so, and the start of its interpreter on a busy machine."""


@pytest.fixture
def small(sample: Project) -> Iterator[Project]:
    """A project on a file system of its own, applied."""
    folder = short_folder()
    folder.chmod(0o755)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=260m,mode=0755", "tmpfs", folder], check=True)
    try:
        with ending(sample.copied(folder / "p")) as made:
            made.done("apply")
            yield made
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)
        shutil.rmtree(folder, ignore_errors=True)


def fill(project: Project) -> Path:
    """Fill the disk; return the file that does."""
    path = project.folder / ".penstock" / "filler"
    file = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    try:
        for block in (1 << 20, 4096, 1):
            try:
                while os.write(file, bytes(block)) == block:
                    pass
            except OSError:
                continue
    finally:
        os.close(file)
    return path


@pytest.mark.parametrize("up", [True, False])
def test_commands_say_that_the_disk_is_full(small: Project, *, up: bool) -> None:
    if up:
        small.up()
    versions = small.done("versions", "orders")
    on_the_log = False
    for command in (("run", "orders"), ("pause", "orders"), ("list",), ("status", "orders"), ("apply",)):
        filler = fill(small)
        began = time.monotonic()
        said = small.do(*command)
        assert time.monotonic() - began < SECONDS, command
        if said.code:
            assert "full" in said.err or "No space" in said.err, said.err
            reads = command[0] in {"list", "status"}
            assert reads or "on the log" in said.err or "no command was sent" in said.err, (command, said.err)
        else:
            assert command[0] in {"list", "status"}, "what only reads may succeed"
        on_the_log |= command[0] == "pause" and "is on the log" in said.err
    filler.unlink()
    assert small.do("list").code == 0
    if on_the_log:
        small.done("resume", "orders")

    def ended() -> Any:
        """Return a run; None if the one that was asked for on the full disk ended just after this one was refused."""
        said = small.do("run", "orders", "--watch", "--json")
        assert said.code == 0 or "has a run already" in said.out, said
        return said.json if said.code == 0 else None

    assert until(ended, "a run")["status"] == "completed"
    assert small.done("versions", "orders") == versions
