"""Completion of pipeline names in a shell: quick, silent, and without starting anything."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete

from api.cli.main import cli
from api.starter import PIPELINE
from tests.api.project import PENSTOCK, Project, environment


def completed(line: str, folder: Path) -> list[str]:
    """Return what a shell would offer for the last word of `line`."""
    words = {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1)}
    done = subprocess.run(
        PENSTOCK,
        cwd=folder,
        env=environment(_PENSTOCK_COMPLETE="bash_complete", **words),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    return [one.removeprefix("plain,") for one in done.stdout.split()]


def test_names_come_from_the_catalog_while_it_runs(running: Project) -> None:
    assert completed("penstock run or", running.folder) == ["orders"]


def test_each_command_for_a_pipeline_offers_names(running: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(running.folder)
    shell = ShellComplete(cli, {}, "penstock", "_PENSTOCK_COMPLETE")
    for command in ("run", "backfill", "status", "runs", "pause", "resume", "stop", "delete", "versions"):
        assert [one.value for one in shell.get_completions([command], "or")] == ["orders"], command


def test_the_project_may_be_named_on_the_command_line(running: Project, tmp_path: Path) -> None:
    assert completed(f"penstock --project {running.folder} run or", tmp_path) == ["orders"]
    assert completed(f"penstock run --project {running.folder} or", tmp_path) == ["orders"]
    assert completed("penstock run or", tmp_path) == []


def test_an_applied_pipeline_without_a_file_is_offered(running: Project, tmp_path: Path) -> None:
    path = tmp_path / "elsewhere.yaml"
    path.write_text(PIPELINE.replace("name: orders", "name: elsewhere"))
    running.done("apply", path)
    assert completed("penstock status else", running.folder) == ["elsewhere"]


def test_without_a_server_names_come_from_the_files_and_no_server_starts(project: Project) -> None:
    (project.folder / "pipelines" / "unapplied.yaml").write_text(PIPELINE.replace("name: orders", "name: unapplied"))
    assert completed("penstock run ", project.folder) == ["orders", "unapplied"]
    assert project.processes() == []


def test_invalid_files_and_settings_complete_to_nothing(tmp_path: Path) -> None:
    (tmp_path / "pipelines").mkdir()
    (tmp_path / "pipelines" / "wrong.yaml").write_text("kind: Pipline\n")
    assert completed("penstock run ", tmp_path) == []
    (tmp_path / "penstock.toml").write_text("slots = 'many'\n")
    assert completed("penstock run ", tmp_path) == []
    assert not (tmp_path / ".penstock").exists()
