"""A machine of runs and schema edits: harmless edits stop nothing, breaking ones pause exactly what they touch."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from agents.policies import Policies
from agents.protocol import Cause
from agents.repairs import repaired
from dataflows.runs import comparison
from dataflows.runs.job import Job
from dataflows.runs.survey import opened
from penstock.records import Record
from tests.dataflows.conftest import Copy, Launchers, result

RULES = {"additive": "apply", "types": "apply", "lost": "pause", "renames": "pause"}
TABLES = ("one", "two")
HARMLESS = {
    "add": "ALTER TABLE {t} ADD {new} text",
    "add_default": "ALTER TABLE {t} ADD {new} integer NOT NULL DEFAULT 5",
    "widen": "ALTER TABLE {t} ALTER size TYPE bigint, ALTER price TYPE numeric(12,4), ALTER name TYPE text",
    "drop_not_null": "ALTER TABLE {t} ALTER name DROP NOT NULL, ALTER size DROP NOT NULL",
    "reorder": (
        "BEGIN; ALTER TABLE {t} ADD {new} text; UPDATE {t} SET {new} = note; ALTER TABLE {t} DROP note; "
        "ALTER TABLE {t} RENAME {new} TO note; COMMIT"
    ),
    "comment": "COMMENT ON TABLE {t} IS '{new}'; COMMENT ON COLUMN {t}.name IS '{new}'",
    "index": "CREATE INDEX ON {t} (name)",
    "default": "ALTER TABLE {t} ALTER note SET DEFAULT '{new}'",
}
BREAKING = {
    "rename": ("ALTER TABLE {t} RENAME {c} TO {c}_of_it", "ALTER TABLE {t} RENAME {c}_of_it TO {c}"),
    "drop": (
        "DROP TABLE IF EXISTS kept_{t}; CREATE TABLE kept_{t} AS SELECT id, {c} FROM {t}; ALTER TABLE {t} DROP {c}",
        "ALTER TABLE {t} ADD {c} text; UPDATE {t} SET {c} = k.{c} FROM kept_{t} k WHERE k.id = {t}.id",
    ),
    "retype": (
        "ALTER TABLE {t} ALTER {c} DROP DEFAULT, ALTER {c} TYPE bytea USING {c}::bytea",
        "ALTER TABLE {t} ALTER {c} TYPE text USING convert_from({c}, 'UTF8')",
    ),
}
"""How a column is broken, and how it is restored, with its values."""
CUTS = ("prepare.begin", "prepare.state_made", "prepare.before_plan", "prepare.planned", "read.begin", "commit.begin")


@dataclass
class Flow:
    """A pipeline of the machine; `reads` are the columns that it names, None for all."""

    copy: Copy
    table: str
    reads: frozenset[str] | None = None
    paused: bool = False
    runs: int = 0
    spec: dict[str, Any] = field(default_factory=dict)

    def task(self, *, again: bool = False) -> dict[str, Any]:
        self.runs += not again
        made = self.copy.task(f"r{self.runs}", attempt=2 if again else 1)
        made["pipeline"]["spec"] |= {"schema": RULES, **self.spec}
        made["pipeline"]["spec"]["source"]["object"] = f"public.{self.table}"
        if self.copy.write == "merge":
            made["pipeline"]["spec"]["sink"] |= {"key": ["id"]}
            made["pipeline"]["spec"]["source"]["cursor"] = {"field": "id", "ordered": True}
        return made


def pauses(result: dict[str, Any]) -> bool:
    """Return what the lifecycle agent decides about a failed run: True if it pauses the pipeline."""
    name, run = "items", {"id": "r", "pipeline": "items", "version": 1, "status": "failed"}
    record = Record(
        type="run.finished", key="r", at=datetime(2026, 1, 1, tzinfo=UTC), actor="test",
        payload={"run": run, "error": result["error"]},
    )  # fmt: skip
    state = {"pipelines": {name: {"uid": "u", "status": "active", "versions": [{"metadata": {}}]}}}
    found = repaired(state, Cause(1, record), Policies())
    return found is not None and found[1] == "pause"


class Evolution(RuleBasedStateMachine):
    """Four pipelines over two tables. A breaking edit of `note` or `name` is restored before the next of its table."""

    copy: Callable[..., Copy]
    launchers: Launchers

    @initialize()
    def begin(self) -> None:
        self.number, self.broken = 0, dict[str, tuple[str, str]]()
        self.flows = {
            "appends": Flow(self.copy("append"), "one"),
            "replaces": Flow(self.copy("replace"), "one"),
            "names": Flow(
                self.copy("replace"), "one", frozenset({"id", "name"}),
                spec={"transforms": [{"name": "named", "select": ["id", "name"]}]},
            ),
            "other": Flow(self.copy("merge"), "two"),
        }  # fmt: skip
        self.session: psycopg.Connection[Any] = self.flows["other"].copy.session
        for table in TABLES:
            self.session.execute(
                f"DROP TABLE IF EXISTS {table}, kept_{table}; CREATE TABLE {table} (id bigserial PRIMARY KEY, "
                "name varchar(40) NOT NULL, size integer NOT NULL DEFAULT 7, price numeric(8,2), note text)"
            )
            self._insert(table, 30)
        for flow in self.flows.values():
            self.session.execute(f"DROP TABLE {flow.copy.target}")
            assert self.launchers.run(flow.task())["status"] == "completed"

    def _insert(self, table: str, rows: int) -> None:
        columns = "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped"
        there = {name for (name,) in self.session.execute(columns, (table,))}
        given = [one for one in ("name", "note") if one in there and self.broken.get(table, ("", ""))[1] != one]
        names = ", ".join(["price", *given])
        values = ", ".join(["g", *(f"'{one} ' || g" for one in given)])
        self.session.execute(f"INSERT INTO {table} ({names}) SELECT {values} FROM generate_series(1, {rows}) g")

    @rule(table=st.sampled_from(TABLES), rows=st.integers(1, 20))
    def insert(self, table: str, rows: int) -> None:
        if self.broken.get(table, ("", ""))[1] != "name":
            self._insert(table, rows)

    @rule(table=st.sampled_from(TABLES))
    def insert_null(self, table: str) -> None:
        """Insert a row with NULL in each column that may have it."""
        query = (
            "SELECT bool_and(NOT attnotnull) FROM pg_attribute WHERE attrelid = %s::regclass "
            "AND attname IN ('name', 'size')"
        )
        if table not in self.broken and self.session.execute(query, (table,)).fetchone() == (True,):
            self.session.execute(f"INSERT INTO {table} (name, size) VALUES (NULL, NULL)")

    def _harmless(self, table: str, edit: str) -> str:
        self.number += 1
        return HARMLESS[edit].format(t=table, new=f"x{self.number}")

    def _allowed(self, table: str, edit: str) -> bool:
        return table not in self.broken or edit in {"add", "add_default", "index"}

    @rule(table=st.sampled_from(TABLES), edit=st.sampled_from(sorted(HARMLESS)))
    def edit(self, table: str, edit: str) -> None:
        if self._allowed(table, edit) and not (edit == "index" and table in self.broken):
            self.session.execute(self._harmless(table, edit))

    @rule(
        table=st.sampled_from(TABLES), how=st.sampled_from(sorted(BREAKING)), column=st.sampled_from(["name", "note"])
    )
    def break_(self, table: str, how: str, column: str) -> None:
        if table not in self.broken:
            self.broken[table] = (how, column)
            self.session.execute(BREAKING[how][0].format(t=table, c=column))

    @rule(table=st.sampled_from(TABLES))
    def restore(self, table: str) -> None:
        if table in self.broken:
            how, column = self.broken.pop(table)
            self.session.execute(BREAKING[how][1].format(t=table, c=column))
            for flow in self.flows.values():
                flow.paused = flow.paused and flow.table != table

    def _is_touched(self, flow: Flow) -> bool:
        broken = self.broken.get(flow.table)
        return broken is not None and (flow.reads is None or broken[1] in flow.reads)

    def _judge(self, flow: Flow, found: dict[str, Any]) -> None:
        if self._is_touched(flow):
            assert found["status"] == "failed"
            assert pauses(found), found["error"]
            flow.paused = True
        else:
            assert found["status"] == "completed", (self.broken, found["error"])

    @rule(name=st.sampled_from(["appends", "replaces", "names", "other"]))
    def run(self, name: str) -> None:
        flow = self.flows[name]
        if not flow.paused:
            self._judge(flow, self.launchers.run(flow.task()))

    @rule(
        name=st.sampled_from(["appends", "replaces", "names", "other"]),
        edit=st.sampled_from(sorted(HARMLESS)),
        cut=st.sampled_from(CUTS),
    )
    def edit_in_flight(self, name: str, edit: str, cut: str) -> None:
        """Edit the table of a run that has begun; the attempt after it, if there has to be one, ends it."""
        flow = self.flows[name]
        if self._is_touched(flow) or flow.paused or not self._allowed(flow.table, edit):
            return
        task = flow.task()
        pid = self.launchers.start(task, f"{cut}=stop")
        ended = self.launchers.wait(pid)
        statement = self._harmless(flow.table, edit)
        editing = threading.Thread(target=self._in_own_session, args=(statement,))
        editing.start()
        editing.join(0.05)  # it may have to wait for the run
        found = self.launchers.woken(pid, task) if ended == {"stopped": True} else result(task)
        editing.join()
        if found["status"] != "completed":
            assert found["error"]["code"].startswith("unavailable"), found["error"]
            found = self.launchers.run(flow.task(again=True))
        self._judge(flow, found)

    def _in_own_session(self, statement: str) -> None:
        with psycopg.connect(self.flows["other"].copy.dsn, autocommit=True) as session:
            session.execute(statement)

    @invariant()
    def only_what_is_touched_is_paused(self) -> None:
        for flow in getattr(self, "flows", {}).values():
            assert not flow.paused or self._is_touched(flow)

    def teardown(self) -> None:
        """Restore what is broken; then both sides of each pipeline are equal."""
        if not hasattr(self, "flows"):
            return
        for table in TABLES:
            self.restore(table)
        for name, flow in self.flows.items():
            task = flow.task()
            found = self.launchers.run(task)
            assert found["status"] == "completed", (name, found["error"])
            job = Job.from_task(task)
            with opened(job) as ends:
                both = comparison.compare(job, ends, wait=0)
            assert both.agree, (name, both)


def machine_holds(copy: Callable[..., Copy], launchers: Launchers, examples: int, steps: int) -> None:
    made = type("Bound", (Evolution,), {"copy": staticmethod(copy), "launchers": launchers})
    limits = settings(
        max_examples=examples, stateful_step_count=steps, deadline=None, suppress_health_check=list(HealthCheck)
    )
    run_state_machine_as_test(made, settings=limits)


def test_property_17_backward_compatible_changes_do_not_interrupt_execution(
    copy: Callable[..., Copy], launchers: Launchers
) -> None:
    machine_holds(copy, launchers, 2, 14)


@pytest.mark.chaos
@pytest.mark.timeout(1800)
def test_property_17_backward_compatible_changes_do_not_interrupt_execution_at_length(
    copy: Callable[..., Copy], launchers: Launchers
) -> None:
    machine_holds(copy, launchers, 30, 40)
