"""The fold: the same log, the same records; whatever dies wherever, nothing is doubled and nothing left out."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.fold import FORGET_AFTER
from agents.lifecycle import Lifecycle
from agents.orchestrator import Orchestrator
from agents.policies import Policies
from agents.protocol import Cause, Decision, Draft, State
from penstock.models.domain import AgentDecision
from penstock.records import Record
from tests.agents.world import START, World, decisions, judged, pipeline, policy, refold, started, steps

ROOT = Path(__file__).parents[2]
STORY = [
    ("apply", 0), ("apply", 1), ("join", 0), ("run", 0), ("run", 1), ("policy", 1), ("fail", 0), ("fire", 0),
    ("repeat", 1), ("complete", 0), ("pause", 1), ("apply", 1), ("lose", 0), ("resume", 1), ("join", 1), ("delete", 0),
    ("complete", 1),
]  # fmt: skip


def told(story: list[tuple[str, int]], batch: int = 1) -> World:
    world = World(batch=batch)
    world.connect("shop", "house")
    for step, number in story:
        world.take(step, number)
    return world


class Echo:
    """Answers each worker that joins with how many there were; raises at those whose name says so."""

    name = "echo"
    rules = 1

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
@given(story=st.lists(steps(changing=True), max_size=25), batch=st.integers(1, 7))
def test_judged_again_a_log_gives_the_same_records_byte_for_byte(story: list[tuple[str, int]], batch: int) -> None:
    world = told(story, batch)
    assert judged(world.log, world.agents) == decisions(world.log)
    assert not world.of("agent.faulted")


PROGRAM = """
import hashlib
from tests.agents.test_fold import STORY, told
from tests.agents.world import decisions, judged
world = told(STORY)
found = {key: value for key, value in judged(world.log, world.agents).items()}
assert found == decisions(world.log)
shape = [(key, len(value)) for key, value in found.items()]
print(len(found), hashlib.sha256(repr(shape).encode()).hexdigest())
"""


def test_another_hash_seed_changes_nothing() -> None:
    answers = set()
    for seed in ("0", "1"):
        env = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", PROGRAM]
        answers.add(subprocess.run(command, cwd=ROOT, env=env, check=True, capture_output=True, text=True).stdout)
    assert len(answers) == 1


# --- restarts


@settings(max_examples=10, deadline=None)
@given(
    story=st.lists(steps(changing=True), min_size=3, max_size=8),
    more=st.lists(steps(changing=True), max_size=3),
    batch=st.integers(1, 5),
)
def test_a_restart_at_every_point_emits_what_is_missing_and_nothing_twice(
    story: list[tuple[str, int]], more: list[tuple[str, int]], batch: int
) -> None:
    whole = told([*STORY[:4], *story], batch)
    stale = next((one for one in whole.snapshots if one), {})
    for number, cut in enumerate(whole.cuts):
        latest = _latest(whole, number)
        older = {name: replace(one, rules=0) for name, one in latest.items()}
        half = {name: one for name, one in latest.items() if name == "orchestrator"}
        kept = ({}, latest, stale if stale.keys() <= latest.keys() else {}, older, half)[number % 5]
        world = World(log=whole.log[:cut], snapshots=kept, batch=batch)
        assert decisions(world.log, cut) == decisions(whole.log, cut)
        for step, number_ in more:
            world.take(step, number_)
        assert judged(world.log, world.agents) == decisions(world.log), "nothing missing, nothing twice"


def _latest(world: World, number: int) -> dict[str, Any]:
    """The last snapshot of each agent up to the `number`-th cut."""
    found: dict[str, Any] = {}
    for one in world.snapshots[: number + 1]:
        found |= one
    return found


@settings(max_examples=15, deadline=None)
@given(story=st.lists(steps(changing=True), max_size=20), batch=st.integers(1, 5))
def test_state_is_the_same_with_and_without_snapshots(story: list[tuple[str, int]], batch: int) -> None:
    world = told(story, batch)
    taken = _latest(world, len(world.cuts))
    assert taken.keys() == {"lifecycle", "orchestrator"}, "at rest each agent has one"
    restored = World(log=world.log, snapshots=taken)
    replayed = World(log=world.log)
    for one in (restored, replayed):
        assert one.states() == world.states()
        assert [fold.seen for fold in one.folds] == [fold.seen for fold in world.folds]
        assert [fold.policies for fold in one.folds] == [fold.policies for fold in world.folds]
        assert len(one.log) == len(world.log) + 1, "a restart at rest decides nothing"


def test_a_restart_after_a_snapshot_reads_only_what_comes_after_it() -> None:
    world = told(STORY)
    taken = _latest(world, len(world.cuts))
    restored = World(log=world.log, snapshots=taken)
    assert restored.cuts[0] - min(one.offset for one in taken.values()) == 1, "its own beginning only"


def test_no_snapshot_is_taken_while_a_decision_is_not_known_to_be_durable() -> None:
    world = told(STORY[:4])
    fold = world.folds[0]
    command = world.record("pipeline.pause", "a", {"name": "a"})
    world.log.append(command)
    decided = fold.step(len(world.log) - 1, command)
    assert decided
    assert fold.snapshot() is None
    for record in decided:
        world.log.append(record)
        fold.step(len(world.log) - 1, record)
    snapshot = fold.snapshot()
    assert snapshot is not None
    assert snapshot.offset == len(world.log)


def test_what_a_superseded_brain_appends_late_counts_nowhere() -> None:
    world = told(STORY[:6])
    old = list(world.folds)
    world.restart()
    command = world.record("pipeline.pause", "b", {"name": "b"})
    at = len(world.log)
    late = old[0].step(at, command)
    answered = world.put(command)
    assert [record.type for record in late] == [record.type for record in answered if record.agent == "lifecycle"]
    states = world.states()
    assert world.put(*late) == []
    assert world.states() == states
    assert judged(world.log, world.agents) == decisions(world.log)


# --- upgrades


class Later(Lifecycle):
    """Another release of the rules: it says more about why."""

    rules = 2

    def _why(self, action: str, subject: str, reason: str) -> AgentDecision:
        return super()._why(action, subject, f"{reason}, says the later release")


def test_other_rules_follow_what_is_recorded_and_decide_only_what_comes_after() -> None:
    world = told(STORY[:8])
    before, states, upto = decisions(world.log), world.states(), len(world.log)
    stale = _latest(world, len(world.cuts))
    world.agents = (Later(), Orchestrator())
    world.restart(stale)
    assert world.states() == states
    assert decisions(world.log) == before
    world.done("pipeline.pause", name="a")
    reasons = {
        r.payload["rules"]: r.payload["reason"] for r in world.of("agent.decided") if r.payload["agent"] == "lifecycle"
    }
    assert reasons[2] == "active -> paused, says the later release"
    world.agents = (Lifecycle(), Orchestrator())
    after, states = decisions(world.log), world.states()
    world.restart()
    assert (world.states(), decisions(world.log)) == (states, after), "and back again"
    assert decisions(world.log, upto) == before


def test_a_new_agent_begins_at_the_first_brain_that_names_it() -> None:
    world = told(STORY[:4])
    first = len(world.log)
    world.join("early")
    world.agents = (*world.agents, Echo())
    world.restart()
    assert world.of("worker.greeted") == []
    world.join("late")
    assert [record.payload["before"] for record in world.of("worker.greeted")] == [3 - 1]
    count = len(world.of("worker.greeted"))
    for snapshots in (None, _latest(world, len(world.cuts))):
        world.restart(snapshots)
        assert len(world.of("worker.greeted")) == count, "it stays begun there"
    assert world.state("echo")["joined"][-2:] == ["early", "late"]
    assert first < len(world.log)


def test_a_snapshot_from_before_a_new_agents_beginning_keeps_it() -> None:
    world = told(STORY[:3])
    early = len(world.log)
    world.join("early")
    agents = (*world.agents, Echo())
    log = [*world.log, started(agents, world.tick())]
    folds, _ = refold(log, agents)
    for offset in range(early):
        folds[-1].step(offset, log[offset])
    snapshot = folds[-1].snapshot()
    assert snapshot is not None
    again = World(*agents, log=log, snapshots={"echo": snapshot})
    assert again.state("echo")["joined"][-1] == "early"
    assert again.of("worker.greeted") == []


# --- faults


@pytest.mark.parametrize("where", ["raise in decide", "raise in evolve"])
def test_an_agent_that_raises_is_a_record_and_the_fold_goes_on(where: str) -> None:
    world = World(Lifecycle(), Orchestrator(), Echo())
    world.join("first")
    before = world.state("echo")
    world.join(where)
    (faulted,) = world.of("agent.faulted")
    assert faulted.payload["agent"] == "echo"
    assert (
        faulted.payload["fault"] == {"decide": "builtins.ZeroDivisionError", "evolve": "builtins.KeyError"}[where[9:]]
    )
    assert world.state("echo") == before
    assert set(world.state("orchestrator")["workers"]) == {"first", where}, "the others go on"
    world.join("second")
    assert [record.payload["before"] for record in world.of("worker.greeted")] == [0, 1]
    for snapshots in (None, _latest(world, len(world.cuts))):
        again = World(*world.agents, log=world.log, snapshots=snapshots)
        assert again.states() == world.states()
        assert len(again.of("agent.faulted")) == 1
    assert judged(world.log, world.agents) == decisions(world.log)


class Clumsy(Lifecycle):
    """Falls over one command, by a defect of its own."""

    def decide(self, state: State, cause: Cause, policies: Policies) -> Decision | None:
        if cause.type == "pipeline.pause":
            raise ZeroDivisionError
        return super().decide(state, cause, policies)


def test_a_command_that_an_agent_falls_over_is_answered() -> None:
    world = World(Clumsy(), Orchestrator())
    world.connect("shop", "house")
    world.apply(pipeline("p0"))
    before = world.states()
    assert world.refused("pipeline.pause", name="p0")["code"] == "defect"
    assert len(world.of("agent.faulted")) == 1
    assert world.states() == before
    assert World(*world.agents, log=world.log).states() == before


class Fragile(Echo):
    """A later release that cannot take in what an earlier one recorded."""

    rules = 2

    def evolve(self, state: State, record: Record) -> State:
        if record.key == "old":
            raise ValueError(record.key)
        return super().evolve(state, record)


def test_a_record_that_later_rules_cannot_take_in_leaves_their_state_and_the_fold_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = World(Lifecycle(), Orchestrator(), Echo())
    world.join("old")
    world.agents = (Lifecycle(), Orchestrator(), Fragile())
    world.restart()
    assert "echo" in caplog.text
    assert world.state("echo") == {"joined": []}
    world.join("new")
    assert world.state("echo") == {"joined": ["new"]}


# --- repeats


def test_a_repeated_command_is_answered_once_and_forgotten_after_a_day_of_the_logs_time() -> None:
    world = told(STORY[:2])
    command = world.record("pipeline.pause", "a", {"name": "a"}, id="the same")
    assert world.put(command, command)
    world.restart()
    world.now += FORGET_AFTER
    assert world.put(command.replaced(at=command.at + FORGET_AFTER)) == []
    world.restart(_latest(world, len(world.cuts)))
    assert world.put(command.replaced(at=command.at + FORGET_AFTER)) == []
    assert len([record for record in world.log if record.key == "the same" and record.agent]) == 1
    late = command.replaced(at=command.at + FORGET_AFTER + timedelta(microseconds=1))
    (_, answer) = world.put(late)
    assert (answer.type, answer.key) == ("command.refused", "the same")
    assert judged(world.log, world.agents) == decisions(world.log)


# --- policies


@settings(max_examples=15, deadline=None)
@given(count=st.integers(2, 40), at=st.data(), batch=st.integers(1, 9))
def test_a_policy_takes_effect_at_one_offset(count: int, at: st.DataObject, batch: int) -> None:
    world = World(batch=batch)
    world.connect("shop", "house")
    world.apply(pipeline("orders"))
    old = world.done("policy.publish", policy=policy("p"))["hash"]
    verbs = ["pipeline.pause", "pipeline.resume"]
    commands = [world.record(verbs[n % 2], "orders", {"name": "orders"}) for n in range(count)]
    change = policy("p", monitor={"sensitivity": 1.0})
    commands.insert(at.draw(st.integers(0, count)), world.record("policy.publish", "p", {"policy": change}))
    first = len(world.log)
    world.put(*commands)
    accepted = next(o for o, r in enumerate(world.log) if r.type == "policy.accepted" and r.payload["hash"] != old)
    new = world.log[accepted].payload["hash"]
    decided = [record for record in world.log[first:] if record.type == "agent.decided"]
    assert len(decided) == count + 1
    for record in decided:
        assert record.cause is not None
        assert record.payload["policy"] == (old if record.cause[0] <= accepted else new)
    world.done("pipeline.stop", name="orders")
    assert world.of("agent.decided")[-1].payload["policy"] == new


def test_records_keep_the_time_of_their_cause() -> None:
    world = told(STORY)
    assert world.log[0].at > START
    assert all(record.at == world.log[record.cause[0]].at for record in world.log if record.agent and record.cause)
