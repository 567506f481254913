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
