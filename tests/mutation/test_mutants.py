"""Mutants of the modules that keep data are killed by the tests that aim at each."""

import contextlib
import os
import signal
import threading
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
    of_field = "class C:\n    a: int = field(default=7, init=False)\n"
    fields = [mutant.after for mutant in mutants.picked(of_field, None, 1, set())]
    assert fields, "of the default"
    assert not any("init=True" in one for one in fields), "a parameter that nobody gives"
    defects = "def f(a, b):\n    if a:\n        raise AssertionError(a)\n    return zip(a, b, strict=True)\n"
    assert {mutant.after for mutant in mutants.picked(defects, None, 1, set())} == {"if not a:"}
    assert "if a <= b:" not in {one.after for one in mutants.picked(source, None, 1, {("if a < b:", "if a <= b:")})}


def test_an_interrupt_ends_the_tests_that_were_started(tmp_path: Path) -> None:
    (tmp_path / "tools").symlink_to(ROOT / "tools")
    (tmp_path / "test_slow.py").write_text("import time\n\ndef test_it():\n    time.sleep(60)\n")
    copy = object.__new__(mutants.Copy)
    copy.root = tmp_path

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGUSR1)).start()
        with pytest.raises(KeyboardInterrupt):
            copy.fails(["test_slow.py"])
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert not _working_in(tmp_path)


def _working_in(folder: Path) -> list[str]:
    """Return the processes whose working directory is `folder`."""
    found = []
    for one in Path("/proc").glob("[0-9]*/cwd"):
        with contextlib.suppress(OSError):
            found += [one.parent.name] if one.readlink() == folder else []
    return found


@pytest.mark.chaos
@pytest.mark.timeout(12 * 3600)
def test_nine_of_ten_mutants_are_killed() -> None:
    result = mutants.main([])
    assert not result.unsure, "\n".join(map(str, result.unsure))
    assert result.killed >= 0.9 * result.total, "\n".join(map(str, result.survivors))
