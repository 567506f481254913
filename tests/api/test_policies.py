"""Policies while `penstock up` runs: files that change, and the kill switch."""

from __future__ import annotations

import time
from typing import Any

from tests.api.project import Project, until


def test_a_policy_file_that_changes_is_in_force_at_once_and_a_bad_one_is_refused(project: Project) -> None:
    process, _ = project.up()
    project.done("apply")
    (path,) = (project.folder / "policies").glob("*.yaml")
    good = path.read_text()

    def recorded() -> list[tuple[str, str]]:
        lines = project.do("events", "--type", "policy.accepted", "--json").lines
        return [(line["payload"]["origin"], line["payload"]["hash"]) for line in lines]

    before = recorded()
    path.write_text(good + "  mapping: {autonomy: act, act_above: 7}\n")
    path.with_name("other.yaml").write_text(good.replace("name: default", "name: other") + "  monitr: {}\n")
    assert process.stdout
    told = [process.stdout.readline() for _ in range(2)]
    assert any("act_above" in line and "the policy in force stays" in line for line in told), told
    assert any("monitr" in line and "monitor" in line for line in told), told
    assert recorded() == before
    incidents = until(lambda: _files(project) if len(_files(project)) > 1 else None, "an incident for each file")
    assert {one["kind"] for one in incidents} == {"config"}
    assert any("monitr" in one["what"] for one in incidents)
    began = time.monotonic()
    path.write_text(good + "  mapping: {autonomy: act, act_above: 0.7}\n")
    line = process.stdout.readline()
    took = time.monotonic() - began
    (new,) = recorded()[len(before) :]
    assert new[0] == "file"
    assert line.startswith(f"policy default is in force: {new[1][:12]}")
    assert took < 10, "within a second on a machine that does nothing else"
    path.with_name("other.yaml").unlink()
    until(lambda: not _files(project), "the end of both incidents")


def _files(project: Project) -> list[dict[str, Any]]:
    """Return the open incidents about policy files."""
    found = project.done("errors", "--incidents")
    return [one for one in found if one["incident"].get("component") == "policy_files"]


def test_agents_are_halted_and_resumed(running: Project) -> None:
    assert running.done("agents", "halt", "mapping") == {"halted": ["mapping"], "resumed": [], "changed": True}
    shown = {one["agent"]: one["status"] for one in running.done("agents")}
    assert (shown["mapping"], shown["orchestrator"]) == ("halted", "acting")
    assert "did you mean `mapping`" in running.do("agents", "halt", "mappin").err
    assert running.done("agents", "resume")["resumed"] == ["mapping"]
    assert {one["status"] for one in running.done("agents")} == {"acting"}
    assert running.do("agents", "list", "mapping").code == 2
    said = running.do("agents")
    assert "acting" in said.out


def test_a_folder_of_policies_that_is_made_later_is_watched(project: Project) -> None:
    folder, aside = project.folder / "policies", project.folder / "aside"
    folder.rename(aside)
    process, _ = project.up()
    (path,) = aside.glob("*.yaml")
    path.write_text(path.read_text() + "  mapping: {autonomy: act, act_above: 0.7}\n")
    aside.rename(folder)
    assert process.stdout
    assert process.stdout.readline().startswith("policy default is in force")
