"""Fixtures of a whole test run are made once in each process of it."""

from __future__ import annotations

import ast
from pathlib import Path

TESTS = Path(__file__).parents[1]


def test_no_fixture_of_a_test_run_is_imported() -> None:
    """A module that imports one gets another of its own: servers and processes that last until the end of the run."""
    lasting = {path: _lasting(path) for path in TESTS.rglob("conftest.py")}
    assert any("mariadb" in names for names in lasting.values())
    assert [
        (str(path.relative_to(TESTS)), name)
        for path in TESTS.rglob("*.py")
        for module, name in _imported(path)
        if name in lasting.get(TESTS.parent / f"{module.replace('.', '/')}.py", ())
    ] == []


def _lasting(path: Path) -> set[str]:
    functions = [one for one in ast.parse(path.read_text()).body if isinstance(one, ast.FunctionDef)]
    return {
        one.name
        for one in functions
        if any('scope="session"' in ast.unparse(d).replace("'", '"') for d in one.decorator_list)
    }


def _imported(path: Path) -> list[tuple[str, str]]:
    text = path.read_text()
    nodes = ast.walk(ast.parse(text)) if "conftest import" in text else ()
    found = [one for one in nodes if isinstance(one, ast.ImportFrom)]
    return [(str(one.module), name.name) for one in found for name in one.names]
