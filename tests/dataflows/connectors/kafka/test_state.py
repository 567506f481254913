"""The claim and the fence of a sink of topics, over a topic of states in memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from types import SimpleNamespace

import pytest

from dataflows.connectors.contract import Place
from dataflows.connectors.kafka import state as module
from dataflows.connectors.kafka.state import KafkaState
from dataflows.connectors.record_state import NEW, PIPELINE
from dataflows.connectors.state import Claim, RunRow
from dataflows.data.counters import Counters
from dataflows.data.splits import Split
from penstock.errors import Fenced, Refused, Unavailable
from penstock.models.connection import parse_connection
from tests.dataflows.connectors.kafka.in_memory import StateTopic

PLACE = Place("items", "to", parse_connection("to", {"type": "kafka", "bootstrap": "none:1"}), "t")


@pytest.fixture
def topic(monkeypatch: pytest.MonkeyPatch) -> StateTopic:
    return StateTopic(monkeypatch)


@pytest.fixture
def state(topic: StateTopic) -> Iterator[KafkaState]:
    with closing(KafkaState(PLACE, "u1", "items", "here")) as made:
        made.make()
        yield made


def claimed(state: KafkaState, *slots: str, run: str = "r1") -> int:
    claim = state.claim(slots, run)
    assert isinstance(claim, Claim)
    return claim.generation


def test_a_claim_takes_over_all_slots_that_were_ever_used_after_it_is_raised(
    topic: StateTopic, state: KafkaState
) -> None:
    assert (claimed(state, "00", "01"), claimed(state, "02", "00")) == (1, 2)
    own = "penstock-u1"
    each = [one for slot in ("00", "01", "02") for one in (("begun", f"{own}-{slot}"), ("closed", f"{own}-{slot}"))]
    raised = [("begun", own), ("committed", own), ("closed", own)]
    assert topic.done == [*raised, *each[:4], *raised, *each]
    topic.done.clear()
    state.drop()
    assert topic.done == [*raised, *each]
    topic.done.clear()
    with pytest.raises(Fenced, match="was deleted"):
        claimed(state, "00")
    assert topic.done == [("begun", own), ("closed", own)]
    topic.id = None
    topic.done.clear()
    state.drop()
    assert topic.done == []


def test_a_writer_that_has_looked_before_the_claim_cannot_commit_after_it(topic: StateTopic, state: KafkaState) -> None:
    """Its rows would be doubled by the run that has taken over."""
    generation, writer = claimed(state, "00"), replace(state)
    session = writer._begun("00")
    writer.check_generation(generation)
    writer.send(session, {("counters", "items", "t", "00"): [1, 1, 0, 0, 1]})
    claimed(state, "00", run="r2")
    with pytest.raises(Fenced, match="a newer run took over"), writer.fenced_by(generation):
        session.commit()
    assert state.counters() == Counters()
    with pytest.raises(Unavailable, match="another producer"), writer.fenced_by(generation + 1):
        session.commit()


def test_an_ended_run_is_not_claimed_again(topic: StateTopic, state: KafkaState) -> None:
    generation = claimed(state, "00")
    with state.owned(generation):
        state.write_plan(RunRow("r1", "append", None, None, None, Counters()), (Split(0),))
        state.finish("r1", None, {})
    topic.done.clear()
    found = state.claim(("00",), "r1")
    assert isinstance(found, RunRow)
    assert topic.done == [("begun", "penstock-u1"), ("closed", "penstock-u1")]
    assert state.pipeline["generation"] == generation


def test_what_is_changed_in_memory_stands_only_once_it_is_committed(topic: StateTopic, state: KafkaState) -> None:
    generation = claimed(state, "00")
    with pytest.raises(KeyError), state.owned(generation):  # noqa: PT012 - the first change is to be undone
        state.mark_partial()
        assert state.loaded().write == "replace"
        raise KeyError
    assert (state.loaded().write, state._changes) == (None, None)
    with state.owned(generation):
        state.mark_partial()
        assert replace(state).loaded().write is None
    assert replace(state).loaded().write == "replace"
    for older in (generation - 1, generation + 1):
        topic.done.clear()
        with pytest.raises(Fenced), state.owned(older):
            pytest.fail("another generation must be fenced")
        assert topic.done == [], "a late session ends no transaction of the newest"
    with pytest.raises(Fenced), state.owned(generation):
        claimed(replace(state), "00", run="r2")


def test_a_topic_of_states_that_is_deleted_meanwhile_is_noticed_within_a_second(
    topic: StateTopic, state: KafkaState, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = [100.0]
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: seconds[0]))
    state.check_there()
    topic.id = None
    seconds[0] += 0.5
    state.check_there()
    for again in (None, "made again"):
        topic.id = again
        seconds[0] += 1.0
        with pytest.raises(Refused, match="was deleted while the pipeline writes"):
            state.check_there()
    topic.id = "made"
    seconds[0] += 1.0
    state.check_there()


def test_records_of_an_older_release_are_refused_unless_they_are_deleted(topic: StateTopic, state: KafkaState) -> None:
    generation = claimed(state, "00")
    with state.owned(generation):
        state._change(("run", "r0"), {"source": "items", "number": 1, "row": {}})
    with pytest.raises(Refused, match="are of an older version"):
        state.run("r0")
    state.drop()
    assert topic.committed.keys() == {("u1", PIPELINE)}
    assert state.pipeline == {**NEW, "generation": generation + 1, "dropped": True}
