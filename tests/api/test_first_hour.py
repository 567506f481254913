"""What a new user does first, in a shell whose variables mean other things."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.api.project import PENSTOCK, ROOT, Project

NONSENSE = {
    "PGPORT": "9", "PGHOST": "nowhere.invalid", "PGHOSTADDR": "192.0.2.1", "PGUSER": "somebody", "PGDATABASE": "else",
    "PGSSLMODE": "verify-full", "PGOPTIONS": "-c no_such=1", "PGSERVICE": "none", "PGTZ": "Nowhere/Land",
    "PGDATESTYLE": "odd", "PGTARGETSESSIONATTRS": "standby", "PGREQUIREAUTH": "scram-sha-256",
    "PGCHANNELBINDING": "require", "PGCLIENTENCODING": "EUC_JP", "PGPASSWORD": "wrong",
}  # fmt: skip


def said(folder: Path, *words: str) -> str:
    done = subprocess.run(
        [*PENSTOCK, *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": ROOT, **NONSENSE},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_new_project_plans_previews_and_runs_whatever_libpqs_variables_say(folder: Path) -> None:
    said(folder, "init", "shop")
    shop = folder / "shop"
    planned = said(shop, "plan")
    assert "connection shop: as in the files; it is not applied like that yet" in planned
    assert "orders: append into public.orders, about 10,000 rows" in planned
    assert "CUSTOMER 1" in said(shop, "preview", "orders", "--rows", "2")
    assert "CUSTOMER 1" in said(shop, "preview", "pipelines/orders.yaml", "--rows", "2")
    assert "not applied" not in said(shop, "apply") + said(shop, "plan")
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
