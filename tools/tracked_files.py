"""Refuse tracked files above 1 MB or of a binary kind, unless `ALLOWED` lists them, and modules that are too long.

A binary cannot be reviewed, and a large file stays in the history of every clone for good. A module of more than 400
lines does more than one thing.
"""

import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

ALLOWED: dict[str, str] = {}
"""Paths that may stay, each with its reason."""

MAX_BYTES = 1_000_000
MAX_LINES = 400
"""Lines of a module; tests may have more."""
PREFIX_BYTES = 8192
"""Bytes of a file that are searched for a NUL byte, which text never contains."""
BINARY_KINDS = frozenset({
    "7z", "a", "avro", "bin", "bmp", "bz2", "class", "db", "deb", "dll", "doc", "docx", "duckdb", "dylib", "egg", "exe",
    "gif", "gz", "ico", "jar", "jpeg", "jpg", "lib", "mo", "mp3", "mp4", "o", "orc", "parquet", "pdf", "pickle", "pkl",
    "png", "pyc", "pyd", "pyo", "rar", "rpm", "so", "sqlite", "tar", "tgz", "tiff", "war", "wasm", "webp", "whl",
    "woff", "woff2", "xls", "xlsx", "xz", "zip", "zst",
})  # fmt: skip


def findings(root: Path, names: Iterable[str], allowed: Mapping[str, str]) -> list[str]:
    """Return one sentence for each file that may not be tracked, and for each entry of `allowed` without a file."""
    tracked = sorted(set(names))
    refused = [f"{name}: {why}" for name in tracked if name not in allowed and (why := _refusal(root, name))]
    stale = [f"{name}: is allowed, but not tracked" for name in sorted(set(allowed) - set(tracked))]
    return refused + stale


def _refusal(root: Path, name: str) -> str | None:
    path = root / name
    if not path.is_file():
        return None
    kinds = {suffix.lower().lstrip(".") for suffix in path.suffixes} & BINARY_KINDS
    if kinds:
        return f"is of the binary kind {min(kinds)}"
    if path.stat().st_size > MAX_BYTES:
        return f"has {path.stat().st_size} bytes, more than {MAX_BYTES}"
    with path.open("rb") as file:
        if b"\0" in file.read(PREFIX_BYTES):
            return "contains a NUL byte: it is binary"
        file.seek(0)
        if path.suffix == ".py" and not name.startswith("tests/") and (lines := len(file.readlines())) > MAX_LINES:
            return f"has {lines} lines, more than {MAX_LINES}"
    return None


def main() -> int:
    """Print what may not be tracked; the exit code."""
    listed = subprocess.run(["git", "ls-files", "-z"], check=True, capture_output=True, text=True).stdout  # noqa: S607 - git of the user's PATH
    found = findings(Path(), listed.split("\0")[:-1], ALLOWED)
    for sentence in found:
        print(f"{sentence}; remove or divide it, or list it in tools/tracked_files.py with a reason", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
