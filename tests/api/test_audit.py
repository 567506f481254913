"""`penstock audit` on the log and catalog of a project."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.api.project import Project, ending

POLICY = """
apiVersion: penstock/v1
kind: AgentPolicy
metadata: {name: default}
spec: {constraints: {never: []}}
"""


@pytest.fixture(scope="module")
def ran(sample: Project) -> Iterator[Project]:
    """A project whose pipeline has run and was deleted; its policy has kept the table."""
    with ending(sample.copied(sample.folder.with_name("audited"))) as made, made.server.lease():
        made.done("apply")
        made.done("run", "orders", "--watch")
        assert made.do("delete", "orders", "--drop-table", "--yes").code == 4
        made.done("delete", "orders", "--yes")
        made.done("audit", "seal")
        yield made


def test_what_was_written_is_verified_with_seals_decisions_and_the_catalog(ran: Project) -> None:
    found = ran.done("audit", "verify")
    assert (found["good"], found["seals"], found["copies"], found["differing"]) == (True, 1, 1, 0)
    assert found["decisions"]["lifecycle"] >= 5
    assert found["catalog"]["differing"] == {}
    said = ran.do("audit", "verify", "--without-catalog")
    assert (said.code, "as it was written" in said.out) == (0, True)


def test_a_row_of_the_catalog_that_was_changed_by_hand_is_found(ran: Project) -> None:
    ran.sql("penstock", "UPDATE catalog.runs SET status = 'failed'")
    said = ran.do("audit", "verify")
    assert (said.code, "catalog: runs has 1 rows that differ" in said.out) == (1, True)
    ran.sql("penstock", "UPDATE catalog.runs SET status = 'completed'")
    assert ran.done("audit", "verify")["good"]


def _replayed(project: Project, folder: Path) -> Any:
    (folder / "policy.yaml").write_text(POLICY)
    return project.done("audit", "replay", "--policy", folder / "policy.yaml", "--diff")


def test_another_policy_shows_which_decisions_flip(ran: Project, tmp_path: Path) -> None:
    found = _replayed(ran, tmp_path)
    assert (found["flipped"], found["cascade"]) == (1, False)
    (flip,) = found["flips"]
    assert (flip["cause"], flip["pipelines"]) == ("pipeline.delete", ["orders"])
    said = ran.do("audit", "replay", "--policy", tmp_path / "policy.yaml", "--diff")
    assert "delete refused" in said.out
    assert "delete acted: pipeline.status_changed" in said.out
    assert "not simulated" in said.out
    assert ran.do("audit", "replay").code == 2


def test_the_state_at_a_time(ran: Project) -> None:
    records = [line for line in ran.do("audit", "export").lines if line["type"] in {"run.finished", "pipeline.deleted"}]
    finished, deleted = (line["offset"] for line in records)
    assert ran.done("audit", "state", "--at", str(finished))["runs"][0]["pipeline"] == "orders"
    found = ran.done("audit", "state", "--at", str(deleted))
    assert ([one["status"] for one in found["pipelines"]], found["runs"]) == (["deleting"], [])
    assert ran.done("audit", "state", "--at", "0")["pipelines"] == []
    assert ran.do("audit", "state").code == 2


def test_the_log_is_exported_as_json_lines(ran: Project) -> None:
    lines = ran.do("audit", "export").lines
    assert [line["offset"] for line in lines] == list(range(len(lines)))
    assert lines[0]["type"] == "brain.started"
    assert len(ran.do("audit", "export", "--since", "3").lines) == len(lines) - 3
