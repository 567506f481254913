"""`penstock audit` on the log and catalog of a project."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from api.cli import why
from tests.api.project import Project, ending, on_a_terminal

POLICY = """
apiVersion: penstock/v1
kind: AgentPolicy
metadata: {name: default}
spec: {constraints: {never: []}}
"""


@pytest.fixture(scope="module")
def ran(sample: Project) -> Iterator[Project]:
    """A project whose pipeline has run; its policy has refused to drop the table."""
    with ending(sample.copied(sample.folder.with_name("audited"))) as made, made.server.lease():
        made.done("apply")
        made.done("run", "orders", "--watch")
        assert made.do("delete", "orders", "--drop-table", "--yes").code == 4
        made.done("audit", "seal")
        yield made


def test_what_was_written_is_verified_with_seals_decisions_and_the_catalog(ran: Project) -> None:
    found = ran.done("audit", "verify")
    assert (found["good"], found["seals"], found["copies"], found["differing"]) == (True, 1, 1, 0)
    assert found["decisions"]["lifecycle"] >= 5
    assert found["catalog"]["differing"] == {}
    ran.sql("postgres", "CREATE DATABASE penstock_spare")
    said = ran.do("audit", "verify")
    assert "database penstock_spare: exists already, and is no spare catalog" in said.err
    ran.sql("postgres", "DROP DATABASE penstock_spare")
    said = ran.do("audit", "verify", "--without-catalog")
    assert (said.code, "as it was written" in said.out) == (0, True)


def test_a_long_audit_shows_how_far_it_is_on_a_terminal_only(ran: Project) -> None:
    said = on_a_terminal(["audit", "verify", "--project", str(ran.folder)], ran.folder)
    assert ("verified" in said, "folded" in said, "as it was written" in said) == (True, True, True)
    assert "verified" not in ran.do("audit", "verify").err


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
    assert "delete refused: command.refused" in said.out
    assert "not simulated" in said.out
    assert ran.do("audit", "replay").code == 2


def test_the_state_at_a_time(ran: Project) -> None:
    finished = next(line["offset"] for line in ran.do("audit", "export").lines if line["type"] == "run.finished")
    assert ran.done("audit", "state", "--at", str(finished))["runs"][0]["pipeline"] == "orders"
    found = ran.done("audit", "state", "--at", str(finished + 1))
    assert ([one["status"] for one in found["pipelines"]], found["runs"]) == (["active"], [])
    assert ran.done("audit", "state", "--at", "0")["pipelines"] == []
    assert ran.do("audit", "state").code == 2


def test_which_run_wrote_a_row_as_far_as_that_is_known(ran: Project) -> None:
    assert "did you mean `public.orders`?" in ran.do("why", "--row", "public.order", "1").err
    (found,) = ran.done("why", "--row", "warehouse:public.orders", "1")["writers"]
    assert (found["pipeline"], found["known"]) == ("orders", True)
    assert f"run {found['runs'][0]['id']}" in ran.do("why", "--row", "public.orders", "1").out
    assert ran.do("why").code == ran.do("why", "x", "--row", "a", "b").code == 2


def test_why_explains_in_sentences_back_to_the_command(ran: Project) -> None:
    (run,) = [one["id"] for one in ran.done("runs", "orders")]
    chain = ran.done("why", run)
    assert chain[0]["text"].startswith(f"run {run} of orders, version 1, was finished: completed")
    assert chain[-1]["text"].endswith("asked for run.start orders")
    said = ran.do("why", run).out
    assert "└─ because the orchestrator agent decided to start run: it is active and has no run" in said
    task = next(one["payload"]["task"] for one in chain if one["type"] == "task.assigned")
    assert ran.done("why", task)[0]["key"] == task


def test_decisions_are_chosen_by_agent_outcome_time_and_policy(ran: Project) -> None:
    def found(*choice: str) -> list[Any]:
        return list(ran.done("decisions", *choice)["items"])

    assert {one["agent"] for one in found("--agent", "orchestrator")} == {"orchestrator"}
    assert [one["action"] for one in found("--outcome", "refused")] == ["delete"]
    assert found("--since", "1h") == found()
    assert found("--since", "2199-01-01") == []
    (refused,) = found("--outcome", "refused", "--policy", "default", "--pipeline", "orders")
    assert found("--outcome", "refused", "--policy", refused["policy"][:8]) == [refused]
    assert found("--policy", "nobody") == []
    assert "never allows drop_table" in ran.do("decisions", "--outcome", "refused").out


def test_the_log_is_exported_as_json_lines(ran: Project) -> None:
    lines = ran.do("audit", "export").lines
    assert [line["offset"] for line in lines] == list(range(len(lines)))
    assert lines[0]["type"] == "brain.started"
    assert len(ran.do("audit", "export", "--since", "3").lines) == len(lines) - 3


def test_which_run_wrote_a_row_is_not_known_of_a_part_of_the_runs(
    ran: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(why, "LOOKED", 1)
    ran.done("run", "orders", "--watch")
    (found,) = ran.done("why", "--row", "public.orders", "1")["writers"]
    assert not found["known"]
    assert "of the last 1 runs" in found["text"]
