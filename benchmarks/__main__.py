"""``python -m benchmarks [NAME …]`` runs ``benchmarks/NAME.py``, without a name all, for the README's tables."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path


def main() -> int:
    """Run the benchmark that is named first with the rest of the arguments; without a name all of them.

    All of them write their figures into the README. The exit code is the largest of theirs.
    """
    known = sorted(path.stem for path in Path(__file__).parent.glob("[a-z]*.py"))
    if len(sys.argv) < 2:
        sys.argv.append("--readme")
        return max(_run(name, headed=True) for name in known)
    if sys.argv[1] not in known:
        sys.stderr.write(f"usage: python -m benchmarks [{{{','.join(known)}}} …]\n")
        return 2
    return _run(sys.argv.pop(1))


def _run(name: str, *, headed: bool = False) -> int:
    if headed:
        sys.stdout.write(f"\n== {name}\n")
        sys.stdout.flush()
    return int(importlib.import_module(f"benchmarks.{name}").main() or 0)


if __name__ == "__main__":
    sys.exit(main())
