"""Agents read no clock, do no I/O and import no engine; only one adapter does."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

AGENTS = Path(__file__).parents[2] / "agents"
ADAPTER = "operator.py"
FORBIDDEN = {
    "asyncio", "bytewax", "confluent_kafka", "httpx", "os", "pathlib", "psycopg", "random", "secrets", "socket",
    "sqlalchemy", "subprocess", "threading", "time", "uuid",
}  # fmt: skip
CLOCKS = {"now", "utcnow", "today", "time", "time_ns", "monotonic", "perf_counter"}
MODULES = sorted(path.name for path in AGENTS.glob("*.py"))


def imported(tree: ast.AST) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def called(tree: ast.AST) -> set[str]:
    calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return {func.attr if isinstance(func, ast.Attribute) else func.id for func in calls if not _other(func)}  # type: ignore[attr-defined]


def _other(func: ast.expr) -> bool:
    return not isinstance(func, ast.Attribute | ast.Name)


@pytest.mark.parametrize("module", [name for name in MODULES if name != ADAPTER])
def test_an_agent_is_pure(module: str) -> None:
    tree = ast.parse((AGENTS / module).read_text())
    names = imported(tree)
    assert {name.partition(".")[0] for name in names} & FORBIDDEN == set()
    assert not any(name.startswith("penstock.clock") for name in names)
    assert called(tree) & (CLOCKS | {"open", "new_id", "uuid4"}) == set()


def test_the_purity_check_sees_the_adapter_and_the_agents() -> None:
    assert ADAPTER in MODULES
    assert len(MODULES) > 5
    assert any(name.startswith("bytewax") for name in imported(ast.parse((AGENTS / ADAPTER).read_text())))
