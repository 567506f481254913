"""Run a benchmark: ``python -m benchmarks NAME …`` runs ``benchmarks/NAME.py``; without a name, all, for the README."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path


def main() -> int:
    """Run the benchmark named first with the other arguments; without a name, run all, and write the README's tables.

    The exit code is the largest one of theirs.
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
