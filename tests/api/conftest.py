from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.api.project import Project, sample_project
from tests.reaper import short_folder


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that a server's account can reach, with a short path."""
    made = short_folder()
    made.chmod(0o755)
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture
def project(folder: Path) -> Iterator[Project]:
    """A project of the sample where nothing runs and nothing is applied."""
    with sample_project(folder / "p") as made:
        yield made


@pytest.fixture(scope="session")
def running(reaper: None) -> Iterator[Project]:
    """A project of the sample, applied, with `penstock up` running: for tests that change only their own pipelines."""
    folder = short_folder()
    folder.chmod(0o755)
    with sample_project(folder / "p") as made:
        made.up()
        made.done("apply")
        yield made
