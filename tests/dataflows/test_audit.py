"""The audit: seals show what was altered, dropped or moved; decisions are made again, and judged by other policies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from agents.lifecycle import Lifecycle
from agents.orchestrator import Orchestrator
from agents.policies import Policies
from agents.protocol import Agent, Cause, Decision, State
from dataflows.audit import halves
from dataflows.audit.replay import Flip, Replay, replayed
from dataflows.audit.verification import SHOWN, Difference, Verification, verified
from dataflows.control import agents
from dataflows.process import sealing
from dataflows.process.sealing import Sealing, seal_to_end
from penstock.errors import Unavailable
from penstock.models.policy import AgentPolicy
from penstock.postgres import connect
from penstock.records import BRAIN_LOCK, Record, decode, encode, records_of
from penstock.records.seals import SEAL, SEAL_LOCK, Problem, Seal, SealCheck, digest_of, seals_in
from penstock.topics.log import Message, Stored
from penstock.topics.postgres import PostgresLog
from penstock.topics.table import CONTROL, TOPICS
from tests.agents.control_plane import ERROR, ControlPlane, pipeline, policy
from tests.api.project import until

AT = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def log(database: str) -> Iterator[PostgresLog]:
    """An empty log, whose session is the control process and the one who seals."""
    with PostgresLog(database) as made:
        for topic in TOPICS.values():
            made.create(topic)
        yield made


def written(log: PostgresLog, records: Sequence[Record]) -> int:
    """Append records as a control process does; return the end."""
    log.lock(BRAIN_LOCK, wait=True)
    for record in records:
        log.append(CONTROL, [encode(record)])
    return log.end(CONTROL, 0)


def story() -> ControlPlane:
    """Return a control plane after a refusal, runs of three pipelines, a failure, and a change of the policy."""
    plane = ControlPlane()
    plane.connect("shop", "house")
    for name in "abc":
        plane.apply(pipeline(name, tier="gold" if name == "c" else "tin"))
    plane.command("pipeline.pause", name="nobody")
    plane.join("w1", slots=2)
    for name in "abc":
        plane.run(name)
    plane.done("policy.publish", policy=policy("p", orchestrator={"max_running": 3}))
    plane.end(plane.task_of("a"))
    plane.end(plane.task_of("b"), ERROR)
    plane.end(plane.task_of("c"))
    plane.done("pipeline.delete", name="a", drop_table=True)
    plane.restart()
    return plane


# --- seals


def stored(values: Sequence[bytes], begin: int = 0) -> list[Stored]:
    return [Stored(CONTROL, 0, begin + n, Message(b"k", value, AT)) for n, value in enumerate(values)]


def sealed(messages: Sequence[Stored], *ends: int) -> list[Seal]:
    found: list[Seal] = []
    for end in ends:
        begin, before = (found[-1].upto, found[-1].digest) if found else (0, "")
        found.append(Seal(begin, end, digest_of(before, messages[begin:end]), end))
    return found


def problems(
    messages: Sequence[Stored], made: Sequence[Seal], copies: Sequence[Seal] = (), page: int = 3
) -> list[Problem]:
    check = SealCheck(made, copies)
    for at in range(0, len(messages), page):
        check.take(messages[at : at + page])
    check.end()
    return check.problems


MESSAGES = stored([b"%d" % n for n in range(20)])
SEALS = sealed(MESSAGES, 5, 12, 18)


@pytest.mark.parametrize("page", [1, 3, 7, 20])
def test_a_log_that_is_as_it_was_agrees_with_its_seals(page: int) -> None:
    assert problems(MESSAGES, SEALS, SEALS, page) == []


def _dropped(at: int) -> list[Stored]:
    """Return the messages without one, the later ones moved up."""
    return stored([one.message.value for one in MESSAGES if one.offset != at])


def _altered(at: int, value: bytes = b"!") -> list[Stored]:
    return stored([value if one.offset == at else one.message.value for one in MESSAGES])


def _swapped(at: int) -> list[Stored]:
    values = [one.message.value for one in MESSAGES]
    values[at], values[at + 1] = values[at + 1], values[at]
    return stored(values)


@pytest.mark.parametrize("tampered", [_altered, _dropped, _swapped])
@pytest.mark.parametrize("at", [0, 4, 5, 11, 16])
def test_a_message_that_is_altered_dropped_or_moved_before_the_last_seal_is_found(
    tampered: Callable[[int], list[Stored]], at: int
) -> None:
    found = problems(tampered(at), SEALS)
    assert found
    assert found[0].begin <= at
    assert found[0].kind == "altered"


def test_another_writer_of_a_message_is_found() -> None:
    forged = [Stored(CONTROL, 0, one.offset, one.message, 7 if one.offset == 3 else one.lock) for one in MESSAGES]
    assert [one.kind for one in problems(forged, SEALS)] == ["altered"]


def test_a_gap_and_a_log_that_is_cut_off_are_found() -> None:
    assert problems([*MESSAGES[:7], *MESSAGES[9:]], SEALS)[0] == Problem(
        "missing", 7, 9, "2 messages before offset 9 are missing"
    )
    assert [one.kind for one in problems(MESSAGES[:15], SEALS)] == ["missing"]


def test_a_seal_that_is_dropped_or_made_again_is_found_by_the_copies() -> None:
    assert [one.kind for one in problems(MESSAGES, [SEALS[0], SEALS[2]])] == ["chain"]
    forged = _altered(3)
    again = sealed(forged, 5, 12, 18)
    assert problems(forged, again) == [], "who may write to the log may seal it again"
    assert {one.kind for one in problems(forged, again, SEALS)} == {"copy"}
    assert {one.kind for one in problems(forged, (), SEALS)} == {"copy"}


@pytest.mark.parametrize("how", ["altered", "dropped", "reordered"])
def test_tampering_with_the_database_is_found(log: PostgresLog, database: str, tmp_path: Path, how: str) -> None:
    end = written(log, story().log)
    log.lock(SEAL_LOCK, wait=True)
    seal_to_end(log, tmp_path / "seals")
    assert verified(log, (), log.end(CONTROL, 0)).problems == []
    with connect(database, "tests") as session:
        if how == "altered":
            session.execute("UPDATE topics.control SET body = set_byte(body, length(body) - 3, 33) WHERE first = 9")
        elif how == "dropped":
            session.execute("DELETE FROM topics.control WHERE first = 9")
        else:
            session.execute(
                "UPDATE topics.control AS one SET body = other.body FROM topics.control AS other "
                "WHERE (one.first, other.first) IN ((9, 10), (10, 9))"
            )
    found = verified(
        log, (), log.end(CONTROL, 0), seals_in((tmp_path / "seals").read_bytes().splitlines(), log.identity())
    )
    assert found.problems
    assert found.problems[0].begin <= 9 < found.problems[0].upto <= end


def test_sealing_goes_on_where_it_ended_and_adds_nothing_to_an_idle_log(
    log: PostgresLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sealing, "SPAN", 20)
    monkeypatch.setattr(sealing, "READ", 7)
    plane = story()
    written(log, plane.log)
    log.lock(SEAL_LOCK, wait=True)
    assert seal_to_end(log, tmp_path / "seals") is not None
    seal_to_end(log, tmp_path / "seals")
    idle = log.end(CONTROL, 0)
    last = seal_to_end(log, tmp_path / "seals")
    assert last is not None
    assert log.end(CONTROL, 0) == idle, "a seal alone is not sealed"
    written(log, [plane.record("worker.lost", "w1", {"worker": "w1", "reason": "x"})])
    log.lock(SEAL_LOCK, wait=True)
    again = seal_to_end(log, tmp_path / "seals")
    assert again is not None
    assert again.begin == last.upto
    found = verified(
        log, (), log.end(CONTROL, 0), seals_in((tmp_path / "seals").read_bytes().splitlines(), log.identity())
    )
    assert (found.problems, found.copies) == ([], found.seals)


def test_the_last_seal_is_found_where_one_read_returns_few_messages(
    log: PostgresLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plane = story()
    written(log, plane.log)
    log.lock(SEAL_LOCK, wait=True)
    last = seal_to_end(log, tmp_path / "seals")
    read = log.read
    monkeypatch.setattr(log, "read", lambda topic, part, at, limit: read(topic, part, at, min(limit, 5)))
    again = seal_to_end(log, tmp_path / "seals")
    assert last is not None
    assert again == last


def test_a_thread_seals_and_a_seal_of_another_session_does_not_count(
    database: str, log: PostgresLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sealing, "FIRST_SECONDS", 0.01)
    end, reported = written(log, story().log), list[BaseException | None]()
    thread = Sealing(lambda: PostgresLog(database), tmp_path / "home" / "seals", reported.append)
    until(lambda: log.end(CONTROL, 0) > end, "a seal")
    thread.close()
    forged = Record(type=SEAL, key="log", at=AT, actor="x", payload={"begin": 0, "upto": 9, "digest": "0" * 64})
    log.append(CONTROL, [encode(forged)])
    assert [record.type for _, record in records_of(log.read(CONTROL, 0, end, 9))] == [SEAL, "unreadable"]
    assert verified(log, (), log.end(CONTROL, 0)).problems == []
    assert (tmp_path / "home" / "seals").read_bytes().count(b"\n") == 1
    assert reported == [None]


# --- decisions made again


def test_every_decision_is_made_again(log: PostgresLog) -> None:
    plane = story()
    end = written(log, plane.log)
    found = verified(log, plane.agents, end)
    decided = [record for record in plane.log if record.type == "agent.decided"]
    assert sum(found.decisions.values()) == len(decided) > 10
    assert (found.differing, found.older, found.differences, found.records) == (0, 0, [], end)


def _rewritten(record: Record, **why: Any) -> Record:
    return decode(encode(record.replaced(payload=record.payload | why)))


def test_a_decision_that_the_rules_would_not_make_is_shown(log: PostgresLog) -> None:
    plane = story()
    at = next(
        n for n, one in enumerate(plane.log) if one.type == "agent.decided" and one.payload["outcome"] == "refused"
    )
    plane.log[at] = _rewritten(plane.log[at], reason="because")
    found = verified(log, plane.agents, written(log, plane.log))
    (difference,) = found.differences
    assert (found.differing, difference.cause, difference.is_older) == (1, "pipeline.pause", False)
    assert not found.is_good


def test_a_decision_without_its_first_record_is_shown(log: PostgresLog) -> None:
    plane = story()
    at = next(
        n for n, one in enumerate(plane.log) if one.type == "agent.decided" and plane.log[n + 1].actor == one.actor
    )
    plane.log[at] = plane.log[at].replaced(type="run.progress", cause=None, actor="somebody", payload={})
    found = verified(log, plane.agents, written(log, plane.log))
    assert not found.is_good
    assert any(one.recorded.startswith("unknown") for one in found.differences), found.differences


def test_a_decision_that_is_still_to_come_is_no_difference(log: PostgresLog) -> None:
    plane = story()
    at = max(n for n, one in enumerate(plane.log) if one.agent == "orchestrator" and one.type == "agent.decided")
    found = verified(log, plane.agents, written(log, plane.log[:at]))
    assert (found.differing, found.is_good) == (0, True)


def test_a_decision_that_is_not_there_though_later_ones_are_is_shown(log: PostgresLog) -> None:
    plane = story()
    first = next(one for one in plane.log if one.agent == "orchestrator" and one.type == "agent.decided")
    for n, one in enumerate(plane.log):
        if (one.agent, (one.cause or (0,))[0]) == ("orchestrator", (first.cause or (0,))[0]):
            plane.log[n] = one.replaced(type="run.progress", cause=None, actor="somebody", payload={})
    found = verified(log, plane.agents, written(log, plane.log))
    assert not found.is_good
    assert next(one.recorded for one in found.differences if one.agent == "orchestrator") == "nothing"


class LaterOrchestrator(Orchestrator):
    """Another release of the rules."""

    rules = Orchestrator.rules + 1

    def _why(self, *found: Any) -> Any:
        return super()._why(*found).model_copy(update={"reason": "for another reason"})


class SameOrchestrator(Orchestrator):
    """Another release of the rules, which decides the same."""

    rules = Orchestrator.rules + 1


def test_what_older_rules_decided_and_todays_would_too_is_not_shown(log: PostgresLog) -> None:
    plane = story()
    end = written(log, plane.log)
    found = verified(log, (Lifecycle(), SameOrchestrator()), end)
    assert found.decisions["orchestrator"] > 5
    assert (found.older, found.differing, found.differences) == (0, 0, [])


def test_what_older_rules_decided_is_no_fault(log: PostgresLog) -> None:
    plane = story()
    end = written(log, plane.log)
    found = verified(log, (Lifecycle(), LaterOrchestrator()), end)
    assert found.older == found.decisions["orchestrator"] > 5
    assert (found.differing, found.is_good) == (0, True)
    assert dict(found.unknown) == {"discovery": 0, "error_resolution": 0, "monitor": 0}


class IdleOrchestrator(Orchestrator):
    """An earlier release of the rules, which did nothing when a run was asked for, or had a defect."""

    rules = Orchestrator.rules - 1

    def __init__(self, *, fails: bool) -> None:
        self._fails = fails

    def decide(self, state: State, cause: Cause, policies: Policies) -> Decision | None:
        if cause.type != "pipeline.created":
            return super().decide(state, cause, policies)
        if self._fails:
            raise ZeroDivisionError
        return None


@pytest.mark.parametrize("fails", [True, False])
def test_what_older_rules_did_nothing_about_is_no_fault(log: PostgresLog, *, fails: bool) -> None:
    by = (Lifecycle(), IdleOrchestrator(fails=fails))
    plane = ControlPlane(*by)
    plane.connect("shop", "house")
    document = pipeline("a")
    document["spec"]["schedule"] = {"cron": "0 * * * *"}
    plane.apply(document)
    plane.command("run.start", pipeline="a")
    end = written(log, plane.log)
    found = verified(log, (Lifecycle(), Orchestrator()), end)
    (difference,) = found.differences
    assert (difference.cause, difference.rules) == ("pipeline.created", Orchestrator.rules - 1)
    assert (found.older, found.differing, found.is_good) == (1, 0, True)
    assert verified(log, by, end).differences == [], "it is what those rules decide"


# --- other policies


def judged(log: PostgresLog, plane: ControlPlane, *documents: dict[str, Any], by: Sequence[Agent] = ()) -> Replay:
    policies = [AgentPolicy.parse(one) for one in documents]
    return replayed(log, by or plane.agents, written(log, plane.log), policies)


def test_the_policy_that_was_in_force_flips_nothing(log: PostgresLog) -> None:
    plane = ControlPlane()
    plane.connect("shop", "house")
    plane.done("policy.publish", policy=policy("p", orchestrator={"max_running": 1}))
    plane.apply(pipeline("a"))
    plane.apply(pipeline("b"))
    plane.join("w1", slots=2)
    plane.run("a")
    plane.run("b")
    assert judged(log, plane, policy("p", orchestrator={"max_running": 1})).flipped == 0


def test_a_policy_that_forbids_shows_what_it_would_have_refused(log: PostgresLog) -> None:
    found = judged(log, story(), policy("p", constraints={"never": ["drop_table"]}, orchestrator={"max_running": 3}))
    (flip,) = found.flips
    assert (flip.cause, flip.pipelines) == ("pipeline.delete", ("a",))
    assert flip.after.startswith("delete refused")
    assert list(found.kinds) == [("lifecycle", "delete", "acted", "refused")]


def test_each_decision_is_judged_alone_with_the_runs_and_rows_it_was_about(log: PostgresLog) -> None:
    plane = story()
    found = judged(log, plane, policy("p", orchestrator={"max_running": 1}))
    created = {one.payload["run"]["id"]: one.payload["run"]["pipeline"] for one in plane.of("run.created")}
    assert set(found.rows) <= set(created)
    assert sum(found.rows.values()) == 3 * sum(found.rows[run] == 3 for run in found.rows) > 0
    first = found.flips[0]
    assert (first.cause, first.pipelines) == ("run.start", ("b",)), "a is running, so b would have waited"
    second = [one for one in found.flips if one.cause == "run.start"]
    assert len(second) == 1, "c waited as recorded: that b would have waited is not followed"
    assert "task.assigned" in first.before
    assert "task.assigned" not in first.after


def test_what_differs_in_an_effect_is_named(log: PostgresLog) -> None:
    found = judged(log, story(), policy("p", orchestrator={"max_running": 3, "priorities": {"gold": 7}}))
    priority, ageing = found.flips
    assert priority.changes == ("task.queued task.priority: 0, would be 7",)
    assert (ageing.before, ageing.after) == ("nothing", "assign acted: timer.requested"), "what waits may age"


def test_alerts_are_judged_by_another_sensitivity_on_the_numbers_that_were_recorded(log: PostgresLog) -> None:
    plane = ControlPlane()
    plane.connect("shop", "house")
    plane.apply(pipeline("a"))
    for score in (-3.5, 0.0, -9.0):
        numbers = {"pipeline": "a", "metric": "rows_out", "at": plane.tick(60).isoformat(), "value": 5.0}
        plane.tell("series.scored", "a", **numbers, expected=9.0, spread=1.0, score=score, samples=50)
    end = written(log, plane.log)

    def flips(sensitivity: float) -> Sequence[Flip]:
        other = AgentPolicy.parse(policy("built-in", monitor={"sensitivity": sensitivity}))
        return replayed(log, plane.agents, end, [other]).flips

    (more,) = flips(3)
    assert (more.before, more.after) == ("nothing", "open_alert acted: alert.opened")
    (less,) = flips(10)
    assert (less.before, less.after, less.pipelines) == ("open_alert acted: alert.opened", "nothing", ("a",))
    assert flips(4) == []


def test_other_rules_alone_flip_nothing(log: PostgresLog) -> None:
    by = (Lifecycle(), LaterOrchestrator())
    found = judged(log, story(), policy("p", orchestrator={"max_running": 3}), by=by)
    assert found.flipped == 0


def test_decisions_by_older_rules_do_not_hide_a_real_difference() -> None:
    found = Verification(0, 0)
    for offset in range(SHOWN + 20):
        found.add(Difference("orchestrator", offset, "run.start", "orders", 1, 2, "acted", "nothing"))
    real = Difference("orchestrator", 999, "run.start", "orders", 2, 2, "acted", "nothing")
    found.add(real)
    assert (found.older, found.differing, real in found.differences) == (SHOWN + 20, 1, True)
    assert len(found.differences) == SHOWN + 1


# --- in halves


def test_both_halves_find_what_one_process_finds(log: PostgresLog, database: str) -> None:
    plane = story()
    for at, one in enumerate(plane.log):  # a difference of each half
        if one.type == "agent.decided" and (one.payload["outcome"] == "refused" or one.payload["action"] == "close"):
            plane.log[at] = _rewritten(one, reason="because")
    end, seen, opened = written(log, plane.log), list[int](), partial(PostgresLog, database)
    found = halves.judged(log, end, partial(verified, end=end), opened, seen.append, long=0)
    assert found == verified(log, agents(), end)
    assert {one.agent for one in found.differences} == {"lifecycle", "orchestrator"}
    assert seen[-1] == end
    other = [AgentPolicy.parse(policy("p", constraints={"never": ["drop_table"]}, orchestrator={"max_running": 1}))]
    replay = halves.judged(log, end, partial(replayed, end=end, policies=other), opened, long=0)
    assert replay == replayed(log, agents(), end, other)
    assert {one.agent for one in replay.flips} == {"lifecycle", "orchestrator"}


@pytest.mark.parametrize("how", ["kill", "interrupt"])
def test_a_half_ends_with_its_parent_and_leaves_interrupts_to_it(how: str, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "tests.dataflows.programs.halves", str(tmp_path / "half")]
    with subprocess.Popen(words, text=True, stderr=subprocess.PIPE, process_group=0) as parent:
        try:
            until((tmp_path / "started").exists, "the start of the half")
            if how == "interrupt":
                os.killpg(parent.pid, signal.SIGINT)
            half = int(until(lambda: (tmp_path / "half").exists() and (tmp_path / "half").read_text(), "its id"))
            assert is_alive(half), "an interrupt is for its parent"
        finally:
            parent.kill()
        until(lambda: not is_alive(half), "its end")
        assert parent.stderr is not None
        assert parent.stderr.read() == ""


def is_alive(pid: int) -> bool:
    """True if a process is there, and is no zombie."""
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


def test_a_half_that_cannot_read_the_log_is_named(log: PostgresLog) -> None:
    nobody = partial(PostgresLog, "postgresql://127.0.0.1:1/x?user=x")
    with pytest.raises(Unavailable, match="half of the decisions failed: Unreachable"):
        halves.judged(log, 0, partial(verified, end=0), nobody, long=0)
