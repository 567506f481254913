"""What agents do not do on their own: within quiet hours, too often, or to too much at once."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from agents import limits
from agents.judging import Judge, outcome_of
from agents.limits import Used
from agents.protocol import Cause
from agents.resolution import ErrorResolutionAgent
from penstock.models.policy import AgentPolicy
from penstock.records import Reading, Record
from tests.agents.control_plane import ERROR, START, ControlPlane, pipeline, policy

MEMORY = {"code": "memory.exceeded", "what": "the run used more memory than allowed", "transient": False}
RENAMED = {"code": "schema.renamed", "what": "size is width now", "renamed": {"size": "width"}}
TYPE = {"rule": "types", "subject": "size", "to": "bigint"}
TYPES = {"code": "schema.mismatch", "what": "size is bigint", "proposed": [TYPE]}
NIGHT: dict[str, Any] = {"quiet_hours": ["00:00-06:00"]}
"""`START` is midnight UTC."""
ACTING: dict[str, Any] = {"error_resolution": {"act_above": 0.5}}


@pytest.fixture
def plane() -> ControlPlane:
    plane = ControlPlane()
    plane.connect("shop", "house")
    plane.join("w", slots=99, kinds=("pipeline", "cleanup", "discover", "diagnose"))
    return plane


def allow(plane: ControlPlane, name: str = "p", applies: Mapping[str, str] | None = None, **rooms: Any) -> None:
    plane.done("policy.publish", policy=policy(name, applies=applies, **rooms))


def task_of(plane: ControlPlane, name: str) -> dict[str, Any]:
    tasks = plane.state("orchestrator")["tasks"].values()
    (task,) = [one for one in tasks if (one["pipeline"], one["kind"]) == (name, "pipeline")]
    return dict(task)


def fails(plane: ControlPlane, name: str, error: dict[str, Any] = MEMORY, **labels: str) -> dict[str, Any]:
    """Let a run of a pipeline fail; return the decision about it."""
    if name not in plane.state("lifecycle")["pipelines"]:
        plane.apply(pipeline(name, **labels))
    if all(one["pipeline"] != name for one in plane.state("orchestrator")["runs"].values()):
        plane.run(name)
    plane.fail(task_of(plane, name), error, kind="resource")
    return last(plane, "error_resolution")


def last(plane: ControlPlane, agent: str) -> dict[str, Any]:
    return dict([one for one in plane.of("agent.decided") if one.payload["agent"] == agent][-1].payload)


def test_in_quiet_hours_what_would_change_a_pipeline_is_left_to_a_person(plane: ControlPlane) -> None:
    allow(plane, **ACTING, constraints=NIGHT)
    decided = fails(plane, "orders")
    assert (decided["action"], decided["outcome"]) == ("escalate", "acted")
    assert decided["held"] == "policy 'p': quiet hours 00:00-06:00 UTC"
    assert decided["held"] in decided["reason"]
    assert [one["option"] for one in decided["alternatives"]] == ["adjust_config"]
    plane.tick(6 * 3600)
    decided = fails(plane, "orders")
    assert (decided["action"], decided.get("held")) == ("adjust_config", None)
    assert decided["scope"] == {"subject": "orders", "table": "house:sales.orders"}


def test_quiet_hours_do_not_hold_retries(plane: ControlPlane) -> None:
    allow(plane, constraints=NIGHT)
    assert fails(plane, "orders", ERROR)["action"] == "retry"


@pytest.mark.parametrize(("error", "follows"), [(RENAMED, True), (TYPES, False)])
def test_in_quiet_hours_a_change_of_a_schema_is_proposed(
    plane: ControlPlane, error: dict[str, Any], follows: bool
) -> None:
    allow(plane, evolution={"approve": ["types"]}, constraints=NIGHT)
    plane.apply(pipeline("orders"))
    plane.run("orders")
    plane.end(task_of(plane, "orders"), error)
    assert (len(plane.of("change.proposed")), plane.of("pipeline.updated")) == (1, [])
    assert last(plane, "lifecycle")["held"] == "policy 'p': quiet hours 00:00-06:00 UTC"
    plane.tick(6 * 3600)
    plane.run("orders")
    plane.end(task_of(plane, "orders"), error)
    assert len(plane.of("pipeline.updated")) == follows


def test_a_discovery_waits_for_the_end_of_quiet_hours(plane: ControlPlane) -> None:
    allow(plane, discovery={"every": "1h"}, constraints=NIGHT | {"timezone": "Europe/Berlin"})
    plane.fire(plane.of("timer.requested")[0].key)
    decided, timer = last(plane, "discovery"), plane.of("timer.requested")[-1].payload
    assert (decided["action"], decided["held"]) == ("wait", "policy 'p': quiet hours 00:00-06:00 Europe/Berlin")
    assert timer["due"] == "2026-01-01T05:00:00+00:00"
    assert plane.of("discovery.started") == []
    plane.tick(5 * 3600)
    plane.fire(timer["timer"])
    assert len(plane.of("discovery.started")) == 1
    assert plane.done("discovery.start", connection="house")["discovery"], "people are not held"


def test_an_action_is_taken_so_often_in_an_hour_and_no_more(plane: ControlPlane) -> None:
    allow(plane, constraints={"limits": {"retry": {"per_hour": 3, "per_pipeline": 2}}})
    found = []
    for name in ("a", "a", "a", "b", "c"):
        found.append((name, fails(plane, name, ERROR)))
        if found[-1][1]["action"] == "retry":
            plane.fire([one.key for one in plane.of("timer.requested") if one.key.startswith("retry:")][-1])
    assert [one["action"] for _, one in found] == ["retry", "retry", "escalate", "retry", "escalate"]
    assert found[2][1]["held"] == "policy 'p': at most 2 x retry in an hour for one pipeline"
    assert found[4][1]["held"] == "policy 'p': at most 3 x retry in an hour"
    plane.tick(3600)
    assert fails(plane, "a", ERROR)["action"] == "retry"


def test_agents_touch_so_many_pipelines_and_no_more(plane: ControlPlane) -> None:
    allow(plane, **ACTING, constraints={"blast_radius": {"pipelines": 2, "within": "2h"}})
    assert [fails(plane, name)["action"] for name in ("a", "b")] == ["adjust_config", "adjust_config"]
    third = fails(plane, "c")
    assert (third["action"], third["held"]) == ("escalate", "policy 'p': agents touch at most 2 pipelines within 2h")
    plane.end(task_of(plane, "a"))
    assert fails(plane, "a", MEMORY)["action"] == "adjust_config", "it is one of those two"
    plane.tick(2 * 3600)
    assert fails(plane, "c")["action"] == "adjust_config"


def test_agents_leave_out_so_many_rows_and_no_more(plane: ControlPlane) -> None:
    refused = {"code": "data.too_many_refused", "what": "too many rows were refused", "transient": False}
    rules = {"blast_radius": {"rows": 150}, "max_rows_skipped": 100}
    allow(plane, **ACTING, constraints=rules)
    actions = []
    for name in ("a", "b"):
        plane.apply(pipeline(name))
        plane.run(name)
        plane.fail(task_of(plane, name), refused, kind="data", counters={"rows_in": 1000, "rows_out": 920, "dead": 80})
        actions.append(last(plane, "error_resolution"))
    assert [one["action"] for one in actions] == ["skip_record", "escalate"]
    assert actions[0]["scope"]["rows"] == 80
    assert actions[1]["held"] == "policy 'p': agents leave out at most 150 rows within 1h"


def test_limits_are_those_of_the_labels_and_a_change_of_policies_resets_no_count(plane: ControlPlane) -> None:
    limit = {"limits": {"adjust_config": {"per_hour": 1}}}
    room: dict[str, Any] = {"orchestrator": {"max_running": 99, "per_connection": 99}}
    allow(plane, **ACTING, **room)
    allow(plane, "prod", {"env": "prod"}, **ACTING, constraints=limit)
    places = (("a", "prod"), ("b", "prod"), ("c", "dev"), ("d", "dev"))
    found = [fails(plane, name, env=env)["action"] for name, env in places]
    assert found == ["adjust_config", "escalate", "adjust_config", "adjust_config"]
    allow(plane, "shop", {"env": "prod", "team": "shop"}, **ACTING, constraints=limit)
    assert fails(plane, "e", env="prod", team="shop")["action"] == "adjust_config", "none of theirs yet"
    allow(plane, **ACTING, **room, constraints=limit)
    assert fails(plane, "f", env="dev")["action"] == "escalate", "what was done before it counts"


def test_what_is_never_allowed_is_not_done_by_any_agent(plane: ControlPlane) -> None:
    allow(plane, **ACTING, constraints={"never": ["adjust_config", "follow_rename"]})
    assert fails(plane, "orders")["held"] == "policy 'p' never allows adjust_config"
    plane.run("orders")
    plane.end(task_of(plane, "orders"), RENAMED)
    assert plane.of("pipeline.updated") == []
    assert last(plane, "lifecycle")["held"] == "policy 'p' never allows follow_rename"


def test_counts_survive_a_restart_with_and_without_snapshots(plane: ControlPlane) -> None:
    allow(plane, **ACTING, constraints={"limits": {"adjust_config": {"per_hour": 1}}})
    fails(plane, "a")
    saved = {fold.agent.name: fold.snapshot() for fold in plane.folds}
    plane.restart({name: one for name, one in saved.items() if one is not None})
    assert fails(plane, "b")["action"] == "escalate"
    plane.restart()
    assert fails(plane, "c")["action"] == "escalate"


def test_another_policy_shows_which_decisions_flip(plane: ControlPlane) -> None:
    allow(plane, **ACTING)
    for name in "abc":
        fails(plane, name)
    strict = AgentPolicy.parse(policy("p", **ACTING, constraints={"blast_radius": {"pipelines": 1}}))
    agent = ErrorResolutionAgent()
    recorded: dict[int, list[Record]] = defaultdict(list)
    for one in plane.log:
        if one.agent == agent.name and one.cause:
            recorded[one.cause[0]].append(one)
    judge, reading, flips = Judge(agent, 0, lambda at: recorded.get(at, [])), Reading(), []
    for offset, record in enumerate(plane.log):
        if not reading.keep(offset, record):
            continue
        judgement = judge.follow(Cause(offset, record), lambda found: found.pinning([strict]))
        if judgement and judgement.recorded[0].payload["action"] == "adjust_config":
            flips.append((judgement.decided[0].payload["action"], outcome_of(judgement.decided)))
    assert flips == [("adjust_config", "acted"), ("escalate", "acted"), ("escalate", "acted")]


def decided(number: int, at: datetime) -> Record:
    why = {"agent": "error_resolution", "action": "retry", "outcome": "acted", "scope": {"subject": f"p{number}"}}
    return Record(id=str(number), type="agent.decided", key="", at=at, actor="agent:error_resolution", payload=why)


def test_what_is_remembered_is_bounded_and_what_is_forgotten_counts_as_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MOST", 5)
    used, rules = Used(), AgentPolicy.parse(policy("p"))
    for number in range(7):
        used = used.after([decided(number, START + timedelta(minutes=number))])
    assert len(used.uses) == 5
    hour, at = timedelta(hours=1), START + timedelta(minutes=10)
    assert used.counted(rules, hour, at) is None
    assert len(used.counted(rules, hour, START + timedelta(minutes=61, seconds=30)) or ()) == 5
    assert Used.from_dict(json.loads(json.dumps(used.to_dict()))) == used
    used = used.after([decided(9, START + timedelta(days=2))])
    assert [one.subject for one in used.uses] == ["p9"]


def test_clocks_that_were_wrong_hold_nothing_for_longer_than_a_limit() -> None:
    far = datetime(2099, 1, 1, tzinfo=UTC)
    used, rules = Used().after([decided(1, far)]), AgentPolicy.parse(policy("p"))
    used = used.set_back(START)
    assert used.counted(rules, timedelta(hours=1), START + timedelta(hours=2)) == []
    assert len(used.counted(rules, timedelta(hours=1), START) or ()) == 1


def test_a_clock_that_was_a_day_ahead_lets_no_limit_be_passed() -> None:
    used, rules = Used().after([decided(1, START)]), AgentPolicy.parse(policy("p"))
    used = used.after([decided(2, START + timedelta(days=9))]).set_back(START + timedelta(minutes=1))
    assert used.counted(rules, timedelta(hours=1), START + timedelta(minutes=2)) is None
    assert len(used.counted(rules, timedelta(seconds=90), START + timedelta(minutes=2)) or ()) == 1
