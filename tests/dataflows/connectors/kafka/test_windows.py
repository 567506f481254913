"""Streams with steps that remember rows, from real topics: their state is part of the position."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from confluent_kafka import Producer

from dataflows.runs.job import Job
from dataflows.runs.planning import plan
from dataflows.runs.survey import opened
from penstock.errors import Refused
from tests.dataflows.connectors.conftest import MISSING
from tests.dataflows.connectors.kafka.conftest import DATABASES, WAIT, Stream

pytestmark = pytest.mark.xdist_group("kafka")

LONG = (pytest.mark.chaos, pytest.mark.timeout(1800))
BEGIN = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
FORM = {
    "type": "jsonl",
    "columns": {"id": "bigint", "shop": "text", "at": "timestamptz", "price": "numeric(12,2)"},
}
WINDOW = {
    "time": "at",
    "every": "1m",
    "by": ["shop"],
    "aggregates": {"id": "min(id)", "n": "count", "total": "sum(price)", "most": "max(price)"},
    "lateness": "10s",
}


def event(number: int, second: float, chance: random.Random) -> bytes:
    at = datetime.fromtimestamp(BEGIN + second, UTC).isoformat(timespec="milliseconds")
    price = f"{chance.randrange(10_000) / 100:.2f}"
    return json.dumps({"id": number, "shop": f"s{number % 3}", "at": at, "price": price}).encode()


def spec(made: Stream, *steps: dict[str, Any], **more: Any) -> dict[str, Any]:
    source = {"connection": "bus", "object": made.topic, "format": FORM}
    errors = {"dead_letter": {"fail_above": 1}}
    return {"source": source, "transforms": list(steps), "errors": errors, **more}


def letters_of(made: Stream) -> list[tuple[str, int]]:
    """Return code and id of each dead letter."""
    query = "SELECT code, values FROM ops.dead_letters WHERE pipeline = %s ORDER BY split, row"
    with psycopg.connect(made.letters or "") as session:
        return [(code, values["id"]) for code, values in session.execute(query, (made.uid,))]


def drained(made: Stream, attempt: int = 1, run: str = "r1", **changes: Any) -> dict[str, Any]:
    """Run until everything that was sent is written; return the result."""
    drain = made.folder / f"drain-{made.topic}"
    drain.touch()
    return made.launchers.run(made.task(run, attempt, **changes) | {"drain": str(drain)})


def test_a_window_is_written_once_it_is_over(stream: Callable[..., Stream]) -> None:
    made = stream()
    chance = random.Random(1)
    made.kafka.send(made.topic, *(event(number, number, chance) for number in range(75)), partition=0)
    rules = spec(made, {"name": "minutes", "window": WINDOW})
    assert drained(made, **rules)["counters"]["rows_out"] == 3
    made.kafka.send(made.topic, event(200, 200, chance), partition=0)
    drained(made, run="r2", **rules)
    rows = made.rows(f"SELECT shop, window_start, window_end, n FROM {made.target} ORDER BY 2, 1")
    assert [(shop, begin.minute, n) for shop, begin, _, n in rows] == [
        ("s0", 0, 20), ("s1", 0, 20), ("s2", 0, 20), ("s0", 1, 5), ("s1", 1, 5), ("s2", 1, 5),
    ]  # fmt: skip


def progressed(made: Stream, messages: int) -> None:
    """Wait until so many messages are committed."""
    end = time.monotonic() + WAIT
    while sum(at["offset"] for at in positions(made)) < messages:
        assert time.monotonic() < end
        time.sleep(0.01)


def positions(made: Stream) -> list[dict[str, Any]]:
    try:
        return list(made.positions().values())
    except MISSING:
        return []


KINDS: dict[str, dict[str, Any]] = {
    "tumbling": {"every": "5s"},
    "sliding": {"every": "5s", "size": "15s"},
    "session": {"every": None, "gap": "2s"},
}
SQL = {
    "tumbling": "SELECT shop, floor(s / 5) * 5 AS b, floor(s / 5) * 5 + 5 AS e, price FROM sent",
    "sliding": "SELECT shop, floor(s / 5) * 5 - k AS b, floor(s / 5) * 5 - k + 15 AS e, price"
    " FROM sent, unnest(ARRAY[0, 5, 10]) k",
    "session": """SELECT shop, min(s) OVER w AS b, max(s) OVER w + 2 AS e, price FROM (
        SELECT *, sum(new) OVER (PARTITION BY shop ORDER BY s, id) AS n FROM (
            SELECT *, (s - lag(s) OVER (PARTITION BY shop ORDER BY s, id) < 2) IS NOT TRUE AS new_ FROM sent) a
            CROSS JOIN LATERAL (SELECT new_::int AS new) b) c WINDOW w AS (PARTITION BY shop, n)""",
}
"""For each row of `sent` the windows that it is in: key, begin, end, and its value."""


@pytest.mark.parametrize(
    ("kind", "times"),
    [
        ("tumbling", 5),
        *(pytest.param(kind, 50 if kind == "tumbling" else 10, marks=LONG) for kind in KINDS),
    ],
)
def test_windows_equal_sql_however_often_the_stream_is_killed(
    stream: Callable[..., Stream], kind: str, times: int
) -> None:
    """Rows that are late are in the dead letters; all others are in the windows, as SQL makes them of the whole."""
    made = stream(2)
    chance, second = random.Random(times), 0.0
    lateness = "30s" if kind == "session" else "1s"
    window = {name: one for name, one in (WINDOW | KINDS[kind]).items() if one is not None}
    rules = spec(made, {"name": "w", "window": window | {"lateness": lateness, "idle": "1h", "ahead": "9000d"}})
    sent: dict[int, tuple[str, float, str]] = {}
    for attempt in range(1, times + 1):
        before = len(sent)
        task = made.task("r1", attempt, **rules)
        pid = made.launchers.start(task)
        for _ in range(3):
            for part in (0, 1):
                values = []
                for _ in range(60):
                    second += 0.05
                    back = chance.choice([0, 0, 0, 0, 1, 4, 60])
                    values.append(event(len(sent), round(second - back, 3), chance))
                    data = json.loads(values[-1])
                    at = datetime.fromisoformat(data["at"]).timestamp() - BEGIN
                    sent[data["id"]] = data["shop"], round(at, 3), data["price"]
                made.kafka.send(made.topic, *values, partition=part)
            time.sleep(chance.uniform(0, 0.1))
        progressed(made, chance.randint(before + 1, len(sent) - 60))
        os.kill(pid, signal.SIGKILL)
        assert made.launchers.wait(pid, WAIT) == {"code": -9}
    for part in (0, 1):
        made.kafka.send(made.topic, event(-1 - part, second + 100, chance), partition=part)
    result = drained(made, times + 1, **rules)
    assert result["status"] == "completed", result
    late = letters_of(made)
    assert {code for code, _ in late} <= {"late"}
    assert len({id_ for _, id_ in late}) == len(late), "each once"
    assert kind == "session" or len(late) > 0
    with psycopg.connect(made.lake.connection["dsn"]) as session:
        session.execute("CREATE TEMP TABLE sent (id bigint, shop text, s numeric, price numeric)")
        with session.cursor() as cursor, cursor.copy("COPY sent FROM STDIN") as copy:
            for id_, (shop, at, price) in sent.items():
                if id_ not in {one for _, one in late}:
                    copy.write_row((id_, shop, at, price))
        wanted = session.execute(
            f"SELECT shop, to_timestamp({BEGIN} + b), to_timestamp({BEGIN} + e), count(*), sum(price), max(price)"
            f" FROM ({SQL[kind]}) x GROUP BY 1, 2, 3 ORDER BY 1, 2"
        ).fetchall()
        got = session.execute(
            f"SELECT shop, window_start, window_end, n, total, most FROM {made.target} ORDER BY 1, 2"
        ).fetchall()
    assert got == wanted
    if kind != "sliding":
        assert sum(row[3] for row in got) + len(late) == len(sent)


@pytest.mark.parametrize(
    "point",
    [
        "commit.before_fence",
        "commit.sent",
        *(pytest.param(one, marks=LONG) for one in ("commit.copied", "commit.done")),
    ],
)
def test_a_kill_inside_a_commit_keeps_state_and_rows_together(stream: Callable[..., Stream], point: str) -> None:
    made = stream()
    chance = random.Random(3)
    once = {"name": "once", "deduplicate": {"by": ["id"], "within": "1h", "time": "at"}}
    rules = spec(made, once, {"name": "minutes", "window": WINDOW})
    numbers = [*range(100), *range(50, 140)]
    made.kafka.send(made.topic, *(event(number, number, chance) for number in numbers), partition=0)
    assert made.launchers.run(made.task(**rules), f"{point}=kill") == {"killed": 9}
    made.kafka.send(made.topic, *(event(number, number, chance) for number in range(90, 250)), partition=0)
    drained(made, 2, **rules)
    rows = made.rows(f"SELECT window_start, sum(n)::int FROM {made.target} GROUP BY 1 ORDER BY 1")
    assert [(begin.minute, n) for begin, n in rows] == [(0, 60), (1, 60), (2, 60)]


def test_a_zombie_changes_no_state_after_its_successor(stream: Callable[..., Stream]) -> None:
    made = stream()
    chance = random.Random(17)
    rules = spec(made, {"name": "minutes", "window": WINDOW})
    made.kafka.send(made.topic, *(event(number, number, chance) for number in range(100)), partition=0)
    task = made.task(**rules)
    zombie = made.launchers.start(task, "commit.copied:2=stop")
    progressed(made, 100)
    made.kafka.send(made.topic, *(event(number, number, chance) for number in range(100, 200)), partition=0)
    assert made.launchers.wait(zombie, WAIT) == {"stopped": True}
    drained(made, run="r2", **rules)
    assert made.launchers.woken(zombie, task)["status"] == "fenced"
    made.kafka.send(made.topic, event(300, 300, chance), partition=0)
    drained(made, run="r3", **rules)
    rows = made.rows(f"SELECT window_start, sum(n)::int FROM {made.target} GROUP BY 1 ORDER BY 1")
    assert [(begin.minute, n) for begin, n in rows] == [(0, 60), (1, 60), (2, 60), (3, 20)]


def test_rows_that_the_target_refuses_leave_the_state_as_it_was(stream: Callable[..., Stream]) -> None:
    made = stream()
    chance = random.Random(5)
    made.rows(
        f"CREATE TABLE {made.target} (shop text CHECK (shop <> 's1'), window_start timestamptz, window_end timestamptz,"
        " id bigint, n bigint, total numeric, most numeric)"
    )
    rules = spec(made, {"name": "minutes", "window": WINDOW})
    for begin in (0, 100):
        made.kafka.send(made.topic, *(event(one, one, chance) for one in range(begin, begin + 100)), partition=0)
        drained(made, run=f"r{begin}", **rules)
    rows = made.rows(f"SELECT window_start, shop, n FROM {made.target} ORDER BY 1, 2")
    assert [(begin.minute, shop, n) for begin, shop, n in rows] == [
        (minute, shop, 20) for minute in (0, 1, 2) for shop in ("s0", "s2")
    ]
    with psycopg.connect(made.letters or "") as session:
        query = "SELECT step, code, values FROM ops.dead_letters WHERE pipeline = %s ORDER BY split, row"
        found = session.execute(query, (made.uid,)).fetchall()
    assert [(step, code, values["shop"], values["n"]) for step, code, values in found] == [
        ("target", "23514", "s1", 20)
    ] * 3


def test_the_state_of_a_changed_step_is_refused_until_the_stream_begins_anew(stream: Callable[..., Stream]) -> None:
    made = stream()
    chance = random.Random(7)
    made.kafka.send(made.topic, *(event(number, number, chance) for number in range(100)), partition=0)
    drained(made, **spec(made, {"name": "minutes", "window": WINDOW}))
    changed = spec(made, {"name": "minutes", "window": WINDOW | {"every": "30s"}})
    result = drained(made, run="r2", **changed)
    assert "has been changed" in result["error"]["what"]
    result = drained(made, run="r3", **spec(made, {"name": "halves", "window": WINDOW}))
    assert "step `minutes` is not there any more" in result["error"]["what"]
    begin = {"begin": {"from": "earliest", "reset": True}}
    drain = {"drain": str(made.folder / f"drain-{made.topic}")}
    assert made.launchers.run(made.task("r4", **changed) | begin | drain)["status"] == "completed"
    rows = made.rows(f"SELECT window_end - window_start, sum(n)::int FROM {made.target} GROUP BY 1 ORDER BY 1")
    assert [(length.total_seconds(), n) for length, n in rows] == [(30, 60), (60, 60)]


@pytest.mark.parametrize("into", [pytest.param(one, marks=LONG) if one == "duckdb" else one for one in DATABASES])
def test_other_databases_keep_the_state_of_windows_too(stream: Callable[..., Stream], into: str) -> None:
    made = stream(into=into)
    chance = random.Random(11)
    rules = spec(made, {"name": "minutes", "window": WINDOW})
    made.kafka.send(made.topic, *(event(number, number, chance) for number in range(100)), partition=0)
    drained(made, **rules)
    made.kafka.send(made.topic, *(event(number, number, chance) for number in range(100, 150)), partition=0)
    drain = {"drain": str(made.folder / f"drain-{made.topic}")}
    assert made.launchers.run(made.task("r2", **rules) | drain, "commit.before_fence=kill") == {"killed": 9}
    made.kafka.send(made.topic, event(200, 200, chance), partition=0)
    drained(made, 2, "r2", **rules)
    found = made.rows(f"SELECT shop, n, id FROM {made.target}")
    assert sorted((str(shop), int(n), int(id_)) for shop, n, id_ in found) == [
        ("s0", 10, 120), ("s0", 20, 0), ("s0", 20, 60), ("s1", 10, 121), ("s1", 20, 1), ("s1", 20, 61),
        ("s2", 10, 122), ("s2", 20, 2), ("s2", 20, 62),
    ]  # fmt: skip


@pytest.mark.parametrize("into", ["files", "kafka"])
def test_a_sink_without_a_place_for_the_state_is_refused_at_plan(stream: Callable[..., Stream], into: str) -> None:
    made = stream(into=into)
    made.kafka.send(made.topic, event(1, 1, random.Random(1)), partition=0)
    job = Job.from_task(made.task(**spec(made, {"name": "minutes", "window": WINDOW})), secrets=made.folder)
    with opened(job) as ends, pytest.raises(Refused, match="step `minutes` remembers rows, and"):
        plan(job, ends)


def test_a_lookup_of_a_stream_is_read_again(stream: Callable[..., Stream]) -> None:
    made = stream()
    made.rows(f"CREATE TABLE w.shops_{made.number} AS SELECT 's0' AS shop, 'old' AS city")
    lookup = {
        "connection": "lake",
        "object": f"w.shops_{made.number}",
        "on": {"shop": "shop"},
        "take": {"city": "city"},
    }
    rules = spec(made, {"name": "city", "lookup": lookup | {"refresh": "1s"}})
    chance = random.Random(13)
    made.kafka.send(made.topic, event(0, 0, chance), partition=0)
    task = made.task(**rules)
    pid = made.launchers.start(task)
    made.until(1)
    made.rows(f"UPDATE w.shops_{made.number} SET city = 'new'")
    time.sleep(1.1)
    made.kafka.send(made.topic, event(3, 0, chance), partition=0)
    made.until(2)
    made.rows(f"ALTER TABLE w.shops_{made.number} ALTER city TYPE varchar(9)")
    time.sleep(1.1)
    made.kafka.send(made.topic, event(6, 0, chance), partition=0)
    error = made.launchers.ended(pid, task)["error"]
    assert (error["transient"], "the type of `city`" in error["what"]) == (True, True)
    assert drained(made, 2, **rules)["status"] == "completed"
    assert made.rows(f"SELECT city FROM {made.target} ORDER BY id") == [("old",), ("new",), ("new",)]


def test_the_end_of_a_transaction_holds_no_window_back(stream: Callable[..., Stream]) -> None:
    """The offsets at which a transaction ends have no message, so that a partition looks as if it had more."""
    made = stream(partitions=2)
    chance = random.Random(3)
    producer = Producer({"bootstrap.servers": made.kafka.bootstrap, "transactional.id": made.topic})
    producer.init_transactions(30)
    for number, end in ((0, producer.commit_transaction), (1, producer.abort_transaction)):
        producer.begin_transaction()
        producer.produce(made.topic, event(number, 1, chance), partition=1)
        producer.flush()
        end(30)
    rules = spec(made, {"name": "minutes", "window": WINDOW | {"by": [], "idle": "1s"}})
    task = made.task(**rules)
    pid = made.launchers.start(task)
    until = time.monotonic() + WAIT
    number = 0
    while not made.ids() and time.monotonic() < until:
        made.kafka.send(made.topic, event(1 + number, number * 60, chance), partition=0)
        number += 1
        time.sleep(0.3)
    shown = made.stop(pid, task)
    assert made.rows(f"SELECT n FROM {made.target} ORDER BY window_start LIMIT 1") == [(2,)], shown
    assert made.positions()[f"{made.topic}/1"]["offset"] == 4
