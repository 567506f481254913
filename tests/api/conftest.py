from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.api.house import House, house


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that a server's account can reach, with a short path."""
    with tempfile.TemporaryDirectory(prefix="pen-", dir="/tmp", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def idle(folder: Path) -> Iterator[House]:
    """A project of the sample where nothing runs and nothing is applied."""
    with house(folder / "p") as made:
        yield made


@pytest.fixture(scope="session")
def busy() -> Iterator[House]:
    """A project of the sample, applied, with `penstock up` running: for tests that change only their own pipelines."""
    with tempfile.TemporaryDirectory(prefix="pen-", dir="/tmp", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o755)
        with house(Path(name) / "p") as made:
            made.up()
            made.done("apply")
            yield made
