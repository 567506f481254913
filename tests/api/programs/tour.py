"""`penstock demo` of a smaller shop, whose rows take less time to make: `python -m tests.api.programs.tour SCALE`."""

from __future__ import annotations

import sys
from functools import partial

from api.cli import demo
from api.cli.main import main
from api.demo.data import Rows

if __name__ == "__main__":
    setattr(demo, "Rows", partial(Rows, float(sys.argv[1])))  # noqa: B010 - mypy knows a class
    main(["demo"])
