"""The fold: the same log gives the same records; after a crash at any point no decision is missing or repeated."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.answered import FORGET_AFTER
from agents.discovery import DataDiscoveryAgent
from agents.fold import refusal
from agents.lifecycle import Lifecycle
from agents.monitor import MonitoringAgent
from agents.orchestrator import Orchestrator
from agents.policies import Policies
from agents.protocol import Cause, Decision, Draft, State
from agents.resolution import ErrorResolutionAgent
from penstock.errors import Refused
from penstock.models.domain import AgentDecision
from penstock.records import UNREADABLE, Record
from penstock.records.families import COMMANDS, TYPES
from tests.agents.control_plane import START, ControlPlane, decisions, judged, pipeline, policy, refold, started, steps

ROOT = Path(__file__).parents[2]
STORY = [
    ("apply", 0), ("apply", 1), ("join", 0), ("run", 0), ("run", 1), ("policy", 1), ("fail", 0), ("fire", 0),
    ("repeat", 1), ("complete", 0), ("pause", 1), ("apply", 1), ("lose", 0), ("resume", 1), ("join", 1), ("delete", 0),
    ("complete", 1),
]  # fmt: skip


def played(steps_taken: list[tuple[str, int]], batch: int = 1) -> ControlPlane:
    plane = ControlPlane(batch=batch)
    plane.connect("shop", "house")
    for step, number in steps_taken:
        plane.take(step, number)
    return plane


class Echo:
    """Answers each worker that joins with the number of earlier ones; raises for workers with certain names."""

    name = "echo"
    rules = 1
    concerns = frozenset({"worker.joined", "worker.greeted"})

    def initial(self) -> State:
        return {"joined": []}

    def decide(self, state: State, cause: Cause, policies: Policies) -> Decision | None:  # noqa: ARG002 - the protocol's
        if cause.type != "worker.joined":
            return None
        if cause.payload["worker"] == "raise in decide":
            raise ZeroDivisionError
        why = AgentDecision(agent=self.name, rules=self.rules, action="greet", subject=cause.record.key, reason="")
        return Decision(why, (Draft("worker.greeted", cause.record.key, {"before": len(state["joined"])}),))

    def evolve(self, state: State, record: Record) -> State:
        if record.type == "worker.greeted" and record.key == "raise in evolve":
            raise KeyError(record.key)
        return {"joined": [*state["joined"], record.key]} if record.type == "worker.joined" else state


# --- determinism


@settings(max_examples=25, deadline=None)
@given(steps_taken=st.lists(steps(changing=True), max_size=25), batch=st.integers(1, 7))
def test_folding_a_log_again_gives_the_same_records_byte_for_byte(
    steps_taken: list[tuple[str, int]], batch: int
) -> None:
    plane = played(steps_taken, batch)
    assert judged(plane.log, plane.agents) == decisions(plane.log)
    assert not plane.of("agent.faulted")


PROGRAM = """
import hashlib
from tests.agents.test_fold import STORY, played
from tests.agents.control_plane import decisions, judged
plane = played(STORY)
found = {key: value for key, value in judged(plane.log, plane.agents).items()}
assert found == decisions(plane.log)
shape = [(key, len(value)) for key, value in found.items()]
print(len(found), hashlib.sha256(repr(shape).encode()).hexdigest())
"""


def test_decisions_do_not_depend_on_the_hash_seed() -> None:
    answers = set()
    for seed in ("0", "1"):
        env = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", PROGRAM]
        answers.add(subprocess.run(command, cwd=ROOT, env=env, check=True, capture_output=True, text=True).stdout)
    assert len(answers) == 1


def test_records_that_do_not_concern_an_agent_change_nothing_and_are_answered_by_nothing() -> None:
    plane = played(STORY)
    for agent, state in zip(plane.agents, plane.states(), strict=True):
        assert agent.concerns <= {*TYPES, UNREADABLE}
        for type_ in TYPES.keys() - agent.concerns - COMMANDS.keys():
            record = Record(type=type_, key="p0", at=START, actor="tests")
            assert agent.evolve(state, record) is state, (agent.name, type_)
            assert agent.decide(state, Cause(len(plane.log), record), Policies()) is None, (agent.name, type_)


# --- restarts


@settings(max_examples=10, deadline=None)
@given(
    steps_taken=st.lists(steps(changing=True), min_size=3, max_size=8),
    more=st.lists(steps(changing=True), max_size=3),
    batch=st.integers(1, 5),
)
def test_a_restart_at_every_point_emits_what_is_missing_and_nothing_twice(
    steps_taken: list[tuple[str, int]], more: list[tuple[str, int]], batch: int
) -> None:
    whole = played([*STORY[:4], *steps_taken], batch)
    stale = whole.snapshots(0)
    for number, cut in enumerate(whole.cuts):
        latest = whole.snapshots(number)
        older = {name: replace(one, rules=0) for name, one in latest.items()}
        half = {name: one for name, one in latest.items() if name == "orchestrator"}
        kept = ({}, latest, stale if stale.keys() <= latest.keys() else {}, older, half)[number % 5]
        plane = ControlPlane(log=whole.log[:cut], snapshots=kept, batch=batch)
        assert decisions(plane.log, cut) == decisions(whole.log, cut)
        for step, number_ in more:
            plane.take(step, number_)
        assert judged(plane.log, plane.agents) == decisions(plane.log), "nothing missing, nothing twice"


@settings(max_examples=15, deadline=None)
@given(steps_taken=st.lists(steps(changing=True), max_size=20), batch=st.integers(1, 5))
def test_state_is_the_same_with_and_without_snapshots(steps_taken: list[tuple[str, int]], batch: int) -> None:
    plane = played(steps_taken, batch)
    taken = plane.snapshots()
    assert taken.keys() == {"lifecycle", "orchestrator", "discovery", "error_resolution", "monitor"}, (
        "at rest each agent has one"
    )
    restored = ControlPlane(log=plane.log, snapshots=taken)
    replayed = ControlPlane(log=plane.log)
    for one in (restored, replayed):
        assert one.states() == plane.states()
        assert [fold.answered.to_dict() for fold in one.folds] == [fold.answered.to_dict() for fold in plane.folds]
        assert [fold.policies for fold in one.folds] == [fold.policies for fold in plane.folds]
        assert len(one.log) == len(plane.log) + 1, "a restart at rest decides nothing"


def test_a_restart_reads_only_records_after_the_snapshot() -> None:
    plane = played(STORY)
    taken = plane.snapshots()
    restored = ControlPlane(log=plane.log, snapshots=taken)
    assert restored.cuts[0] - min(one.offset for one in taken.values()) == 1, "its own beginning only"


def test_no_snapshot_is_taken_before_a_decision_is_durable() -> None:
    plane = played(STORY[:4])
    fold = plane.folds[0]
    command = plane.record("pipeline.pause", "a", {"name": "a"})
    plane.log.append(command)
    decided = fold.step(len(plane.log) - 1, command)
    assert decided
    assert fold.snapshot() is None
    for record in decided:
        assert fold.snapshot() is None, "not before the last of its records"
        plane.log.append(record)
        fold.step(len(plane.log) - 1, record)
    snapshot = fold.snapshot()
    assert snapshot is not None
    assert snapshot.offset == len(plane.log)


def test_late_appends_of_a_superseded_brain_are_ignored() -> None:
    plane = played(STORY[:6])
    old = list(plane.folds)
    plane.restart()
    command = plane.record("pipeline.pause", "b", {"name": "b"})
    at = len(plane.log)
    late = old[0].step(at, command)
    answered = plane.put(command)
    assert [record.type for record in late] == [record.type for record in answered if record.agent == "lifecycle"]
    states = plane.states()
    assert plane.put(*late) == []
    assert plane.states() == states
    assert judged(plane.log, plane.agents) == decisions(plane.log)


# --- upgrades


class ChangedLifecycle(Lifecycle):
    """Another release of the rules, with longer reasons."""

    rules = 2

    def _why(self, action: str, subject: str, reason: str) -> AgentDecision:
        return super()._why(action, subject, f"{reason}, says the later release")


def test_changed_rules_follow_recorded_decisions_and_decide_only_later_records() -> None:
    plane = played(STORY[:8])
    before, states, upto = decisions(plane.log), plane.states(), len(plane.log)
    stale = plane.snapshots()
    plane.agents = (ChangedLifecycle(), Orchestrator(), DataDiscoveryAgent(), ErrorResolutionAgent(), MonitoringAgent())
    plane.restart(stale)
    assert plane.states() == states
    assert decisions(plane.log) == before
    plane.done("pipeline.pause", name="a")
    reasons = {
        r.payload["rules"]: r.payload["reason"] for r in plane.of("agent.decided") if r.payload["agent"] == "lifecycle"
    }
    assert reasons[2] == "active -> paused, says the later release"
    plane.agents = (Lifecycle(), Orchestrator(), DataDiscoveryAgent(), ErrorResolutionAgent(), MonitoringAgent())
    after, states = decisions(plane.log), plane.states()
    plane.restart()
    assert (plane.states(), decisions(plane.log)) == (states, after), "and back again"
    assert decisions(plane.log, upto) == before


def test_a_new_agent_starts_at_the_first_brain_that_names_it() -> None:
    plane = played(STORY[:4])
    first = len(plane.log)
    plane.join("early")
    plane.agents = (*plane.agents, Echo())
    plane.restart()
    assert plane.of("worker.greeted") == []
    plane.join("late")
    assert [record.payload["before"] for record in plane.of("worker.greeted")] == [3 - 1]
    count = len(plane.of("worker.greeted"))
    for snapshots in (None, plane.snapshots()):
        plane.restart(snapshots)
        assert len(plane.of("worker.greeted")) == count, "it stays begun there"
    assert plane.state("echo")["joined"][-2:] == ["early", "late"]
    assert first < len(plane.log)


def test_a_snapshot_keeps_the_first_offset_of_a_new_agent() -> None:
    plane = played(STORY[:3])
    early = len(plane.log)
    plane.join("early")
    agents = (*plane.agents, Echo())
    log = [*plane.log, started(agents, plane.tick())]
    folds, _ = refold(log, agents)
    for offset in range(early):
        folds[-1].step(offset, log[offset])
    snapshot = folds[-1].snapshot()
    assert snapshot is not None
    again = ControlPlane(*agents, log=log, snapshots={"echo": snapshot})
    assert again.state("echo")["joined"][-1] == "early"
    assert again.of("worker.greeted") == []


# --- faults


@pytest.mark.parametrize("where", ["raise in decide", "raise in evolve"])
def test_an_exception_in_an_agent_becomes_a_record_and_the_fold_continues(where: str) -> None:
    plane = ControlPlane(Lifecycle(), Orchestrator(), Echo())
    plane.join("first")
    before = plane.state("echo")
    plane.join(where)
    (faulted,) = plane.of("agent.faulted")
    assert faulted.payload["agent"] == "echo"
    assert (
        faulted.payload["fault"] == {"decide": "builtins.ZeroDivisionError", "evolve": "builtins.KeyError"}[where[9:]]
    )
    assert plane.state("echo") == before
    assert set(plane.state("orchestrator")["workers"]) == {"first", where}, "the others go on"
    plane.join("second")
    assert [record.payload["before"] for record in plane.of("worker.greeted")] == [0, 1]
    for snapshots in (None, plane.snapshots()):
        again = ControlPlane(*plane.agents, log=plane.log, snapshots=snapshots)
        assert again.states() == plane.states()
        assert len(again.of("agent.faulted")) == 1
    assert judged(plane.log, plane.agents) == decisions(plane.log)


class RaisingLifecycle(Lifecycle):
    """Raises at one command, because of a defect."""

    def decide(self, state: State, cause: Cause, policies: Policies) -> Decision | None:
        if cause.type == "pipeline.pause":
            raise ZeroDivisionError
        return super().decide(state, cause, policies)


def test_a_refused_command_is_a_decision_named_after_the_command() -> None:
    plane = ControlPlane()
    assert plane.refused("pipeline.pause", name="p0")["code"]
    (decided,) = plane.of("agent.decided")
    assert [decided.payload[name] for name in ("action", "outcome", "subject")] == ["pause", "refused", "p0"]


def test_a_refusal_is_recorded_with_at_most_2000_characters_of_each_text() -> None:
    cause = Cause(1, ControlPlane().record("pipeline.pause", "p0", {"name": "p0"}))
    for many, stays in ((2000, "x" * 2000), (2001, f"{'x' * 2000} …")):
        (draft,) = refusal(Echo(), cause, Refused("x" * many, hint="x" * many), "none").effects
        assert (draft.payload["what"], draft.payload["hint"]) == (stays, stays)
        assert (draft.payload["exit_code"], draft.payload["issues"]) == (Refused.exit_code, [])


def test_a_command_that_makes_an_agent_raise_is_answered() -> None:
    plane = ControlPlane(RaisingLifecycle(), Orchestrator())
    plane.connect("shop", "house")
    plane.apply(pipeline("p0"))
    before = plane.states()
    assert plane.refused("pipeline.pause", name="p0")["code"] == "defect"
    assert len(plane.of("agent.faulted")) == 1
    assert plane.states() == before
    assert ControlPlane(*plane.agents, log=plane.log).states() == before


class RaisingEcho(Echo):
    """A later release that cannot evolve by the records of an earlier one."""

    rules = 2

    def evolve(self, state: State, record: Record) -> State:
        if record.key == "old":
            raise ValueError(record.key)
        return super().evolve(state, record)


def test_a_record_that_changed_rules_cannot_evolve_by_leaves_the_state_and_the_fold_continues(
    caplog: pytest.LogCaptureFixture,
) -> None:
    plane = ControlPlane(Lifecycle(), Orchestrator(), Echo())
    plane.join("old")
    plane.agents = (Lifecycle(), Orchestrator(), RaisingEcho())
    plane.restart()
    assert "echo" in caplog.text
    assert plane.state("echo") == {"joined": []}
    plane.join("new")
    assert plane.state("echo") == {"joined": ["new"]}


# --- repeats


def test_a_repeated_command_is_answered_once_and_forgotten_after_a_day_of_the_logs_time() -> None:
    plane = played(STORY[:2])
    command = plane.record("pipeline.pause", "a", {"name": "a"}, id="the same")
    assert plane.put(command, command)
    plane.restart()
    plane.now += FORGET_AFTER
    assert plane.put(command.replaced(at=command.at + FORGET_AFTER)) == []
    plane.restart(plane.snapshots())
    assert plane.put(command.replaced(at=command.at + FORGET_AFTER)) == []
    assert len([record for record in plane.log if record.key == "the same" and record.agent]) == 1
    late = command.replaced(at=command.at + FORGET_AFTER + timedelta(microseconds=1))
    (_, answer) = plane.put(late)
    assert (answer.type, answer.key) == ("command.refused", "the same")
    assert judged(plane.log, plane.agents) == decisions(plane.log)


class Counting(Echo):
    """Answers each command, and counts those that it evolves by."""

    name = "counting"

    def decide(self, state: State, cause: Cause, policies: Policies) -> Decision | None:  # noqa: ARG002 - the protocol's
        if cause.record.kind != "command":
            return None
        why = AgentDecision(agent=self.name, rules=1, action="count", subject=cause.record.key, reason="")
        return Decision(why, (), asked=cause.record.id)

    def evolve(self, state: State, record: Record) -> State:
        return {"joined": [*state["joined"], record.key]} if record.kind == "command" else state


def test_a_repeated_command_changes_no_state_and_one_before_the_first_brain_counts() -> None:
    """Also when they are followed as recorded, by a fold that starts with the log."""
    early = Record(type="run.start", kind="command", key="early", at=START, actor="tests", payload={"pipeline": "p"})
    plane = ControlPlane(Counting(), log=[early])
    command = plane.record("run.start", "late", {"pipeline": "p"})
    plane.put(command, command)
    assert plane.state("counting")["joined"] == ["early", "late"]
    assert len(plane.of("agent.decided")) == 2
    plane.restart()
    assert plane.state("counting")["joined"] == ["early", "late"]
    assert judged(plane.log, plane.agents) == decisions(plane.log)


def test_an_agent_remembers_the_commands_that_it_has_answered_and_no_other_record() -> None:
    plane = played(STORY)
    for fold in plane.folds:
        causes = [plane.log[one.cause[0]] for one in plane.log if one.agent == fold.agent.name and one.cause]
        assert set(fold.answered.seen) == {one.id for one in causes if one.kind == "command"}


# --- policies


@settings(max_examples=15, deadline=None)
@given(count=st.integers(2, 40), at=st.data(), batch=st.integers(1, 9))
def test_a_policy_takes_effect_at_one_offset(count: int, at: st.DataObject, batch: int) -> None:
    plane = ControlPlane(batch=batch)
    plane.connect("shop", "house")
    plane.apply(pipeline("orders"))
    old = plane.done("policy.publish", policy=policy("p"))["hash"]
    verbs = ["pipeline.pause", "pipeline.resume"]
    commands = [plane.record(verbs[n % 2], "orders", {"name": "orders"}) for n in range(count)]
    change = policy("p", monitor={"sensitivity": 1.0})
    commands.insert(at.draw(st.integers(0, count)), plane.record("policy.publish", "p", {"policy": change}))
    first = len(plane.log)
    plane.put(*commands)
    accepted = next(o for o, r in enumerate(plane.log) if r.type == "policy.accepted" and r.payload["hash"] != old)
    new = plane.log[accepted].payload["hash"]
    decided = [record for record in plane.log[first:] if record.type == "agent.decided"]
    assert len(decided) == count + 1
    for record in decided:
        assert record.cause is not None
        assert record.payload["policy"] == (old if record.cause[0] <= accepted else new)
    plane.done("pipeline.stop", name="orders")
    assert plane.of("agent.decided")[-1].payload["policy"] == new


def test_records_keep_the_time_of_their_cause_and_what_it_belongs_to() -> None:
    plane = played(STORY)
    assert plane.log[0].at > START
    queued = {record.payload["task"]["id"]: record for record in plane.of("task.queued")}
    for record in plane.log:
        if record.agent and record.cause:
            cause = plane.log[record.cause[0]]
            origin = queued[record.payload["task"]] if record.type == "task.assigned" else cause
            assert (record.at, record.correlation) == (cause.at, origin.correlation or origin.id)
            assert record.kind == ("policy" if record.type == "policy.accepted" else "event")
