from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.api.house import House, house
from tests.reaper import short_folder


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that a server's account can reach, with a short path."""
    made = short_folder()
    made.chmod(0o755)
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture
def idle(folder: Path) -> Iterator[House]:
    """A project of the sample where nothing runs and nothing is applied."""
    with house(folder / "p") as made:
        yield made


@pytest.fixture(scope="session")
def busy(reaper: None) -> Iterator[House]:
    """A project of the sample, applied, with `penstock up` running: for tests that change only their own pipelines."""
    folder = short_folder()
    folder.chmod(0o755)
    with house(folder / "p") as made:
        made.up()
        made.done("apply")
        yield made
