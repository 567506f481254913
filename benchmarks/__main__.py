"""``python -m benchmarks NAME …`` runs ``benchmarks/NAME.py``."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path


def main() -> int:
    """Run the benchmark that is named first, with the rest of the arguments."""
    known = sorted(path.stem for path in Path(__file__).parent.glob("[a-z]*.py"))
    if len(sys.argv) < 2 or sys.argv[1] not in known:
        sys.stderr.write(f"usage: python -m benchmarks {{{','.join(known)}}} …\n")
        return 2
    name = sys.argv.pop(1)
    return int(importlib.import_module(f"benchmarks.{name}").main() or 0)


if __name__ == "__main__":
    sys.exit(main())
