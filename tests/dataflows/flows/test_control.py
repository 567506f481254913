"""The control flow as a process: every command is answered once, whatever dies."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

import pytest

from penstock.records import BRAIN_LOCK, Record, encode
from penstock.topics.table import CONTROL
from tests.agents.control_plane import policy
from tests.dataflows.flows.installation import Installation, Load, kill_again_and_again, take_lock_from, until


def test_commands_are_answered_and_seen_in_the_catalog(busy: Installation, fresh: Callable[..., str]) -> None:
    flow = busy.spawn("control", "projector")
    busy.done("pipeline.pause", name="p1")
    busy.all_answered()
    busy.projected()
    assert busy.catalog("SELECT name, status, version FROM catalog.pipelines ORDER BY name") == [
        ("p0", "active", 1),
        ("p1", "paused", 1),
        ("p2", "active", 1),
    ]
    assert busy.catalog("SELECT status, count(*) FROM catalog.commands GROUP BY 1") == [("applied", 6)]
    busy.check_answers()
    busy.check_catalog(fresh(catalog=True))
    flow.send(signal.SIGTERM)
    assert flow.ended() == 0, flow.said


def test_a_policy_changed_under_load_takes_effect_at_one_offset(busy: Installation) -> None:
    busy.start("control")
    load = Load(busy, rate=400)
    load.start()
    busy.loaded(100)
    first = busy.done("policy.publish", policy=policy("p"))["hash"]
    busy.loaded(100)
    second = busy.done("policy.publish", policy=policy("p", monitor={"sensitivity": 1.0}))["hash"]
    busy.loaded(100)
    load.stop()
    busy.all_answered()
    accepted = {r.payload["hash"]: offset for offset, r in busy.counted() if r.type == "policy.accepted"}
    assert list(accepted) == [first, second]
    found: dict[str, list[int]] = {}
    for _, record in busy.counted():
        if record.type == "agent.decided" and record.cause:
            found.setdefault(record.payload["policy"], []).append(record.cause[0])
    (built_in,) = found.keys() - accepted.keys()
    assert max(found[built_in]) <= accepted[first] < min(found[first])
    assert max(found[first]) <= accepted[second] < min(found[second])
    assert min(len(causes) for causes in found.values()) > 50
    busy.check_answers()


def test_ten_kills_under_load_answer_every_command_exactly_once(busy: Installation) -> None:
    kill_again_and_again(busy, times=10, rate=100, seed=1)


@pytest.mark.chaos
@pytest.mark.parametrize("seed", range(5))
def test_two_hundred_kills_under_load_answer_every_command_exactly_once(busy: Installation, seed: int) -> None:
    kill_again_and_again(busy, times=200, rate=100, seed=seed)


def test_of_two_concurrent_brains_only_the_later_counts(busy: Installation) -> None:
    first = busy.start("control")
    busy.all_answered()
    first.send(signal.SIGSTOP)
    waiting = [busy.send("pipeline.pause", name="p0")]
    take_lock_from(busy, "control")
    second = busy.start("control")
    until(lambda: busy.brains() == 2, "the second brain")
    waiting.append(busy.send("pipeline.resume", name="p0"))
    busy.all_answered()
    first.send(signal.SIGCONT)
    waiting.append(busy.send("pipeline.pause", name="p0"))
    assert first.ended() == 1, first.said
    busy.all_answered()
    later = max(offset for offset, record in enumerate(busy.records()) if record.type == "brain.started")
    assert {busy.answers()[id_][0].brain for id_ in waiting} == {later}
    busy.check_answers()
    assert second.running


def test_a_standby_control_flow_blocks_nothing_and_takes_over(busy: Installation) -> None:
    first = busy.start("control")
    busy.all_answered()
    second = busy.start("control", "projector")
    busy.done("pipeline.pause", name="p0")
    busy.all_answered()
    busy.projected()
    assert busy.brains() == 1
    first.kill()
    busy.done("pipeline.resume", name="p0")
    busy.all_answered()
    busy.projected()
    assert busy.brains() == 2
    busy.check_answers()
    second.send(signal.SIGTERM)
    assert second.ended() == 0, second.said


def test_a_brain_and_decisions_without_the_lock_do_not_count(busy: Installation) -> None:
    """A session that does not hold the control process's lock can claim its name, and changes nothing by it."""
    flow = busy.start("control", "projector")
    busy.all_answered()
    brain = busy.of("brain.started")[0]
    brain_offset = next(offset for offset, one in busy.counted() if one.id == brain.id)
    paused = busy.of("pipeline.created")[0].payload | {"before": "active", "status": "paused"}
    forged = Record(
        type="pipeline.status_changed",
        key="p0",
        at=brain.at,
        actor="agent:lifecycle",
        cause=(busy.log.end(CONTROL, 0) - 1, 2**30),
        brain=brain_offset,
        payload={name: paused[name] for name in ("name", "uid", "before", "status")},
    )
    without = forged.replaced(id="no agent's", actor="tests", brain=None)
    busy.log.append(CONTROL, [encode(one) for one in (brain.replaced(id="another"), forged, without)])
    reported = busy.await_records("record.unreadable", 3)
    assert [one.payload["type"] for one in reported] == ["brain.started", *[forged.type] * 2]
    assert "lock" in reported[0].payload["reason"]
    assert "lock" in reported[1].payload["reason"]
    assert "part of an agent's decision" in reported[2].payload["reason"]
    busy.done("pipeline.pause", name="p0")
    assert flow.running
    busy.projected()
    busy.check_answers()


def test_a_clean_stop_saves_snapshots_and_the_next_start_reads_only_later_records(busy: Installation) -> None:
    from agents.fold import Fold
    from catalog.database import engine
    from catalog.store import MetadataStore
    from dataflows.control import agents, start_brain

    flow = busy.start("control")
    busy.all_answered()
    until(lambda: busy.records()[-1].type == "command.applied", "the last answer")
    time.sleep(0.2)
    flow.send(signal.SIGTERM)
    assert flow.ended() == 0, flow.said
    end = len(busy.records())
    with MetadataStore(engine(busy.catalog_dsn)) as store:
        saved = store.load_snapshots()
    names = ("discovery", "error_resolution", "lifecycle", "monitor", "orchestrator")
    assert {name: one.offset for name, one in saved.items()} == dict.fromkeys(names, end)
    assert busy.log.lock(BRAIN_LOCK, wait=True)
    folds, start = start_brain(busy.log, agents(), saved)
    assert start == end
    assert all(isinstance(fold, Fold) and fold.next == end for fold in folds)
    fresh, _ = start_brain(busy.log, agents(), {})
    for offset, record in enumerate(busy.records()):
        for fold in (*folds, *fresh):
            assert fold.step(offset, record) == [], "every command is answered"
    assert [fold.state for fold in folds] == [fold.state for fold in fresh]
