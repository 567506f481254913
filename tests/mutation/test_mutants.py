"""Mutants of the modules that keep data are killed by the tests that aim at each."""

import tomllib
from pathlib import Path

import pytest

from tools import mutants

ROOT = Path(__file__).parents[2]


def test_the_table_names_modules_and_tests_that_exist() -> None:
    settings = tomllib.loads(mutants.TABLE.read_text())
    for module, tests in settings["modules"].items():
        words = [word for word in tests.split() if word.endswith(".py")]
        assert words, module
        assert all((ROOT / word).is_file() for word in [module, *words]), module
    for one in settings.get("equivalent", []):
        assert one["why"], one
        assert one["was"] in (ROOT / one["module"]).read_text(), one


def test_a_change_is_made_to_python_to_sql_and_to_statements() -> None:
    source = (
        "def f(a, b):\n    check(a)\n    if a < b:\n        raise ValueError\n"
        "    return 'SELECT x FROM t WHERE y = 1 AND z = 2'\n"
    )
    made = {mutant.after for mutant in mutants.picked(source, None, 1, set())}
    assert {"pass", "if a <= b:", "if not a < b:"} <= made
    assert "return 'SELECT x FROM t WHERE y = 1'" in made
    assert "return 'SELECT x FROM t WHERE y <> 1 AND z = 2'" in made
    assert len(mutants.picked(source, 3, 1, set())) == 3
    assert mutants.picked(source, 3, 1, set()) == mutants.picked(source, 3, 1, set())
    assert "if a <= b:" not in {one.after for one in mutants.picked(source, None, 1, {("if a < b:", "if a <= b:")})}


@pytest.mark.chaos
@pytest.mark.timeout(12 * 3600)
def test_nine_of_ten_mutants_are_killed() -> None:
    result = mutants.main([])
    assert not result.unsure, "\n".join(map(str, result.unsure))
    assert result.killed >= 0.9 * result.total, "\n".join(map(str, result.survivors))
