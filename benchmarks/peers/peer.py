"""Description of another tool for the benchmarks: its set-up and its command for a move."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import quote

from psycopg import conninfo

__all__ = ["HOME", "Command", "Move", "Peer", "in_venv", "said", "url_of"]

HOME: Final = Path(__file__).parents[2] / ".bench"
"""Folder in which peers are installed, each in a folder of its own."""


@dataclass(frozen=True, slots=True)
class Move:
    """Move to measure: a direction such as ``postgres-parquet``, between a database and a folder of files."""

    direction: str
    dsn: str
    folder: Path
    table: str
    """The target's table, or the name of its folder."""
    source: str = "lineitem"
    mysql: int = 0
    """The port of the MariaDB server, if it is the source."""

    @property
    def url(self) -> str:
        """The database as a URL, with the folder of its socket as a parameter."""
        return url_of(self.dsn)


def url_of(dsn: str) -> str:
    """Return a DSN as a URL, with the folder of the socket as a parameter."""
    parts = conninfo.conninfo_to_dict(dsn)
    return f"postgresql://{parts['user']}:any@localhost/{parts['dbname']}?host={quote(str(parts['host']), safe='')}"


@dataclass(frozen=True, slots=True)
class Command:
    """Processes in a pipe, and the input of the first one."""

    pipe: list[list[str]]
    given: bytes = b""
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Peer:
    """A tool: `ready` sets it up (raises OSError or CalledProcessError), `command` returns the command of a move."""

    name: str
    directions: frozenset[str]
    ready: Callable[[], None]
    command: Callable[[Move], Command]
    landed: Callable[[Move], str] = lambda move: move.table
    """Table that contains the rows afterwards."""
    fraction: float = 1.0
    """Part of the rows that it moves, if all would take too long."""
    makes_table: bool = True
    """True if it creates the target table itself."""


def in_venv(name: str, *requirements: str) -> Path:
    """Create a virtual environment below `HOME` with these packages, if missing; return its folder of programs."""
    home = HOME / name
    programs, mark = home / "bin", home / ".made-of"
    wanted = " ".join(requirements)
    if not mark.exists() or mark.read_text() != wanted:
        subprocess.run([sys.executable, "-m", "venv", "--clear", home], check=True, capture_output=True)
        subprocess.run([programs / "pip", "install", "-q", *requirements], check=True, capture_output=True, text=True)
        mark.write_text(wanted)
    return programs


def said(error: Exception) -> str:
    """Return the last line of output of a failed set-up."""
    text = getattr(error, "stderr", None) or str(error)
    text = text.decode(errors="replace") if isinstance(text, bytes) else str(text)
    return (text.strip().splitlines() or ["no word"])[-1][:200]
