"""Small mistakes on the command line and in files: each is named, and does nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from dataflows.data.cursors import since
from dataflows.data.tables import Column
from penstock.errors import InvalidDocument, Refused
from penstock.models.connection import parse_connection
from penstock.settings import load
from tests.api.project import penstock


@pytest.mark.parametrize(
    "command", [("list",), ("status", "orders"), ("run", "orders"), ("up",)], ids=lambda words: words[0]
)
def test_a_folder_without_a_project_gets_no_server(tmp_path: Path, command: tuple[str, ...]) -> None:
    folder = tmp_path / "a typo"
    said = penstock(*command, "--project", folder)
    assert said.code == 3
    assert f"{folder}: there is no project in this folder" in said.error
    assert f"penstock init '{folder}'" in said.err
    assert not folder.exists()


def test_settings_show_how_many_runs_there_may_be(tmp_path: Path) -> None:
    settings = load(tmp_path, {})
    assert settings.shown()["slots"] == f"{settings.parallel}, one more than the cores"
    assert load(tmp_path, {"PENSTOCK_SLOTS": "7"}).shown()["slots"] == "7"


@pytest.mark.parametrize(
    ("kind", "example"), [("timestamp with time zone", "2026-01-31 12:00"), ("date", "2026-01-31"), ("bigint", "1200")]
)
def test_a_value_that_is_none_of_the_cursor_is_answered_by_an_example(kind: str, example: str) -> None:
    with pytest.raises(Refused) as refused:
        since("tomorrow", Column("at", kind), "orders: --since")
    assert f"write a value such as {example}" in str(refused.value)


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"dns": "postgresql://me@db/shop"}, "shop.dns: unknown key; did you mean `dsn`?"),
        ({"dns": "postgresql://me:${file:secrets/pw}@db/shop"}, "shop.dns: unknown key; did you mean `dsn`?"),
        ({"dsn": "host=db", "password": "${file:pw}"}, "nor a file below /run/secrets or secrets"),
        ({"dsn": "host=db password=${file:pw}"}, "has a password that refers to neither a variable PENSTOCK_SECRET_"),
        ({"dns": "postgresql://me:pw@db/shop"}, "contains a literal password before its @"),
        ({"dsn": "host=db", "password": "pw"}, "is a literal secret"),
    ],
)
def test_only_a_literal_secret_is_called_one(keys: dict[str, str], expected: str) -> None:
    with pytest.raises(InvalidDocument) as found:
        parse_connection("shop", {"type": "postgres", **keys})
    assert expected in str(found.value)
