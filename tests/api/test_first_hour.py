"""What a new user does first, in a shell whose variables mean other things."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.api.nursery import NURSERY
from tests.api.project import Completed, Project, penstock

NONSENSE = {
    "PGPORT": "9", "PGHOST": "nowhere.invalid", "PGHOSTADDR": "192.0.2.1", "PGUSER": "somebody", "PGDATABASE": "else",
    "PGSSLMODE": "verify-full", "PGOPTIONS": "-c no_such=1", "PGSERVICE": "none", "PGTZ": "Nowhere/Land",
    "PGDATESTYLE": "odd", "PGTARGETSESSIONATTRS": "standby", "PGREQUIREAUTH": "scram-sha-256",
    "PGCHANNELBINDING": "require", "PGCLIENTENCODING": "EUC_JP", "PGPASSWORD": "wrong",
}  # fmt: skip


def said(folder: Path, *words: str) -> str:
    """Return the output of a command that has nothing to say beside it."""
    with (folder / "errors").open("w+") as errors:
        done = NURSERY.command(words, folder, subprocess.PIPE, os.environ | NONSENSE, errors.fileno())
        out, _ = done.communicate(timeout=120)
        errors.seek(0)
        assert (done.returncode, errors.read()) == (0, ""), out
    return out


def test_a_new_project_plans_previews_and_runs_whatever_libpqs_variables_say(folder: Path) -> None:
    said(folder, "init", "shop")
    shop = folder / "shop"
    lost = penstock("plan", "--project", folder)
    assert (lost.code, lost.err.splitlines()[-1]) == (3, "next: cd shop")
    planned = said(shop, "plan")
    assert "connection shop: as in the files; it is not applied like that yet" in planned
    assert "orders: append into public.orders, about 10,000 rows" in planned
    assert "CUSTOMER 1" in said(shop, "preview", "orders", "--rows", "2")
    assert "CUSTOMER 1" in said(shop, "preview", "pipelines/orders.yaml", "--rows", "2")
    applied = said(shop, "apply")
    assert "cursor `id` (bigint) has DEFAULT an identity" in applied
    assert "`penstock plan` says what" not in applied, "the source has been asked"
    again = said(shop, "plan")
    assert "not applied" not in applied + again
    assert (planned.splitlines()[-1], again.splitlines()[-1]) == (
        "next: penstock apply",
        "next: penstock run orders --watch",
    )
    assert "10,000 rows in" in said(shop, "run", "orders", "--watch")


@pytest.mark.parametrize("verb", ["plan", "preview"])
def test_one_file_is_planned_with_the_connections_of_the_project(project: Project, verb: str) -> None:
    (project.folder / "pipelines" / "broken.yaml").write_text("kind: Pipeline\n")
    shown = project.do(verb, project.folder / "pipelines" / "orders.yaml")
    assert shown.code == 0, shown.out + shown.err
    assert "broken" not in shown.out


def test_a_pattern_of_tables_is_refused(running: Project) -> None:
    text = (running.folder / "pipelines" / "orders.yaml").read_text()
    file = running.folder / "pattern.yaml"
    file.write_text(text.replace("public.orders", "public.*", 1).replace("name: orders", "name: pattern"))
    for verb in ("validate", "plan", "apply"):
        assert "a pattern of tables has no meaning here, got 'public.*'" in running.do(verb, file).error
    file.unlink()


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("customer->>'a'", "`customer ->> 'a'` is not allowed; map the whole column"),
        ("customer ->> (+ id)", "`JSONExtractScalar` is not allowed; map the whole column"),
        ("to_char(placed_at, 'YYYY')", "to_char(…) is not allowed in an expression; use CAST"),
        ("now()", "now(…) is not allowed in an expression; give the target's column a default"),
        ("unnest(customer)", "unnest(…) is not allowed in an expression; the step `explode`"),
        ("age(placed_at)", "age(…) is not allowed in an expression; subtract dates"),
        ("count(*)", "count(…) is not allowed in an expression; an expression sees one row"),
        ("current_date", "`CURRENT_DATE` is not allowed; give the target's column a default"),
        ("(select 1)", "`(SELECT 1)` is not allowed; the step `lookup`"),
    ],
)
def test_what_an_expression_may_not_use_is_shown_as_written(running: Project, written: str, shown: str) -> None:
    text = (running.folder / "pipelines" / "orders.yaml").read_text()
    file = running.folder / "expression.yaml"
    file.write_text(text.replace("sql: upper(customer_name)", f'sql: "{written}"').replace("upper(customer)", written))
    said = running.do("validate", file)
    file.unlink()
    assert said.code == 2
    assert shown in said.err


def pipeline_of(name: str, source: str, *, mapping: str = "", more: str = "") -> str:
    fields = f"  mapping: {{fields: [{mapping}]}}\n" if mapping else ""
    return (
        f"apiVersion: penstock/v1\nkind: Pipeline\nmetadata: {{name: {name}}}\nspec:\n  source: {{{source}}}\n{fields}"
        f"  sink: {{connection: warehouse, object: public.{name}, write: replace}}\n{more}"
    )


def tried(project: Project, name: str, text: str, *verbs: str, connection: str = "") -> list[Completed]:
    """Write a pipeline to a file of its own, with a connection if it needs one, and run commands on it."""
    file, connections = project.folder / f"{name}.yaml", project.folder / f"{name}-connections.yaml"
    file.write_text(text)
    files = [file]
    if connection:
        connections = project.folder / "connections.yaml"
        before = connections.read_text()
        connections.write_text(before + connection + "\n")
        files.insert(0, connections)
    found = []
    for verb in verbs:
        what = ["run", name, "--watch"] if verb == "run" else [verb, *(files if verb == "apply" else [file])]
        found.append(project.do(*what))
    if connection:
        connections.write_text(before)
    file.unlink()
    return found


def test_a_failed_cast_shows_value_type_and_what_to_write(running: Project) -> None:
    fields = '{target: id, from: id}, {target: n, sql: "CAST(customer AS integer)"}'
    text = pipeline_of("casts", "connection: shop, object: public.orders", mapping=fields)
    applied, run = tried(running, "casts", text, "apply", "run")
    assert applied.code == 0, applied.err
    ((rows,),) = running.sql("sample_shop", "SELECT count(*) FROM orders")
    assert f"{rows:,} of {rows:,} rows went to the dead letters" in run.err
    assert "penstock dlq list casts" in run.err
    letters = running.do("dlq", "list", "casts").out
    assert "spec.mapping.fields[1].sql: a value is not of type integer, or beyond its range" in letters
    assert "got 'customer 1'" in letters


def test_a_failed_test_names_each_column_with_both_values(running: Project) -> None:
    more = (
        "  tests:\n    - {name: wrong, given: [{id: 1, customer: a}, {id: 2, customer: b}], "
        "expect: [{id: 1, name: A}, {id: '2', name: x}, {id: 3, name: y}]}\n"
    )
    fields = '{target: id, from: id}, {target: name, sql: "upper(customer)"}'
    text = pipeline_of("tests", "connection: shop, object: public.orders", mapping=fields, more=more)
    (shown,) = tried(running, "tests", text, "test")
    assert shown.code == 1
    lines = [line.strip() for line in shown.out.splitlines()]
    assert "row 2: `id` is 2, expected '2'" in lines
    assert "row 2: `name` is 'B', expected 'x'" in lines
    assert "1 row too few" in lines
    assert not any(line.startswith("row 1: ") for line in lines)


def test_mixed_json_names_the_yaml_that_reads_it(running: Project, tmp_path: Path) -> None:
    rows = [{"id": n, "amount": n if n != 29_000 else "n/a", "a b": n / 2} for n in range(30_000)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    connection = f"lake: {{type: files, root: {tmp_path}}}"
    text = pipeline_of("mixed", "connection: lake, object: a.jsonl")
    applied, run = tried(running, "mixed", text, "apply", "run", connection=connection)
    assert applied.code == 0, applied.err
    assert "a.jsonl: line 29001: the value of `amount` is not exactly of type bigint, unlike in the sample" in run.err
    found = re.search(r"`format: (\{.+\})`", run.err)
    assert found, run.err
    mended = pipeline_of("mended", f"connection: lake, object: a.jsonl, format: {found[1]}")
    applied, run = tried(running, "mended", mended, "apply", "run", connection=connection)
    assert (applied.code, run.code) == (0, 0), applied.err + run.err
    assert running.sql("sample_warehouse", "SELECT count(amount) FROM mended WHERE amount = 'n/a'") == [(1,)]


def test_a_connection_that_fails_in_a_run_says_what_to_look_at(running: Project) -> None:
    connection = "nobody: {type: postgres, dsn: 'host=127.0.0.1 port=1 user=x dbname=y'}"
    retry = "  errors: {retry: {base: 1s, attempts: 1}}\n"
    text = pipeline_of("lost", "connection: nobody, object: public.orders", more=retry)
    _, run = tried(running, "lost", text, "apply", "run", connection=connection)
    assert run.code == 1
    what = "lost: connection nobody: no server answers, or the connection was lost (Connection refused)"
    assert run.error == f"error: {what}"
    assert (
        "is the server up, at the host and port in connections.yaml? `penstock doctor` tries every connection"
        in run.err
    )


def test_a_second_up_and_an_unknown_id_say_what_to_do(running: Project) -> None:
    busy = running.do("up", "--port", "0")
    assert "`penstock up` is already running here" in busy.error
    assert "use it: commands find it; or end it by Ctrl-C where it runs" in busy.err
    assert "did you mean `orders`?" in running.do("why", "order").err
    unknown = running.do("why", "00000000-0000-0000-0000-000000000000")
    assert unknown.code == 3
    assert "no pipeline, run, decision, command or record has this name or id" in unknown.error
    assert "penstock runs" in unknown.err


def test_a_type_that_files_cannot_hold_gets_a_remedy_that_works(running: Project, tmp_path: Path) -> None:
    running.sql("sample_shop", "CREATE TABLE priced (id int PRIMARY KEY, v money)")
    running.sql("sample_shop", "CREATE VIEW priced_as_text AS SELECT id, v::text AS v FROM priced")
    connection = f"lake: {{type: files, root: {tmp_path}}}"
    text = pipeline_of("priced", "connection: shop, object: public.priced")
    text = text.replace("connection: warehouse, object: public.priced", "connection: lake, object: odd")
    (refused,) = tried(running, "priced", text, "plan", connection=connection)
    assert "`v` of type money cannot be written to files" in refused.out
    assert "convert it to text in a view of the source, or leave it out" in refused.out
    (planned,) = tried(
        running, "priced", text.replace("public.priced", "public.priced_as_text"), "plan", connection=connection
    )
    assert planned.code == 0, planned.out + planned.err
