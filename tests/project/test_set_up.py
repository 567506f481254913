import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOLS = ("sh", "rm", "dirname", "uname")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A project folder with a space in its path, and a PATH without Python."""
    (tmp_path / "bin").mkdir()
    for tool in TOOLS:
        found = shutil.which(tool)
        assert found is not None
        (tmp_path / "bin" / tool).symlink_to(found)
    place = tmp_path / "a project"
    place.mkdir()
    return place


def put(folder: Path, name: str, script: str) -> None:
    program = folder.parent / "bin" / name
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


def make_venv(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    nowhere = str(folder.parent / "home")
    base = {"PATH": str(folder.parent / "bin"), "HOME": nowhere, "PYENV_ROOT": nowhere}
    command = [str(ROOT / "tools" / "make-venv")]
    return subprocess.run(command, cwd=folder, env=base | environment, capture_output=True, text=True, check=False)


def test_without_any_python_it_says_what_to_install(folder: Path) -> None:
    outcome = make_venv(folder)
    assert outcome.returncode == 1
    assert "no Python 3.11 or 3.12 was found" in outcome.stderr
    assert not (folder / ".venv").exists()


def test_a_python_of_another_version_is_passed_over(folder: Path) -> None:
    put(folder, "python3", "exit 1")
    assert "no Python 3.11 or 3.12 was found" in make_venv(folder).stderr


def test_a_python_that_cannot_make_environments_is_named_with_the_package_to_install(folder: Path) -> None:
    put(folder, "python3.11", 'case "$1" in -c) exit 0;; *) exit 1;; esac')
    outcome = make_venv(folder)
    assert outcome.returncode == 1
    assert "python3.11 is a Python that fits" in outcome.stderr
    assert "python3-venv" in outcome.stderr


def test_a_broken_shim_and_a_python_without_venv_give_way_to_one_that_works(folder: Path) -> None:
    put(folder, "python3.12", "echo 'command not found' >&2; exit 127")
    put(folder, "python3.11", 'case "$1" in -c) exit 0;; *) exit 1;; esac')
    real = os.path.realpath(sys.executable)
    put(folder, "python3", f'exec "{real}" "$@"')
    outcome = make_venv(folder)
    assert outcome.returncode == 0, outcome.stderr
    subprocess.run([folder / ".venv" / "bin" / "python", "-c", "import pip"], check=True)


def test_the_python_that_is_asked_for_comes_first(folder: Path) -> None:
    """Both are stand-ins: a real environment takes seconds."""
    made = (
        'mkdir -p .venv/bin && printf "#!/bin/sh\\necho {name} \\$*\\n" > .venv/bin/python && chmod +x .venv/bin/python'
    )
    for name in ("python3.12", "mine"):
        put(folder, name, f'case "$2" in venv) {made.format(name=name)};; esac; echo "{name}"')
    (folder.parent / "bin" / "mkdir").symlink_to(str(shutil.which("mkdir")))
    (folder.parent / "bin" / "chmod").symlink_to(str(shutil.which("chmod")))
    assert "from python3.12" in make_venv(folder).stdout
    assert "from mine" in make_venv(folder, PYTHON=str(folder.parent / "bin" / "mine")).stdout
