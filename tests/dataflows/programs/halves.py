"""An audit in halves that ends by a signal only: `python -m tests.dataflows.programs.halves FILE`.

The half writes its process id to FILE; the file `started` next to it says that it was started.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from dataflows.audit import halves


class _Found:
    def join(self, other: Any) -> None:
        """Take up nothing."""


def judge(log: Any, agents: Sequence[Any], *, half: Path, told: Callable[[int], None]) -> _Found:
    """Wait; an interrupt is for nobody here."""
    if len(agents) == 1:
        half.with_suffix(".new").write_text(str(os.getpid()))
        half.with_suffix(".new").rename(half)
    else:
        half.with_name("started").touch()
    while True:
        with suppress(KeyboardInterrupt):
            time.sleep(60)


if __name__ == "__main__":
    from tests.dataflows.programs import halves as program

    wait = partial(program.judge, half=Path(sys.argv[1]))
    halves.judged(None, 0, wait, partial(open, os.devnull), long=0)  # type: ignore[arg-type]  # it reads no log
