from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
PYPROJECT = '[project]\ndependencies = ["alpha>=2"]\n[project.optional-dependencies]\ndev = ["beta-bar<3"]\n'
VIA = "# via penstock (pyproject.toml)"


@pytest.fixture(scope="module")
def lock_fits(tool: Callable[[str], ModuleType]) -> ModuleType:
    return tool("lock_fits")


@pytest.mark.parametrize(
    ("lock", "finding"),
    [
        (f"alpha==2.1  {VIA}\nbeta.Bar==2.9  {VIA}\n", None),
        (f"alpha==2.1  {VIA}\n", "beta-bar<3 is not in the lock"),
        (f"alpha==1.9  {VIA}\nbeta-bar==2.9  {VIA}\n", "alpha is pinned to 1.9, outside of >=2"),
        (f"alpha==2.1  {VIA}\nbeta-bar==2.9  {VIA}\ngamma==1  {VIA}\n", "gamma is pinned for the project"),
    ],
    ids=["in-step", "missing", "outside", "left-over"],
)
def test_a_lock_out_of_step_is_found(lock_fits: ModuleType, lock: str, finding: str | None) -> None:
    found = lock_fits.findings(PYPROJECT, lock)
    assert found == [] if finding is None else len(found) == 1
    assert not finding or found[0].startswith(finding)


def test_the_lock_of_this_tree_names_no_host_and_no_path() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    assert "://" not in lock
    assert "--" not in lock
    assert all(" /" not in line for line in lock.splitlines())
