from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import count
from pathlib import Path

import pytest

from api.starter import PIPELINE, WAREHOUSE
from dataflows.process.site import Site
from dataflows.runtime import supervisor
from penstock.settings import load
from tests.api.nursery import NURSERY
from tests.api.project import Project, ending, penstock
from tests.reaper import short_folder


@pytest.fixture(scope="session", autouse=True)
def forked_flows(reaper: None) -> Iterator[object]:
    """Fork the flows that commands in this process start, as those of a shell do: pytest has threads and cannot.

    Yields the function that starts them by their command.
    """
    spawned = supervisor._spawned
    with closing(NURSERY), pytest.MonkeyPatch.context() as patch:
        patch.setattr(supervisor, "_spawned", NURSERY.flows)
        yield spawned


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that a server's account can reach, with a short path."""
    made = short_folder()
    made.chmod(0o755)
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture(scope="session")
def sample(reaper: None) -> Iterator[Project]:
    """A project of the sample, as `penstock init` has made it, with its catalog and topics: they take half a second."""
    folder = short_folder()
    folder.chmod(0o755)
    made = Project(folder / "p")
    said = penstock("init", made.folder)
    assert said.code == 0, said.err
    with Site(load(made.folder)):
        pass
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


_numbers = count(1)
Make = Callable[..., str]
"""Applies a pipeline of the sample under a name, perhaps with texts replaced."""


@pytest.fixture
def made(running: Project, tmp_path: Path) -> Make:
    """Apply a new pipeline with a target table of its own; return its name."""

    def make(name: str | None = None, **changes: str) -> str:
        name = name or f"p{next(_numbers)}"
        text = PIPELINE.replace("name: orders", f"name: {name}").replace(
            "warehouse, object: public.orders", f"warehouse, object: public.{name}"
        )
        for old, new in changes.items():
            text = text.replace(old, new)
        (tmp_path / f"{name}.yaml").write_text(text)
        running.sql(WAREHOUSE, f"CREATE TABLE IF NOT EXISTS {name} (LIKE orders INCLUDING ALL)")
        running.done("apply", tmp_path / f"{name}.yaml")
        return name

    return make
