"""Properties of streams, from topics of the embedded log to a real table, whatever happens on the way."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.dataflows.connectors.topics.conftest import Stream

CUTS = ("prepare.planned", "read.block", "commit.begin", "commit.mid_copy", "commit.before_fence", "commit.sent")
PARTITIONS = 3
STEPS = [
    {"name": "kind", "set": {"kind": "id % 7"}},
    {"name": "some", "filter": "kind <> 3"},
    {"name": "hide", "mask": {"name": "redact"}},
]
relaxed = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@dataclass(frozen=True)
class Round:
    """What is sent before a run, as (partition, is it readable) each, and where that run is killed."""

    events: list[tuple[int, bool]]
    cut: str | None


rounds = st.lists(
    st.builds(
        Round,
        st.lists(st.tuples(st.integers(0, PARTITIONS - 1), st.sampled_from([True, True, True, False])), max_size=40),
        st.none() | st.builds("{}:{}".format, st.sampled_from(CUTS), st.integers(1, 3)) | st.sampled_from(CUTS),
    ),
    min_size=1,
    max_size=4,
)


def send(made: Stream, events: list[tuple[int, bool]], first: int) -> dict[int, list[int]]:
    """Append events numbered from `first`, some of them no JSON; return the numbers by partition of those that are."""
    sent: dict[int, list[int]] = {}
    for number, (partition, readable) in enumerate(events, first):
        event = json.dumps({"id": number, "name": f"event {number}"})
        made.append(event.encode() if readable else b"no event", partition=partition)
        if readable:
            sent.setdefault(partition, []).append(number)
    return sent


def order_holds(stream: Callable[..., Stream], played: list[Round]) -> None:
    made = stream(PARTITIONS)
    read: dict[str, Any] = {
        "errors": {"dead_letter": {"fail_above": 1}},
        "transforms": STEPS,
        "limits": {"linger": "10ms"},
    }
    read["source"] = {
        "connection": "bus",
        "object": made.topic.name,
        "format": {"type": "jsonl", "columns": {"id": "bigint", "name": "text"}},
    }
    sent: dict[int, list[int]] = {part: [] for part in range(PARTITIONS)}
    count = dead = 0
    for attempt, played_round in enumerate(played, 1):
        for part, numbers in send(made, played_round.events, count).items():
            sent[part] += numbers
        count += len(played_round.events)
        dead += sum(not readable for _, readable in played_round.events)
        made.drained("r1", f"{played_round.cut}=kill" if played_round.cut else None, attempt=attempt, **read)
    assert made.drained("r2", **read)["status"] == "completed"
    written = made.ids()
    for part, numbers in sent.items():
        kept = [number for number in numbers if number % 7 != 3]
        assert [number for number in written if number in set(numbers)] == kept, f"partition {part}"
    assert made.dead() == dead


@settings(relaxed, max_examples=6)
@given(played=rounds)
def test_property_10_events_within_a_partition_keep_their_order(
    stream: Callable[..., Stream], played: list[Round]
) -> None:
    order_holds(stream, played)


@pytest.mark.chaos
@pytest.mark.timeout(1800)
@settings(relaxed, max_examples=200)
@given(played=rounds)
def test_property_10_events_within_a_partition_keep_their_order_at_length(
    stream: Callable[..., Stream], played: list[Round]
) -> None:
    order_holds(stream, played)


versions = st.lists(
    st.tuples(st.permutations(["id", "name", "price", "note", "tags"]), st.sets(st.sampled_from(["note", "tags"]))),
    min_size=1,
    max_size=4,
)
"""Versions of an event's schema: the order of its fields, and which of the optional ones it lacks."""
VALUES: dict[str, Any] = {"name": "a name", "price": 1, "note": None, "tags": ["a", "b"]}


@settings(relaxed, max_examples=5)
@given(found=versions, additive=st.sampled_from(["apply", "ignore"]))
def test_property_17_backward_compatible_changes_do_not_interrupt_a_stream(
    stream: Callable[..., Stream], found: list[tuple[list[str], set[str]]], additive: str
) -> None:
    made = stream()
    made.send(0)
    task = made.task(schema={"additive": additive})
    pid = made.launchers.start(task)
    made.until(1)
    for number, (fields, lacking) in enumerate(found, 1):
        event = {name: number if name == "id" else VALUES[name] for name in fields if name not in lacking}
        made.append(json.dumps(event).encode())
        made.until(number + 1)
    assert made.stop(pid, task)["error"]["what"] == "the run was asked to stop"
    assert made.ids() == list(range(len(found) + 1))
    assert made.drained("r2", schema={"additive": additive})["status"] == "completed"
    assert made.dead() == 0
