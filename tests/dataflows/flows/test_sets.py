"""A set whose tables come, go and change while its processes are killed and its members fail."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any

import psycopg
import pytest

from dataflows.runs.comparison import compare
from dataflows.runs.job import Job
from dataflows.runs.survey import opened
from penstock import postgres
from penstock.ids import new_id
from tests.agents.control_plane import pipeline_set
from tests.dataflows.flows.installation import Flow, Installation, until

FLOWS = ("control", "projector", "scheduler")


@dataclass
class Churn:
    """A set over schema `s` of a database into its schema `raw`, and a model of what happens to its tables."""

    installation: Installation
    session: psycopg.Connection[Any]
    dsn: str
    chance: random.Random
    patience: float = 240.0
    """Seconds to wait for what was asked for: many runs wait for one another."""
    tables: dict[str, set[str]] = field(default_factory=dict)
    """All names that each table has had, by the one that it has now."""
    members: dict[str, str] = field(default_factory=dict)
    """The first names of tables that were members when they were renamed, by the name that they have now."""
    broken: set[str] = field(default_factory=set)
    excluded: set[str] = field(default_factory=set)
    ever_excluded: set[str] = field(default_factory=set)
    single: str | None = None
    """The table that has an entry in `tables` of the set's file."""
    ever_single: set[str] = field(default_factory=set)
    ever_renamed: set[str] = field(default_factory=set)
    flows: dict[str, Flow] = field(default_factory=dict)
    _numbers: Iterator[int] = field(default_factory=lambda: count(1))

    def sql(self, *statements: str) -> None:
        for statement in statements:
            self.session.execute(statement.encode())

    # --- what happens

    def create(self) -> None:
        number = next(self._numbers)
        name = f"t{number} Ö{{x}}" if number % 5 == 0 else f"t{number}"
        key = "" if number % 7 == 0 else " PRIMARY KEY"
        self.sql(f'CREATE TABLE s."{name}" (id bigint{key}, note text)')
        self.sql(f'INSERT INTO s."{name}" SELECT n, $$a$$ || n FROM generate_series(1, 40) n')
        self.tables[name] = {name}

    def drop(self) -> None:
        if len(self.tables) > 3:
            name = self.pick()
            self.sql(f'DROP TABLE s."{name}"')
            del self.tables[name]

    def rename(self) -> None:
        old, new = self.pick(), f"r{next(self._numbers)}"
        is_member = old in self.members or f"all/s.{old}" in self.created()
        self.sql(f'ALTER TABLE s."{old}" RENAME TO "{new}"')
        self.tables[new] = self.tables.pop(old) | {new}
        self.ever_renamed |= self.tables[new]
        if is_member:
            self.members[new] = self.members.pop(old, old)

    def alter(self) -> None:
        name, column = self.pick(), f"c{next(self._numbers)}"
        self.sql(f'ALTER TABLE s."{name}" ADD COLUMN {column} int')
        self.sql(f'UPDATE s."{name}" SET {column} = id % 3 WHERE id % 2 = 0')

    def write(self) -> None:
        name = self.pick()
        self.sql(f'INSERT INTO s."{name}" (id, note) SELECT max(id) + 1, $$new$$ FROM s."{name}"')
        self.sql(f"UPDATE s.\"{name}\" SET note = note || '+' WHERE id % 10 = {self.chance.randrange(10)}")

    def break_one(self) -> None:
        """Let the target of a member take no row."""
        table = self.pick()
        name = self.members.get(table, table)
        if (self.session.execute("SELECT to_regclass(%s)", (f'raw."{name}"',)).fetchone() or (None,))[0]:
            self.sql("SET lock_timeout = '3s'")
            try:
                self.sql(f'ALTER TABLE raw."{name}" ADD CONSTRAINT broken CHECK (false) NOT VALID')
            except psycopg.errors.Error:  # a run replaces the table, or has done so just now
                return
            self.broken.add(name)

    def mend(self) -> None:
        for name in self.broken:
            self.sql(f'ALTER TABLE IF EXISTS raw."{name}" DROP CONSTRAINT IF EXISTS broken')
        self.broken = set()

    def kill(self) -> None:
        name = self.chance.choice(list(self.flows))
        self.flows[name].kill()
        self.flows[name] = self.installation.start(*(FLOWS if name == "control" else (name,)))

    def change(self) -> None:
        """Exclude a table, take it in again, or give one table a limit of its own."""
        if self.excluded:
            self.excluded = set()
        elif self.chance.random() < 0.5:
            self.excluded = {name := self.pick()}
            self.ever_excluded |= self.tables[name]
        else:
            self.single = self.pick()
            self.ever_single |= self.tables[self.single]
        self.apply()

    def start(self) -> None:
        self.installation.send("run.start", pipeline="all")

    # --- the set

    def pick(self) -> str:
        return self.chance.choice(sorted(self.tables))

    def apply(self) -> None:
        tables = {} if self.single is None else {f"s.{self.single}": {"limits": {"batch_rows": 1000}}}
        document = pipeline_set(
            "all",
            "s.*",
            source={"except": [f"s.{one}" for one in sorted(self.excluded)]},
            sink={"object": "raw.{table}", "write": "merge", "key": "auto"},
            schema={"additive": "apply", "tables": "apply"},
            errors={"retry": {"base": "200ms", "max": "1s", "attempts": 2}},
            **({"tables": tables} if tables else {}),
        )
        self.installation.send("pipeline.apply", pipeline=document)

    def settled(self) -> None:
        """Wait until everything that was asked for has been done."""
        self.installation.all_answered(self.patience)

        def idle() -> bool:
            ended = {one.key for one in self.installation.of("run.finished")}
            listed = {one.payload["task"] for one in self.installation.of("set.listed") if one.payload["last"]}
            queued = [one.payload["task"] for one in self.installation.of("task.queued")]
            closed = {one.key for type_ in ("task.closed", "task.cancelled") for one in self.installation.of(type_)}
            lists = {one["id"] for one in queued if one["kind"] == "list"}
            return {one.key for one in self.installation.of("run.created")} <= ended and lists <= listed | closed

        until(idle, "all runs to end", self.patience)

    def run_all(self) -> dict[str, str]:
        """Run the set until each table had a run of the same start; return their status by the name of the table."""
        for _ in range(5):  # runs of a start before may still be open, whose members are skipped then
            group = until(self.begun, "the starts before to end", self.patience)
            until(partial(self.is_started, group), "the runs to be queued", self.patience)
            self.settled()
            runs = [one.payload["run"] for one in self.installation.of("run.finished")]
            found = {one["pipeline"]: one["status"] for one in runs if one.get("group") == group}
            if len(found) >= len(self.tables):
                break
        reads = {name: one["pipeline"]["spec"]["source"]["object"] for name, one in self.made().items()}
        return {reads[name].removeprefix("s."): status for name, status in found.items()}

    def begun(self) -> str | None:
        """Start the set; return the group of its runs, or None while it is still starting."""
        id_ = self.installation.send("run.start", pipeline="all")
        (answer,) = until(lambda: self.installation.answers().get(id_), "the answer", self.patience)
        return answer.payload["result"]["group"] if answer.type == "command.applied" else None

    def is_started(self, group: str) -> bool:
        started = self.installation.of("set.started")
        return any(one.payload["group"] == group and one.payload["last"] for one in started)

    # --- at the end

    def created(self) -> set[str]:
        return {one.key for one in self.installation.of("pipeline.created")}

    def made(self) -> dict[str, Any]:
        """Return the last version of each pipeline."""
        made = {one.payload["name"]: one.payload for one in self.installation.of("pipeline.created")}
        made |= {one.payload["name"]: one.payload for one in self.installation.of("pipeline.updated")}
        return made

    def check_rows(self) -> None:
        """Compare both sides of each member, as `penstock check` does."""
        there = {"type": "postgres", "dsn": self.dsn}
        of_set = {name: one for name, one in self.made().items() if name != "all"}
        for name, names in sorted(self.tables.items()):
            reading = [one for one in of_set.values() if one["pipeline"]["spec"]["source"]["object"] == f"s.{name}"]
            (one,) = reading
            first = one["name"].removeprefix("all/s.")
            assert first in names
            assert first == self.members.get(name, first), "it was renamed, and goes on"
            assert one["pipeline"]["spec"]["sink"]["object"] == f"raw.{first}"
            task = {"run": new_id(), "uid": one["uid"], "pipeline": one["pipeline"]}
            task |= {"connections": {"shop": there, "house": there}}
            job = Job.from_task(task)
            with opened(job) as ends:
                found = compare(job, ends)
            assert found.agree, (name, found)
            assert found.source_rows >= 40

    def check_reasons(self) -> None:
        """Assert that members were only changed by what the set's file says of them, and ran once a start."""
        records = self.installation.records()
        changed = {one.key for one in records if one.type == "pipeline.updated"} - {"all"}
        assert changed <= {f"all/s.{one}" for one in self.ever_single | self.ever_renamed}
        stopped = [one for one in records if one.type == "pipeline.status_changed"]
        assert {one.key for one in stopped} <= {f"all/s.{one}" for one in self.ever_excluded}
        made = [one.key for one in records if one.type == "pipeline.created"]
        assert len(made) == len(set(made))
        runs = [one.payload["run"] for one in records if one.type == "run.created"]
        starts = [(one["group"], one["pipeline"]) for one in runs if "group" in one]
        assert len(starts) == len(set(starts))


@pytest.fixture
def churn(installation: Installation, fresh: Callable[[], str], request: pytest.FixtureRequest) -> Iterator[Churn]:
    dsn = fresh()
    with postgres.connect(dsn, "tests") as session:
        session.execute("CREATE SCHEMA s; CREATE SCHEMA raw")
        made = Churn(installation, session, dsn, random.Random(getattr(request, "param", 7)))
        made.flows = {"control": installation.start(*FLOWS), "worker": installation.start("worker")}
        for name in ("shop", "house"):
            installation.done("connection.put", name=name, connection={"type": "postgres", "dsn": dsn})
        yield made


def churned(churn: Churn, tables: int, seconds: float, pause: float, fresh: str) -> None:
    """Let things happen to a set for a time; then assert that nothing is lost, and that nothing was touched in vain."""
    for _ in range(tables):
        churn.create()
    churn.apply()
    churn.start()
    kinds = [
        churn.create, churn.drop, churn.rename, churn.alter, churn.write, churn.write, churn.break_one, churn.mend,
        churn.kill, churn.change, churn.start, churn.start,
    ]  # fmt: skip
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        churn.chance.choice(kinds)()
        time.sleep(churn.chance.uniform(0, 2 * pause))
    churn.mend()
    churn.excluded = set()
    churn.apply()
    churn.settled()
    churn.rename()
    assert churn.run_all() == dict.fromkeys(churn.tables, "completed")
    churn.check_rows()
    churn.check_reasons()
    churn.installation.check_answers()
    churn.installation.projected()
    churn.installation.check_catalog(fresh)


def test_a_set_survives_whatever_happens_to_its_tables(churn: Churn, fresh: Callable[[], str]) -> None:
    churned(churn, 12, 8, 0.3, fresh())


@pytest.mark.chaos
@pytest.mark.parametrize("churn", [random.randrange(10**6)], indirect=True)
def test_a_large_set_survives_ten_minutes_of_it(churn: Churn, fresh: Callable[[], str]) -> None:
    churn.patience = 1800.0
    churned(churn, 200, 600, 0.5, fresh())
