import shlex
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.reaper import short_folder

ROOT = Path(__file__).parents[2]
PACKAGES = {"agents", "api", "catalog", "dataflows", "penstock"}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's file."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def wheel(built: Path) -> list[str]:
    """Names of the wheel's files."""
    with zipfile.ZipFile(built) as archive:
        return archive.namelist()


@pytest.fixture(scope="module")
def installed(built: Path, reaper: None) -> Iterator[Path]:
    """An environment in which only the wheel is installed, next to an empty folder; its dependencies are this one's."""
    folder = short_folder()
    folder.chmod(0o755)
    venv.create(folder / "venv", symlinks=True)
    python = folder / "venv" / "bin" / "python"
    (packages,) = (folder / "venv" / "lib").glob("python3.*/site-packages")
    install = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(python),
        "install",
        "--quiet",
        "--no-compile",
        "--no-deps",
        "--no-index",
    ]
    subprocess.run([*install, "--ignore-installed", str(built)], check=True, capture_output=True)
    # As a line of a .pth file, so that the editable installation there, itself a .pth file, is not seen.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def run_installed(folder: Path, line: str) -> subprocess.CompletedProcess[str]:
    """Run a line of a shell in the empty folder, in an environment with nothing but a home and the wheel."""
    (folder / "empty").mkdir(exist_ok=True)
    environment = {"HOME": str(folder), "PATH": f"{folder}/venv/bin:/usr/bin:/bin", "LANG": "C.UTF-8"}
    return subprocess.run(
        ["/bin/sh", "-c", line],
        cwd=folder / "empty",
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def test_an_installed_wheel_makes_a_project_and_runs_it_in_an_empty_folder(installed: Path) -> None:
    where = run_installed(installed, "python -c 'import penstock, api; print(penstock.__file__, api.__file__)'")
    assert all(path.startswith(str(installed)) for path in where.stdout.split()), where.stdout + where.stderr
    steps = "penstock init shop && cd shop && penstock apply && penstock run orders"
    done = run_installed(installed, steps)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "orders: 10,000 rows in" in done.stdout
    assert str(ROOT) not in done.stdout + done.stderr
    ended = run_installed(installed, "cd shop && penstock destroy --yes")
    assert ended.returncode == 0, ended.stderr


def test_the_demo_of_an_installed_wheel_names_the_one_command_that_it_lacks(installed: Path) -> None:
    refused = run_installed(installed, "penstock demo")
    assert refused.returncode == 1
    assert "the generator of the demo's data is not installed" in refused.stderr
    (hint,) = [line for line in refused.stderr.splitlines() if line.startswith("next: ")]
    words = shlex.split(hint.removeprefix("next: "))
    extra = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["demo"]
    assert words[1:] == ["-m", "pip", "install", *extra]
    assert Path(words[0]).parent == installed / "venv" / "bin"
    assert Path(words[0]).is_file()
    assert [name.name for name in (installed / "empty").iterdir() if name.name != "shop"] == []


@pytest.mark.chaos
def test_the_demo_of_an_installed_wheel_passes(installed: Path) -> None:
    # What the command that it names installs: the generator next to the interpreter.
    shutil.copy(Path(sys.executable).parent / "tpchgen-cli", installed / "venv" / "bin" / "tpchgen-cli")
    done = run_installed(installed, "penstock demo")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "All 10 checks passed" in done.stdout


def test_the_wheel_holds_the_five_packages_and_nothing_else_at_its_top(wheel: list[str]) -> None:
    tops = {name.split("/")[0] for name in wheel}
    assert {top for top in tops if not top.endswith(".dist-info")} == PACKAGES
    assert len(tops) == len(PACKAGES) + 1


def test_every_package_says_that_it_is_typed(wheel: list[str]) -> None:
    assert {f"{package}/py.typed" for package in PACKAGES} <= set(wheel)


def test_the_wheel_holds_every_file_of_the_packages_that_git_knows(wheel: list[str]) -> None:
    listed = subprocess.run(["git", "ls-files", *PACKAGES], cwd=ROOT, check=True, capture_output=True, text=True)
    tracked = {name for name in listed.stdout.splitlines() if (ROOT / name).exists()}
    assert tracked - set(wheel) == set()


def test_every_folder_of_modules_is_a_package() -> None:
    folders = {path.parent for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    scripts = {folder for folder in folders if folder.name == "versions" and folder.parent.name == "migrations"}
    assert [folder for folder in folders - scripts if not (folder / "__init__.py").exists()] == []
