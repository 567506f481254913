from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.gate import gate
from agents.limits import UNUSED, Used
from agents.policies import DEFAULT, Policies
from agents.protocol import Cause, Decision, Draft
from penstock.errors import Refused, RefusedByPolicy
from penstock.models.domain import AgentDecision
from penstock.models.policy import AgentPolicy
from penstock.records import Record
from tests.agents.control_plane import START, policy

EFFECTS = (Draft("mapping.accepted", "orders", {}),)


def policies(*documents: dict[str, Any]) -> Policies:
    found = Policies()
    for document in documents:
        parsed = AgentPolicy.parse(document)
        found.check(parsed)
        found = found.with_record({"name": parsed.name, "policy": parsed.to_dict()})
    return found


def decision(agent: str = "mapping", action: str = "map", confidence: float = 1.0, **values: Any) -> Decision:
    why = AgentDecision(agent=agent, rules=1, action=action, subject="orders", reason="", confidence=confidence)
    return Decision(why, EFFECTS, **values)


def judged(one: Decision, room: Policies, used: Used = UNUSED, at: datetime = START) -> Decision:
    return gate(one, room, Cause(0, Record(id="1", type="task.failed", key="", at=at, actor="t", payload={}), used))


@given(threshold=st.floats(0, 1), confidence=st.floats(0, 1))
def test_an_agent_acts_only_above_the_threshold(threshold: float, confidence: float) -> None:
    rules = policies(policy("p", mapping={"autonomy": "act", "act_above": threshold}))
    passed = judged(decision(confidence=confidence), rules)
    assert passed.why.threshold == threshold
    expected = ("acted", EFFECTS) if confidence > threshold else ("proposed", ())
    assert (passed.why.outcome, passed.effects) == expected


@given(threshold=st.floats(0, 1))
def test_confidence_that_equals_the_threshold_does_not_act(threshold: float) -> None:
    rules = policies(policy("p", mapping={"autonomy": "act", "act_above": threshold}))
    passed = judged(decision(confidence=threshold), rules)
    assert (passed.why.outcome, passed.effects) == ("proposed", ())


@pytest.mark.parametrize("level", ["observe", "propose"])
def test_without_autonomy_an_agent_never_acts(level: str) -> None:
    passed = judged(decision(), policies(policy("p", mapping={"autonomy": level, "act_above": 0.0})))
    assert (passed.why.outcome, passed.effects) == ("proposed", ())


def test_an_actions_own_level_wins_over_the_agents() -> None:
    rules = {"autonomy": "observe", "act_above": 0.5, "actions": {"retry": "act"}}
    room = policies(policy("p", error_resolution=rules))
    assert judged(decision("error_resolution", "retry"), room).why.outcome == "acted"
    assert judged(decision("error_resolution", "pause"), room).why.outcome == "proposed"


def test_a_command_needs_no_autonomy() -> None:
    passed = judged(decision(confidence=0.0, asked="c"), policies(policy("p", mapping={"autonomy": "observe"})))
    assert (passed.why.outcome, passed.effects) == ("acted", EFFECTS)


def test_a_forbidden_action_is_refused_to_people_and_agents() -> None:
    room = policies(policy("p", constraints={"never": ["drop_table", "drop_column"]}))
    with pytest.raises(RefusedByPolicy, match="policy 'p' never allows drop_table") as caught:
        judged(decision(needs=("drop_table",), asked="c"), room)
    assert caught.value.exit_code == 4
    passed = judged(decision(needs=("drop_table",)), room)
    assert (passed.why.outcome, passed.effects) == ("refused", ())


def test_the_most_specific_policy_wins() -> None:
    room = policies(
        policy("all"),
        policy("gold", applies={"tier": "gold"}),
        policy("ours", applies={"tier": "gold", "team": "us"}),
    )
    names = {
        labels: room.for_labels(dict(labels)).name
        for labels in [(), (("tier", "gold"),), (("tier", "gold"), ("team", "us")), (("tier", "tin"), ("team", "us"))]
    }
    assert list(names.values()) == ["all", "gold", "ours", "all"]
    assert Policies().for_labels({"tier": "gold"}) is DEFAULT


def test_the_decision_carries_the_hash_of_the_policy_that_judged_it() -> None:
    room = policies(policy("all"), policy("gold", applies={"tier": "gold"}))
    passed = judged(decision(labels=(("tier", "gold"),)), room)
    assert passed.why.policy == room.for_labels({"tier": "gold"}).hash != DEFAULT.hash


LABELS = st.dictionaries(st.sampled_from("abc"), st.sampled_from("xy"), max_size=3)


@given(applies=st.lists(LABELS, max_size=6), labels=LABELS)
def test_accepted_policies_never_tie(applies: list[dict[str, str]], labels: dict[str, str]) -> None:
    room = Policies()
    for number, some in enumerate(applies):
        parsed = AgentPolicy.parse(policy(f"p{number}", applies=some))
        try:
            room.check(parsed)
        except Refused:
            continue
        room = room.with_record({"name": parsed.name, "policy": parsed.to_dict()})
    fit = [len(one.spec.applies) for one in room.all() if one.matches(labels)]
    assert len(set(fit)) == len(fit)
