"""Connectors of other packages import one module, whose `__all__` is complete."""

from __future__ import annotations

import ast
from pathlib import Path

import dataflows.connectors as surface

EXAMPLE = Path(__file__).parents[3] / "examples/connector/penstock_accesslog.py"


def test_all_lists_every_public_name_once() -> None:
    defined = {name for name, value in vars(surface).items() if not name.startswith("_") and not _is_module(value)}
    assert sorted(set(surface.__all__)) == sorted(surface.__all__) == sorted(defined - {"annotations"})


def _is_module(value: object) -> bool:
    return type(value).__name__ == "module"


def test_the_example_imports_only_the_public_surface() -> None:
    tree = ast.parse(EXAMPLE.read_text())
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    assert {one for one in modules if one.split(".")[0] in {"dataflows", "penstock", "catalog"}} == {
        "dataflows.connectors"
    }
