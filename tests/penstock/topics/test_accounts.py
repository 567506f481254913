"""The account of the embedded server, which root creates on a machine that does not have it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from penstock.topics.server_paths import ACCOUNT

PROCESSES = 6
CREATE = f"""
import pwd
from multiprocessing import Barrier, Process, SimpleQueue
from pathlib import Path
from penstock.topics.server_paths import account_for

def create(together, made):
    together.wait()
    made.put(account_for(Path("/"), None).uid)

together, made = Barrier({PROCESSES}), SimpleQueue()
started = [Process(target=create, args=(together, made)) for _ in range({PROCESSES})]
for process in started:
    process.start()
print({{made.get() for _ in started}} == {{pwd.getpwnam("{ACCOUNT}").pw_uid}})
"""
"""Prints True if all processes got the account that there is in the end."""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has an account created")
def test_processes_that_create_the_account_at_once_agree(tmp_path: Path) -> None:
    accounts = tmp_path / "etc"
    shutil.copytree("/etc", accounts, symlinks=True)
    for name in ("passwd", "group", "shadow", "gshadow"):
        path = accounts / name
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(line for line in lines if not line.startswith(f"{ACCOUNT}:")))
    # In a mount namespace of its own, so that no other process sees these accounts.
    inside = 'mount --bind "$1" /etc && exec "$2" -c "$3"'
    command = ["unshare", "--mount", "sh", "-c", inside, "sh", str(accounts), sys.executable, CREATE]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("True\n", "")
