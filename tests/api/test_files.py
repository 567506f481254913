"""Invalid files: every issue of every file at once, one line each, and nothing is sent."""

from __future__ import annotations

from pathlib import Path

import pytest

from api.starter import PIPELINE, SHOP, WAREHOUSE
from tests.api.project import Project, penstock

GOOD = PIPELINE.replace("orders, owner", "good, owner")

WRONG = {
    "tab.yaml": ("spec:\n\tmode: batch\n", "tab.yaml:2: is not YAML"),
    "open.yaml": ("spec: {mode: batch\n", "open.yaml"),
    "twice.yaml": ("kind: Pipeline\nkind: Pipeline\n", "duplicate key 'kind'"),
    "list.yaml": ("- 1\n", "is not a mapping"),
    "kind.yaml": ("kind: Pipline\n", "did you mean `Pipeline`?"),
    "key.yaml": (PIPELINE.replace("  sink:", "  snik:"), "did you mean `sink`?"),
    "write.yaml": (PIPELINE.replace("write: append", "write: apend"), "spec.sink.write"),
    "name.yaml": (PIPELINE.replace("name: orders", 'name: "Orders!"'), "metadata.name"),
    "sql.yaml": (PIPELINE.replace("upper(customer)", "upper(customer"), "spec.mapping.fields[1].sql"),
    "function.yaml": (PIPELINE.replace("upper(customer)", "uper(customer)"), "did you mean `upper`?"),
    "binary.yaml": ("\x00\x01", "binary.yaml"),
    "never.yaml": (PIPELINE + '  schedule: {cron: "0 0 31 2 *"}\n', "spec.schedule.cron: is never due"),
    "ends.yaml": (PIPELINE.replace("upper(customer)", "price +"), "error at column 7, near '+'"),
    "connections.yaml": ("lake: {type: file, root: a}\n", "lake: there is no type 'file'; did you mean `files`?"),
    "connections.a.yaml": ("lake: {type: files, path: a}\n", "lake.path: unknown key; known: type, root"),
    "connections.b.yaml": ("lake: {root: a}\n", "lake: needs 'type'"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_file_is_one_clear_line(name: str, tmp_path: Path) -> None:
    text, words = WRONG[name]
    (tmp_path / name).write_text(text)
    said = penstock("validate", tmp_path / name, "--project", tmp_path)
    assert said.code == 2
    assert words in said.err
    assert name in said.err
    assert "Traceback" not in said.err
    assert len(said.err.splitlines()) <= 3


def test_every_issue_of_every_file_is_reported_at_once(tmp_path: Path) -> None:
    for name, (text, _) in WRONG.items():
        (tmp_path / name).write_text(text)
    said = penstock("validate", *(tmp_path / name for name in WRONG), "--project", tmp_path)
    assert said.code == 2
    for name in WRONG:
        assert name in said.err, name
    found = penstock("validate", *(tmp_path / name for name in WRONG), "--project", tmp_path, "--json").json
    assert len(found["error"]["issues"]) >= len(WRONG)


def test_a_missing_file(tmp_path: Path) -> None:
    said = penstock("validate", tmp_path / "nothing.yaml")
    assert said.code == 3
    assert "nothing.yaml" in said.error


def test_a_literal_password_is_refused(tmp_path: Path) -> None:
    for line in (
        "{type: postgres, dsn: 'host=h dbname=d', password: hunter2}",
        "{type: postgres, dsn: 'postgresql://u:hunter2@h/d'}",
    ):
        (tmp_path / "connections.yaml").write_text(f"shop: {line}\n")
        said = penstock("validate", "--project", tmp_path)
        assert said.code == 2
        assert "${env:" in said.err
        assert "hunter2" not in said.err + said.out


def test_a_pipeline_that_names_no_known_connection_of_the_project(tmp_path: Path) -> None:
    (tmp_path / "connections.yaml").write_text("shop: {type: postgres, dsn: 'host=h dbname=d'}\n")
    (tmp_path / "pipelines").mkdir()
    (tmp_path / "pipelines" / "orders.yaml").write_text(PIPELINE)
    said = penstock("validate", "--project", tmp_path)
    assert (said.code, said.err) == (0, "")
    assert "warehouse" in said.out, "a note: it may be known to the installation"


def test_what_the_engine_cannot_run_yet_is_a_note(tmp_path: Path) -> None:
    path = tmp_path / "merge.yaml"
    path.write_text(PIPELINE.replace("write: append", "write: merge, key: [order_id]"))
    said = penstock("validate", path, "--project", tmp_path)
    assert said.code == 0
    assert "note:" in said.out


NO_EFFECT = {
    "schema: {compatibility: full}": "spec.schema.compatibility: has no effect yet",
    "limits: {in_flight: 500000}": "spec.limits.in_flight: has no effect yet",
    "limits: {max_lag: 5m}": "spec.limits.max_lag: has no effect yet",
}
EFFECT = (
    "errors: {retry: {attempts: 3}}",
    "limits: {batch_rows: 1000, workers: 2}",
    "tests: []",
    "schema: {}",
    "schema: {additive: apply}",
    "schema: {breaking: pause}",
    "schema: {types: apply, lost: ignore, renames: apply, tables: pause}",
)


@pytest.mark.parametrize("line", [*NO_EFFECT, *EFFECT])
def test_a_setting_without_effect_is_a_note_and_only_that(line: str, tmp_path: Path) -> None:
    path = tmp_path / "orders.yaml"
    path.write_text(f"{PIPELINE}  {line}\n")
    found = penstock("validate", path, "--project", tmp_path, "--json").json
    notes = [note for note in found["notes"] if "no effect" in note]
    assert len(notes) == (line in NO_EFFECT), notes
    assert all(note.startswith(f"orders: {NO_EFFECT[line]}") for note in notes)


UNREAD = {
    "discovery: {every: 2h}": 0, "mapping: {autonomy: act}": 1, "error_resolution: {act_above: 90%}": 0,
    "monitor: {warm_up: 7}": 0, "monitor: {routes: [log]}": 0, "monitor: {retention: {1s: 3d}}": 0,
    "constraints: {quiet_hours: ['22:00-06:00']}": 0,
    "constraints: {max_rows_skipped: 0}": 0, "constraints: {never: [drop_table]}": 0,
    "orchestrator: {max_running: 1}": 0,
}  # fmt: skip


@pytest.mark.parametrize("line", UNREAD)
def test_a_section_of_a_policy_that_nothing_reads_is_a_note(line: str, tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(f"apiVersion: penstock/v1\nkind: AgentPolicy\nmetadata: {{name: p}}\nspec:\n  {line}\n")
    found = penstock("validate", path, "--project", tmp_path, "--json").json
    assert len(found["notes"]) == UNREAD[line]
    assert all(note.startswith(f"p: spec.{line.partition(':')[0]}") for note in found["notes"])


def test_apply_prints_the_same_notes(running: Project, tmp_path: Path) -> None:
    path = tmp_path / "scheduled.yaml"
    text = PIPELINE.replace("name: orders", "name: scheduled").replace("public.orders, write", "public.later, write")
    text = text.replace("public.orders, cursor", "public.made, cursor").replace("append", "merge, key: [order_id]")
    path.write_text(text + "  schedule: {cron: '5 4 * * *'}\n  schema: {compatibility: full}\n")
    running.sql(SHOP, "CREATE TABLE made AS TABLE orders; ALTER TABLE made ALTER id SET NOT NULL")
    running.sql(WAREHOUSE, "CREATE TABLE later (LIKE orders INCLUDING ALL)")
    (row,) = running.done("apply", path)
    idle = [note.partition(" has no effect")[0] for note in row["notes"] if "no effect" in note]
    assert idle == ["scheduled: spec.schema.compatibility:"]
    assert [note for note in row["notes"] if "`id`" in note and "programs" in note]
    said = running.do("apply", path)
    assert "note: scheduled: spec.schema.compatibility: has no effect yet" in said.out
    assert running.done("status", "scheduled")["next_run"][11:16] == "04:05"
    assert running.do("run", "scheduled", "--watch").code == 0, "by hand it runs all the same"


def test_apply_sends_nothing_where_one_file_is_wrong(running: Project, tmp_path: Path) -> None:
    (tmp_path / "good.yaml").write_text(GOOD)
    (tmp_path / "function.yaml").write_text(WRONG["function.yaml"][0])
    before = running.done("topics", "list")
    said = running.do("apply", tmp_path / "good.yaml", tmp_path / "function.yaml")
    assert said.code == 2
    assert "did you mean `upper`?" in said.error
    assert running.done("topics", "list") == before
    assert "good" not in [one["name"] for one in running.done("list")]


def test_apply_sends_nothing_where_a_connection_is_unknown(running: Project, tmp_path: Path) -> None:
    (tmp_path / "good.yaml").write_text(GOOD)
    (tmp_path / "lost.yaml").write_text(
        GOOD.replace("name: good", "name: lost").replace("connection: shop", "connection: shpo")
    )
    said = running.do("apply", tmp_path / "good.yaml", tmp_path / "lost.yaml")
    assert said.code in {2, 3}
    assert "shpo" in said.error
    assert "`shop`" in said.err
    assert {"good", "lost"} & {one["name"] for one in running.done("list")} == set()


def test_apply_again_changes_nothing(running: Project) -> None:
    assert {one["change"] for one in running.done("apply")} == {"unchanged"}


def test_single_files_are_checked_with_the_project_s_connections(tmp_path: Path) -> None:
    (tmp_path / "connections.yaml").write_text("shop: {type: files, root: /a}\nwarehouse: {type: files, root: /b}\n")
    path = tmp_path / "orders.yaml"
    path.write_text(GOOD)
    assert "there is no connection" not in penstock("validate", path, "--project", tmp_path).out
    assert "there is no connection `shop`" in penstock("validate", path, "--project", tmp_path / "else").out
    said = penstock("validate", tmp_path, "--project", tmp_path)
    assert (said.code, f"{tmp_path}/*.yaml" in said.err) == (2, True)


def test_a_setting_that_is_a_comment_in_the_file_is_a_default(tmp_path: Path) -> None:
    (tmp_path / "penstock.toml").write_text("# slots = 2\nport = 0\n")
    found = penstock("settings", "--project", tmp_path, "--json").json
    assert (found["slots"]["from"], found["port"]["from"]) == ("default", "penstock.toml")
