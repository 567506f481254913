"""Properties of all agents: what they do alone, that a log explains itself, that no order of events stops them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from agents.fold import Fold, look_ahead
from agents.judging import Judge, is_same
from agents.policies import DEFAULT, Policies
from agents.protocol import Agent, Cause, Decision, Draft, State
from dataflows.control import agents
from penstock.models.domain import AgentDecision
from penstock.models.policy import AgentPolicy
from penstock.records import Reading, Record
from tests.agents.control_plane import ERROR, FATAL, ControlPlane, pipeline, policy, started, steps
from tests.strategies import logs

# --- property 15


class Acting:
    """Stands for an agent that acts on its own: on each worker that joins it wants to act, as sure as the name says."""

    rules = 1
    concerns = frozenset({"worker.joined", "worker.greeted"})

    def __init__(self, name: str) -> None:
        self.name = name

    def initial(self) -> State:
        return {"greeted": 0}

    def decide(self, state: State, cause: Cause, policies: Policies) -> Decision | None:  # noqa: ARG002 - the protocol's
        if cause.type != "worker.joined" or not cause.payload["worker"].startswith("sure "):
            return None
        _, confidence, action, tier = cause.payload["worker"].split()
        why = AgentDecision(
            agent=self.name,
            rules=1,
            action=action,
            subject=f"{cause.offset % 4}",
            reason="",
            confidence=float(confidence),
        )
        return Decision(why, (Draft("worker.greeted", self.name, {}),), labels=(("tier", tier),))

    def evolve(self, state: State, record: Record) -> State:
        return {"greeted": state["greeted"] + (record.type == "worker.greeted" and record.key == self.name)}


LEVELS = st.sampled_from(["observe", "propose", "act"])
SHARES = st.sampled_from([0.0, 0.3, 0.5, 0.7, 1.0])
ACTIONS = ["retry", "skip_record", "adjust_config", "pause"]
READS = {"retry", "discover"}
HOURS = st.sampled_from(["00:00-00:20", "00:10-00:40", "23:00-00:30", "00:00-24:00"])
LIMITS = st.fixed_dictionaries(
    {},
    optional={
        "never": st.lists(st.sampled_from(["retry", "pause", "discover"]), max_size=1),
        "quiet_hours": st.lists(HOURS, min_size=1, max_size=2),
        "limits": st.dictionaries(
            st.sampled_from(ACTIONS), st.fixed_dictionaries({"per_hour": st.integers(0, 3)}), max_size=2
        ),
        "blast_radius": st.fixed_dictionaries({"pipelines": st.integers(0, 2), "within": st.just("30m")}),
    },
)
POLICIES = st.builds(
    lambda name, mapping, resolution, actions, discovery, constraints: policy(
        name or "all",
        applies={"tier": name} if name else {},
        mapping={"autonomy": mapping[0], "act_above": mapping[1]},
        error_resolution={"autonomy": resolution[0], "act_above": resolution[1], "actions": actions},
        discovery={"autonomy": discovery, **({"every": "1h"} if not name else {})},
        constraints=constraints,
    ),
    st.sampled_from(["", "gold", "tin"]),
    st.tuples(LEVELS, SHARES),
    st.tuples(LEVELS, SHARES),
    st.dictionaries(st.sampled_from(ACTIONS), LEVELS, max_size=2),
    LEVELS,
    LIMITS,
)
STIMULI = st.builds(
    lambda *parts: "sure " + " ".join(map(str, parts)),
    SHARES,
    st.sampled_from(ACTIONS),
    st.sampled_from(["gold", "tin"]),
)
LIMITED = st.builds(
    lambda constraints: policy("all", error_resolution={"act_above": 0.0}, constraints=constraints), LIMITS
)
SURE = st.builds(lambda action: f"sure 1.0 {action} gold", st.sampled_from(ACTIONS[:2]))
"""Under these only limits hold an agent back."""
BUSY = st.tuples(
    LIMITED, st.lists(st.one_of(SURE, SURE, SURE, SURE, st.just("wait"), LIMITED), min_size=6, max_size=14)
)
EVENTS = st.one_of(POLICIES, STIMULI, STIMULI, st.sampled_from(["restart", "fire", "discover", "wait", "wait"]))


def _may_act(document: Mapping[str, Any], why: Mapping[str, Any], done: Sequence[Record], at: datetime) -> bool:
    """Return what the policy says, by nothing but its text and what the agent has `done` on its own before."""
    spec = AgentPolicy.parse(document).to_dict()["spec"]
    rules, limits, action = spec.get(why["agent"], {}), spec["constraints"], why["action"]
    level = rules.get("actions", {}).get(action, rules.get("autonomy", "act"))
    may = level == "act" and ("act_above" not in rules or why["confidence"] > rules["act_above"])
    if "scope" not in why:  # what only looks ahead, such as a timer
        return bool(may)
    quiet = action != "retry" and any(_is_within(hours, at) for hours in limits["quiet_hours"])
    hour = [one for one in done if at - one.at < timedelta(hours=1) and one.payload["action"] == action]
    rate = limits.get("limits", {}).get(action, {}).get("per_hour", math.inf)
    touched = {one.payload["scope"]["subject"] for one in done
               if at - one.at < timedelta(minutes=30) and one.payload["action"] not in READS}  # fmt: skip
    touched |= {why["scope"]["subject"]}
    radius = math.inf if action in READS else limits.get("blast_radius", {}).get("pipelines", math.inf)
    held = action in limits["never"] or quiet or len(hour) >= rate or len(touched) > radius
    return bool(may and not held)


def _is_within(hours: str, at: datetime) -> bool:
    begin, end = hours.split("-")
    now = f"{at:%H:%M}"
    return begin <= now < end if begin < end else now >= begin or now < end


def _is_counted(document: Mapping[str, Any], why: Mapping[str, Any]) -> bool:
    """True if what an action touches has the labels that the policy applies to."""
    applies = document["spec"].get("applies", {})
    return bool(applies.items() <= (why["scope"].get("labels") or {}).items())


@settings(max_examples=40, deadline=None)
@given(
    events=st.one_of(st.lists(EVENTS, max_size=12), BUSY.map(lambda one: [one[0], *one[1]])), batch=st.integers(1, 6)
)
def test_property_15_agents_act_alone_only_above_the_threshold_and_within_limits(events: list[Any], batch: int) -> None:
    plane = ControlPlane(*agents(), Acting("mapping"), Acting("error_resolution"), batch=batch)
    plane.connect("shop")
    _play(plane, events)
    tiers = {one.id: one.payload["worker"].split()[3] for one in plane.log
             if one.type == "worker.joined" and one.payload["worker"].startswith("sure ")}  # fmt: skip
    in_force: list[tuple[int, Mapping[str, Any]]] = []
    done: list[Record] = []
    for offset, record in enumerate(plane.log):
        if record.type == "policy.accepted":
            in_force.append((offset, record.payload["policy"]))
        if record.type != "agent.decided" or record.cause is None:
            continue
        why, cause = record.payload, plane.log[record.cause[0]]
        alone = cause.kind not in {"command", "policy"} and why["action"] != "finish"
        if not alone or why["agent"] in {"lifecycle", "orchestrator"}:
            continue
        labels = {"tier": tiers[cause.id]} if cause.id in tiers else {}
        document = _judging(in_force, record.cause[0], labels)
        before = [one for one in done if one.payload["agent"] == why["agent"] and _is_counted(document, one.payload)]
        assert (why["outcome"] == "acted") == _may_act(document, why, before, record.at), why
        done += [record] if why["outcome"] == "acted" and "scope" in why else []
        follows = plane.log[offset + 1 : offset + 2]
        has_effect = bool(follows) and follows[0].cause == (record.cause[0], 1) and follows[0].agent == why["agent"]
        assert has_effect == (why["outcome"] == "acted"), "what is not done leaves no effect"
        assert why["policy"] == AgentPolicy.parse(document).hash
    assert not plane.of("agent.faulted")


def _judging(
    in_force: Sequence[tuple[int, Mapping[str, Any]]], cause: int, labels: Mapping[str, str]
) -> Mapping[str, Any]:
    """Return the policy accepted last of those before `cause` that are most specific for `labels`."""
    by_name = {one["metadata"]["name"]: one for offset, one in in_force if offset < cause}
    fitting = [one for one in by_name.values() if one["spec"].get("applies", {}).items() <= labels.items()]
    return max(fitting, key=lambda one: len(one["spec"].get("applies", {})), default=DEFAULT.to_dict())


def _play(plane: ControlPlane, events: Sequence[Any]) -> None:
    for event in events:
        if isinstance(event, dict):
            plane.command("policy.publish", policy=event)
        elif event == "restart":
            plane.restart()
        elif event == "fire":
            for timer in plane.of("timer.requested")[-1:]:
                plane.fire(timer.key)
        elif event == "wait":
            plane.tick(9 * 60)
        elif event == "discover":
            plane.command("discovery.start", connection="shop")
        else:
            plane.join(event)


# --- a log explains itself


@settings(max_examples=20, deadline=None)
@given(steps_taken=st.lists(steps(changing=True), max_size=20), batch=st.integers(1, 5), data=st.data())
def test_replaying_any_prefix_of_a_log_gives_its_recorded_decisions(
    steps_taken: list[tuple[str, int]], batch: int, data: st.DataObject
) -> None:
    plane = ControlPlane(batch=batch)
    plane.connect("shop", "house")
    for step, number in steps_taken:
        plane.take(step, number)
    prefix = plane.log[: data.draw(st.sampled_from(plane.cuts))]
    judged = 0
    for agent in plane.agents:
        recorded = _recorded(prefix, agent)
        judge, reading = Judge(agent, 0, _finder(recorded)), Reading()
        last = max(recorded, default=-1)
        for offset, record in enumerate(prefix):
            judgement = judge.follow(Cause(offset, record)) if reading.keep(offset, record) else None
            if judgement is not None and offset <= last:
                assert is_same(judgement)
                judged += 1
    assert judged == sum(record.type == "agent.decided" for record in prefix)


def _finder(recorded: Mapping[int, list[Record]]) -> Callable[[int], list[Record]]:
    return lambda at: recorded.get(at, [])


def _recorded(log: Sequence[Record], agent: Agent) -> dict[int, list[Record]]:
    found: dict[int, list[Record]] = defaultdict(list)
    for record in log:
        if record.agent == agent.name and record.cause is not None:
            found[record.cause[0]].append(record)
    return dict(found)


# --- no order of events stops an agent

REPORTS = [
    "task.started",
    "task.completed",
    "task.failed",
    "task.returned",
    "task.halted",
    "worker.lost",
    "timer.fired",
]
ANY_TIME = st.tuples(st.sampled_from(REPORTS), st.integers(0, 30))


def _report(plane: ControlPlane, type_: str, number: int) -> None:
    """Report what can be said of any attempt, worker or timer that there ever was: late, twice, or early."""
    kind = {"worker.lost": "worker.joined", "timer.fired": "timer.requested"}.get(type_, "task.assigned")
    found = plane.of(kind)
    if not found:
        return
    one = found[number % len(found)].payload
    if type_ == "worker.lost":
        plane.lose(one["worker"])
    elif type_ == "timer.fired":
        plane.fire(one["timer"])
    else:
        attempt = {name: one[name] for name in ("task", "attempt", "worker")}
        more = {"error": dict((ERROR, FATAL)[number % 2])} if type_ == "task.failed" else {}
        plane.tell(type_, one["task"], **attempt, **more)


@settings(max_examples=40, deadline=None)
@given(story=st.lists(st.one_of(steps(changing=True), ANY_TIME), max_size=30), batch=st.integers(1, 5))
def test_events_in_any_legal_order_never_make_an_agent_raise(story: list[tuple[str, int]], batch: int) -> None:
    plane = ControlPlane(batch=batch)
    plane.connect("shop", "house")
    plane.apply(pipeline("a"))
    for step, number in story:
        if step in REPORTS:
            _report(plane, step, number)
        else:
            plane.take(step, number)
    assert plane.of("agent.faulted") == []


@settings(max_examples=15, deadline=None)
@given(log=logs(10))
def test_no_sequence_of_valid_records_makes_an_agent_raise(log: list[Record]) -> None:
    log = [started(agents()), *(one.replaced(cause=None, brain=None) for one in log if one.agent is None)]
    recorded = look_ahead(enumerate(log[:1]), Reading())
    for agent in agents():
        fold = Fold(agent, 0, recorded[agent.name])
        found = [one for offset, record in enumerate(log) for one in fold.step(offset, record)]
        assert [one.payload for one in found if one.type == "agent.faulted"] == []
