"""Commands that messages suggest: what a user has named is quoted for the shell, since names may have blanks."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
COMMAND = re.compile(r"penstock [a-z]+(?:(?!`|;|, (?:or|and|then) ).)*$")
"""The beginning of a command, without an end before the value."""
SAFE = {"upto", "then", "where", "words", "choice.words", "quoted", "run", "id", "keep", "group", "action"}
"""Values that are words of a command, already quoted, or ids of our own, by the end of their names."""


def unquoted(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.JoinedStr):
            continue
        before = ""
        for part in node.values:
            if isinstance(part, ast.Constant):
                before += str(part.value)
            elif isinstance(part, ast.FormattedValue):
                text = ast.unparse(part.value)
                if COMMAND.search(before) and "quote(" not in text and not is_safe(text):
                    yield f"{path.relative_to(ROOT)}:{node.lineno}: {text}"
                before += "X"


def is_safe(text: str) -> bool:
    numbers = text.startswith(("len(", "percent(", "' --"))
    known = text in SAFE or text.rpartition(".")[2] in SAFE
    return numbers or known or re.search(r"\['?(?:run|id|incident)'?\]|\[:?\d\]", text) is not None


def test_names_in_suggested_commands_are_quoted() -> None:
    rooms = ("api", "dataflows", "agents", "catalog", "penstock")
    files = [path for room in rooms for path in sorted((ROOT / room).rglob("*.py"))]
    assert len(files) > 300
    assert [one for path in files for one in unquoted(path)] == []
