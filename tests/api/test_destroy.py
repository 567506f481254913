"""`penstock destroy`, and projects that are deleted while they are in use."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from penstock.topics import server_paths
from penstock.topics.embedded import EmbeddedServer
from penstock.topics.server_paths import orphans
from tests.api.project import Project, until


def test_destroy_deletes_the_server_and_keeps_the_files(project: Project) -> None:
    project.done("apply")
    assert "was not confirmed: nothing was deleted" in project.start("destroy").communicate(timeout=60)[0]
    assert project.done("list")
    assert project.do("destroy", "--yes").code == 0
    assert not (project.folder / ".penstock").exists()
    assert (project.folder / "pipelines" / "orders.yaml").exists()
    assert project.done("list") == []


def test_a_server_in_use_is_not_deleted(project: Project) -> None:
    with project.server.lease():
        assert "the server is in use" in project.do("destroy", "--yes").error
    assert project.done("list") == []


def test_up_ends_when_its_project_is_deleted_and_nothing_runs_on(project: Project) -> None:
    process, _ = project.up()
    server = project.server.pid
    shutil.rmtree(project.folder, ignore_errors=True)
    shutil.rmtree(project.folder, ignore_errors=True)
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 3, said
    assert "the project's folder is gone" in said
    until(lambda: not Path(f"/proc/{server}").exists(), "the server to end", 10)
    assert not project.folder.exists() or not (project.folder / ".penstock" / "data").exists()


def test_data_elsewhere_of_a_deleted_project_are_found_and_deleted(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_paths, "ELSEWHERE", folder / "state")
    monkeypatch.setattr(server_paths.Account, "can_enter", lambda *_: False)
    server = EmbeddedServer(folder / "home")
    server.ensure()
    elsewhere = server.folder
    assert orphans() == {}
    (folder / "home").rename(folder / "moved")
    assert orphans() == {}, "its server runs"
    server.stop()
    moved = EmbeddedServer(folder / "moved")
    moved.ensure()
    moved.stop()
    assert orphans() == {}, "the moved project uses it"
    shutil.rmtree(folder / "moved")
    assert orphans() == {elsewhere: folder / "moved"}
    project = Project(folder)
    assert project.done("destroy", "--orphans", "--yes") == {"deleted": [f"{elsewhere}, of {folder / 'moved'}"]}
    assert not elsewhere.exists()
