"""A column that a pipeline names is gone: NULL in its place is proposed where nothing depends on its values."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from agents.proposals import applied
from dataflows.data.tables import Column, Table
from dataflows.runs.lost_columns import defaults
from penstock.models.domain import Field
from penstock.models.pipeline import PipelineSpec
from penstock.models.proposals import Proposal
from tests.dataflows.conftest import Copy, Launchers

FIELDS = {"fields": [{"target": "id", "from": "id"}, {"target": "remark", "from": "note"}]}
CHOSEN = [{"name": "chosen", "select": ["id", "note"]}]


@pytest.fixture
def lose(copy: Callable[..., Copy], launchers: Launchers) -> Callable[..., tuple[Copy, dict[str, Any], dict[str, Any]]]:
    """Run a pipeline, drop the column `note` of its source, and run it again; return its next task, and the error."""

    def lost(write: str = "append", target: str = "", **spec: Any) -> tuple[Copy, dict[str, Any], dict[str, Any]]:
        made = copy(write)
        made.session.execute(f"DROP TABLE IF EXISTS losing, {made.target}")
        made.session.execute("CREATE TABLE losing (id bigserial PRIMARY KEY, name text, note varchar(40))")
        made.session.execute("INSERT INTO losing (name, note) SELECT 'n' || g, 'kept' FROM generate_series(1, 30) g")
        if target:
            made.session.execute(f"CREATE TABLE {made.target} ({target})")

        def task(run: str) -> dict[str, Any]:
            found = made.task(run)
            found["pipeline"]["spec"] |= spec
            found["pipeline"]["spec"]["source"]["object"] = "public.losing"
            return found

        first = launchers.run(task("r1"))
        assert first["status"] == "completed", first["error"]
        made.session.execute("ALTER TABLE losing DROP note")
        made.session.execute("INSERT INTO losing (name) VALUES ('late')")
        return made, task("r3"), launchers.run(task("r2"))["error"]

    return lost


@pytest.mark.parametrize("write", ["append", "replace"])
@pytest.mark.parametrize("spec", [{"mapping": FIELDS}, {"transforms": CHOSEN}], ids=["mapping", "select"])
def test_what_is_approved_writes_null_in_its_place(
    lose: Any, launchers: Launchers, spec: dict[str, Any], write: str
) -> None:
    made, task, error = lose(write, **spec)
    assert (error["code"], "`note`" in error["what"]) == ("schema.broken", True), error
    assert "would put CAST(NULL AS character varying(40)) in place of `note`" in error["hint"]
    task["pipeline"] = applied(task["pipeline"], [Proposal.parse(one) for one in error["proposed"]])
    for run in ("r3", "r4"):
        found = launchers.run(task | {"run": run})
        assert found["status"] == "completed", found["error"]
    column = "remark" if "mapping" in spec else "note"
    counted = made.session.execute(f"SELECT count(*), count({column}) FROM {made.target}").fetchone()
    assert counted == (31, 30 if write == "append" else 0)


@pytest.mark.parametrize(
    ("target", "spec"),
    [
        ("id bigint, remark varchar(40) NOT NULL", {"mapping": FIELDS}),
        ("", {"mapping": {"fields": [*FIELDS["fields"], {"target": "loud", "sql": "upper(note)"}]}}),
        ("", {"transforms": [*CHOSEN, {"name": "some", "filter": "note = 'kept'"}]}),
    ],
    ids=["NOT NULL", "expression", "filter"],
)
def test_nothing_is_proposed_where_its_values_count(lose: Any, target: str, spec: dict[str, Any]) -> None:
    _, _, error = lose(target=target, **spec)
    assert (error["code"], error.get("proposed", [])) == ("schema.broken", []), error
    assert "restore it, or name the columns to copy without it" in error["hint"]


@pytest.mark.parametrize(("sink", "proposed"), [({}, 1), ({"delete": "gone"}, 0), ({"version": "gone"}, 0)])
def test_nothing_is_proposed_for_a_column_that_a_merge_looks_at(sink: dict[str, str], proposed: int) -> None:
    spec = {
        "source": {"connection": "shop", "object": "losing"},
        "sink": {"connection": "lake", "object": "t", "write": "merge", "key": ["id"], **sink},
        "transforms": [{"name": "chosen", "select": ["id", "gone"]}],
    }
    job: Any = SimpleNamespace(spec=PipelineSpec.parse(spec), streams=False)
    there = Table("t", "table", (Column("id", "bigint", nullable=False), Column("gone", "boolean")))
    assert len(defaults(job, ["gone"], {"gone": Field(name="gone", type="boolean")}, there)) == proposed
