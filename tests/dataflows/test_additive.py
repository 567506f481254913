"""New columns of the source: added to the target, left out, or refused, as the pipeline says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.dataflows.conftest import Copy, Launchers


@pytest.fixture
def grown(copy: Callable[..., Copy]) -> Callable[..., tuple[Copy, Callable[..., dict[str, Any]]]]:
    """Make a pipeline with a table of its own; after its first run the source gains two columns."""

    def make(write: str, rule: str | None, **spec: Any) -> Any:
        made = copy(write)
        run = made.session.execute
        run("DROP TABLE IF EXISTS growing")
        run("CREATE TABLE growing (id bigserial PRIMARY KEY, name text NOT NULL)")
        run("INSERT INTO growing (name) SELECT 'n' || g FROM generate_series(1, 300) g")
        run(f"DROP TABLE {made.target}")

        def task(run: str) -> dict[str, Any]:
            found = made.task(run)
            found["pipeline"]["spec"] |= {"schema": {"additive": rule}} if rule else {}
            found["pipeline"]["spec"] |= spec
            found["pipeline"]["spec"]["source"]["object"] = "public.growing"
            return found

        return made, task

    return make


def gain(made: Copy) -> None:
    made.session.execute("ALTER TABLE growing ADD COLUMN size numeric(8,2) NOT NULL DEFAULT 1.5, ADD COLUMN tag text")
    made.session.execute("INSERT INTO growing (name, size, tag) SELECT 'late', 7, 'x' FROM generate_series(1, 50)")


@pytest.mark.parametrize("write", ["append", "replace"])
def test_columns_are_added_if_the_rule_says_so(grown: Any, launchers: Launchers, write: str) -> None:
    made, task = grown(write, "apply")
    assert launchers.run(task("r1"))["status"] == "completed"
    gain(made)
    found = launchers.run(task("r2"))
    assert (found["status"], found["counters"]["rows_in"]) == ("completed", 50 if write == "append" else 350), found
    rows = f"SELECT count(*), count(size), sum(size), count(tag) FROM {made.target}"
    old = 0 if write == "append" else 300
    wanted = (350, 50 + old, 50 * 7 + old * 1.5, 50)
    assert made.session.execute(rows).fetchone() == wanted
    assert launchers.run(task("r3"))["status"] == "completed"


def test_a_step_sees_the_new_columns_too(grown: Any, launchers: Launchers) -> None:
    made, task = grown("append", "apply", transforms=[{"name": "loud", "set": {"loud": "upper(name)"}}])
    made.session.execute(f"CREATE TABLE {made.target} (id bigint, name text)")
    found = launchers.run(task("r1"))
    assert found["status"] == "completed", found["error"]
    assert made.value(f"SELECT count(*) FROM {made.target} WHERE loud = upper(name)") == 300


def test_killed_after_the_columns_were_added(grown: Any, launchers: Launchers) -> None:
    made, task = grown("append", "apply")
    assert launchers.run(task("r1"))["status"] == "completed"
    gain(made)
    for cut in ("prepare.before_plan", "commit.mid_copy:0"):
        assert "killed" in launchers.run(task("r2"), f"{cut}=kill")
    assert launchers.run(task("r2"))["status"] == "completed"
    assert made.value(f"SELECT count(*) FROM {made.target}") == 350


def test_columns_are_left_out_if_the_rule_says_so(grown: Any, launchers: Launchers) -> None:
    made, task = grown("append", "ignore")
    assert launchers.run(task("r1"))["status"] == "completed"
    gain(made)
    assert launchers.run(task("r2"))["counters"]["rows_out"] == 50
    query = "SELECT string_agg(attname, ' ' ORDER BY attnum) FROM pg_attribute WHERE attnum > 0 AND attrelid = "
    assert made.value(f"{query}'{made.target}'::regclass") == "id name"


@pytest.mark.parametrize("rule", [None, "propose", "pause"])
def test_refused_by_name_otherwise(grown: Any, launchers: Launchers, rule: str | None) -> None:
    made, task = grown("append", rule)
    assert launchers.run(task("r1"))["status"] == "completed"
    gain(made)
    error = launchers.run(task("r2"))["error"]
    assert "'size'" in error["what"]
    assert "additive: apply" in error["hint"]
    assert made.value(f"SELECT count(*) FROM {made.target}") == 300


@pytest.mark.parametrize("write", ["append", "replace"])
@pytest.mark.parametrize("change", ["DROP COLUMN note", "RENAME COLUMN note TO remark"])
def test_a_column_that_disappeared_never_becomes_null_silently(
    grown: Any, launchers: Launchers, write: str, change: str
) -> None:
    made, task = grown(write, "ignore")
    made.session.execute("ALTER TABLE growing ADD note text DEFAULT 'kept'")
    assert launchers.run(task("r1"))["status"] == "completed"
    made.session.execute(f"ALTER TABLE growing {change}")
    made.session.execute("INSERT INTO growing (name) VALUES ('late')")
    error = launchers.run(task("r2"))["error"]
    assert (error["code"], "`note`" in error["what"]) == ("schema.missing_column", True), error
    assert made.session.execute(f"SELECT count(*), count(note) FROM {made.target}").fetchone() == (300, 300)
    wanted = task("r3")
    wanted["pipeline"]["spec"]["transforms"] = [{"name": "wanted", "select": ["id", "name"]}]
    assert launchers.run(wanted)["status"] == "completed"
    assert made.session.execute(f"SELECT count(*) FROM {made.target}").fetchone() == (301,)
