from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.api.project import Project, ending, penstock
from tests.reaper import short_folder


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that a server's account can reach, with a short path."""
    made = short_folder()
    made.chmod(0o755)
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture(scope="session")
def sample(reaper: None) -> Iterator[Project]:
    """A project of the sample, as `penstock init` has made it."""
    folder = short_folder()
    folder.chmod(0o755)
    made = Project(folder / "p")
    said = penstock("init", made.folder)
    assert said.code == 0, said.err
    with ending(made):
        yield made


@pytest.fixture
def project(sample: Project, folder: Path) -> Iterator[Project]:
    """A project of the sample where nothing runs and nothing is applied."""
    with ending(sample.copied(folder / "p")) as made:
        yield made


@pytest.fixture(scope="session")
def running(sample: Project) -> Iterator[Project]:
    """A project of the sample, applied, with `penstock up` running: for tests that change only their own pipelines."""
    with ending(sample.copied(sample.folder.with_name("running"))) as made:
        made.up()
        made.done("apply")
        yield made
