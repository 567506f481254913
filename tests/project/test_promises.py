"""Each test that the page of promises names exists, and `make test` runs one for each promise."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/promises.md"
SUITE = ROOT / "dataflows/connectors/conformance"
"""Its tests are run for our connectors by tests/dataflows/connectors/test_conformance_suite.py."""
CHAOS = "pytest.mark.chaos"


def known_tests() -> dict[str, bool]:
    """Return the name of each test, and whether `make test` runs it."""
    found: dict[str, bool] = {}
    for path in (*ROOT.glob("tests/**/test_*.py"), *SUITE.glob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                marks = {ast.unparse(mark) for mark in node.decorator_list}
                found[node.name] = found.get(node.name, False) or CHAOS not in marks
    return found


def test_each_test_that_is_named_exists_and_each_promise_has_one_that_is_not_long() -> None:
    known, rows = known_tests(), re.findall(r"^\|.*\|$", PAGE.read_text(), re.MULTILINE)
    named = {row: names for row in rows if (names := re.findall(r"`(test_\w+)`", row))}
    assert len(named) > 200
    assert [name for names in named.values() for name in names if name not in known] == []
    assert [row for row, names in named.items() if not any(known[name] for name in names)] == []
