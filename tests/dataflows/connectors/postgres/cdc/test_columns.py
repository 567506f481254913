"""Columns that change while changes are read: followed if no old row can have got a value, else refused by name."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest

from dataflows.connectors.contract import Place
from dataflows.connectors.postgres.cdc import source
from dataflows.connectors.postgres.tables import TableName, describe
from dataflows.data.tables import Table
from dataflows.runs.changes import check_changes
from penstock.errors import Refused, Unavailable
from penstock.models.connection import parse_connection
from penstock.models.pipeline import PipelineSpec
from tests.dataflows.connectors.postgres.cdc.conftest import Changes

pytestmark = pytest.mark.xdist_group("cdc")

APPLY = {"additive": "apply"}


def ended(made: Changes, statement: str, **spec: Any) -> dict[str, Any]:
    """Alter the table while a run reads it, change a row, and return the error of the run."""
    task = made.task("r2", **spec)
    pid = made.launchers.start(task)
    made.do("INSERT INTO {s} (id) VALUES (-1)")
    made.until("SELECT EXISTS (SELECT FROM {t} WHERE id = -1)")
    made.do(*statement.split("; "), "INSERT INTO {s} (id) VALUES (-2)")
    return dict(made.launchers.ended(pid, task)["error"])


def test_a_new_column_is_added_and_nothing_is_lost(changes: Callable[..., Changes]) -> None:
    made = changes()
    made.followed(schema=APPLY)
    error = ended(
        made, "DELETE FROM {s} WHERE id = 1; ALTER TABLE {s} ADD more text; UPDATE {s} SET more = 'x'", schema=APPLY
    )
    assert error["transient"]
    assert "new column: `more`" in error["what"]
    made.do("UPDATE {s} SET more = 'y' WHERE id < 50")
    made.followed("r2", 2, schema=APPLY)
    made.do("ALTER TABLE {s} ALTER more SET DEFAULT 'z'", "INSERT INTO {s} (id) VALUES (-4)")
    made.followed("r2", 3, schema=APPLY)
    made.do("INSERT INTO {s} (id) VALUES (-3)", "ALTER TABLE {s} DROP more")
    gone = made.launchers.run(made.task("r3", schema=APPLY))["error"]
    assert "column `more` cannot be followed: it was dropped" in gone["what"]


def test_a_column_that_comes_while_the_table_is_looked_at_is_read(
    changes: Callable[..., Changes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else its position would know the column, and not have read it: the next attempt would be refused for ever."""
    made = changes(rows=0)

    def altered(*arguments: Any) -> Table:
        found = describe(*arguments)
        monkeypatch.setattr(source, "describe", describe)
        made.do("ALTER TABLE {s} ADD more int")
        return found

    monkeypatch.setattr(source, "describe", altered)
    settings = parse_connection("file", {"type": "postgres", "dsn": made.dsn})
    place = Place("items", "shop", settings, made.source, stream=made.uid)
    with closing(source.PostgresChanges(place, TableName.parse(made.source), made.dsn)) as one:
        assert "more" in [column.name for column in one.describe().columns]
        made.do("ALTER TABLE {s} ADD again int")
        with pytest.raises(Unavailable, match="changed while the stream began"):
            one.describe()


def test_a_new_column_is_left_out(changes: Callable[..., Changes]) -> None:
    made = changes()
    ignore = {"additive": "ignore"}
    made.followed(schema=ignore)
    made.do("ALTER TABLE {s} ADD more text NOT NULL DEFAULT 'x'", "INSERT INTO {s} (id) VALUES (1000)")
    task = made.task("r2", schema=ignore)
    pid = made.launchers.start(task)
    made.until_same("id, name, price, at, body")
    made.stop(pid, task)


def test_a_new_column_that_nobody_added_stops_the_stream(changes: Callable[..., Changes]) -> None:
    made = changes()
    made.followed()
    made.do("ALTER TABLE {s} ADD more text", "INSERT INTO {s} VALUES (1000, 'n', 1, now(), 'b', 'm')")
    refused = made.launchers.run(made.task("r2"))["error"]
    assert (refused["code"], "more" in f"{refused}") == ("schema.missing_column", True)
    made.do("ALTER TABLE {t} ADD more text")
    made.followed("r2", 2)


@pytest.mark.parametrize(
    ("statement", "what"),
    [
        ("ALTER TABLE {s} ADD more float DEFAULT random()", "rows were rewritten"),
        ("ALTER TABLE {s} DROP body", "it was dropped"),
        ("ALTER TABLE {s} RENAME body TO text", "it is called `text` now"),
        ("ALTER TABLE {s} DROP body; ALTER TABLE {s} ADD body text", "it was dropped and made again"),
        ("ALTER TABLE {s} ALTER price TYPE numeric(11,2)", "its type was numeric(12,2) and is numeric(11,2)"),
    ],
)
def test_a_column_that_cannot_be_followed_is_refused(
    changes: Callable[..., Changes], statement: str, what: str
) -> None:
    made = changes()
    made.followed(schema=APPLY)
    first = ended(made, statement, schema=APPLY)
    refused = made.launchers.run(made.task("r3", schema=APPLY))["error"]
    assert what in refused["what"]
    assert first["transient"] or first["what"] == refused["what"]
    assert not refused["transient"]
    assert made.value("SELECT count(*) FROM {t} WHERE id = -2") == 0


@pytest.mark.parametrize(
    ("rules", "statement", "code"),
    [
        ({}, "ALTER TABLE {s} DROP body", "schema.broken"),
        ({"lost": "propose"}, "ALTER TABLE {s} DROP body", "refused"),
        (APPLY | {"renames": "pause"}, "ALTER TABLE {s} RENAME body TO text", "schema.broken"),
    ],
)
def test_a_changed_column_pauses_the_stream_by_its_rule(
    changes: Callable[..., Changes], rules: dict[str, str], statement: str, code: str
) -> None:
    made = changes()
    made.followed(schema=rules)
    made.do(statement)
    error = made.launchers.run(made.task("r2", schema=rules))["error"]
    assert error["code"] == code, error


@pytest.mark.parametrize("rules", [{"lost": "apply"}, {"lost": "ignore"}, {"renames": "apply"}])
def test_rules_that_changes_cannot_follow_are_refused(rules: dict[str, str]) -> None:
    sink = {"connection": "c", "object": "d", "write": "merge", "key": ["id"]}
    source = {"connection": "a", "object": "b"}
    spec = PipelineSpec.model_validate({"mode": "stream", "source": source, "sink": sink, "schema": rules})
    with pytest.raises(Refused, match=f"spec.schema.{next(iter(rules))}"):
        check_changes("items", spec, "postgres")


DEFAULTS = {
    "int NOT NULL DEFAULT 5": "6",
    "text DEFAULT 'a, \"b\" {} ''c'": "''",
    "int[] DEFAULT '{1,NULL,3}'": "NULL",
    'jsonb NOT NULL DEFAULT \'{"a": [1, "x"]}\'': "'null'",
    "timestamptz DEFAULT now()": "'2024-01-01'",
    "numeric(8,3) DEFAULT 1.5": "NULL",
    "text DEFAULT NULL": "'x'",
}


def test_a_new_column_with_a_default_has_it_in_old_rows(changes: Callable[..., Changes]) -> None:
    made = changes()
    made.followed(schema=APPLY)
    task = made.task("r2", schema=APPLY)
    pid = made.launchers.start(task)
    made.do("INSERT INTO {s} (id) VALUES (-1)")
    made.until("SELECT EXISTS (SELECT FROM {t} WHERE id = -1)")
    for number, (kind, other) in enumerate(DEFAULTS.items()):
        name = f"more_{number}"
        made.do(
            f"INSERT INTO {{s}} (id) VALUES ({1000 + number})",
            f"BEGIN; UPDATE {{s}} SET price = 1 WHERE id = {number + 10}; ALTER TABLE {{s}} ADD {name} {kind}; COMMIT",
            f"UPDATE {{s}} SET {name} = {other} WHERE id = {number + 20}",
            f"DELETE FROM {{s}} WHERE id = {number + 30}",
        )
    made.do("ALTER TABLE {s} ALTER more_0 SET DEFAULT 7", "INSERT INTO {s} (id) VALUES (2000)")
    error = made.launchers.ended(pid, task)["error"]
    assert (error["transient"], "new column: `more_0`" in error["what"]) == (True, True)
    assert made.launchers.run(made.task("r2", 2, schema=APPLY), "commit.before_fence=kill") == {"killed": 9}
    made.followed("r2", 3, schema=APPLY)
    assert made.value("SELECT count(*) FROM {t} WHERE more_0 = 5") > 80


def test_a_new_column_that_the_target_has_already_is_filled(changes: Callable[..., Changes]) -> None:
    made = changes()
    made.followed()
    made.do("ALTER TABLE {s} ADD more int NOT NULL DEFAULT 5", "UPDATE {s} SET more = 6 WHERE id = 1")
    made.do("ALTER TABLE {t} ADD more int DEFAULT 9")
    made.followed("r2")


def test_a_new_column_with_a_default_is_not_computed_from(changes: Callable[..., Changes]) -> None:
    made = changes()
    made.followed(schema=APPLY)
    made.do("ALTER TABLE {s} ADD more text DEFAULT 'x'")
    steps = [{"name": "m", "set": {"more": "upper(more)"}}]
    refused = made.launchers.run(made.task("r2", schema=APPLY, transforms=steps))["error"]
    assert "`more` is computed from column `more`, which is new" in refused["what"], refused


def test_a_type_that_only_allows_more_is_followed(changes: Callable[..., Changes]) -> None:
    made = changes("id int PRIMARY KEY, name varchar(20), price numeric(12,2), at timestamptz, body varchar")
    made.followed()
    made.do("UPDATE {s} SET name = 'before' WHERE id = 1")
    made.do("ALTER TABLE {s} ALTER name TYPE varchar(40), ALTER price TYPE numeric(14,2), ALTER body TYPE text")
    made.do("UPDATE {s} SET name = repeat('n', 40), price = 123456789012.5 WHERE id = 2")
    refused = made.launchers.run(made.task("r2"))["error"]
    assert "numeric(14,2) does not fit" in refused["what"]
    made.do("ALTER TABLE {t} ALTER name TYPE text, ALTER price TYPE numeric, ALTER body TYPE text")
    made.followed("r3")
    error = ended(made, "ALTER TABLE {s} ALTER name TYPE text; UPDATE {s} SET name = repeat('n', 90) WHERE id = 3")
    assert (error["transient"], "column `name` is now text" in error["what"]) == (True, True)
    made.followed("r4")


def test_a_dropped_column_that_is_left_out_is_followed(changes: Callable[..., Changes]) -> None:
    made = changes()
    made.followed()
    made.do("UPDATE {s} SET price = 5", "ALTER TABLE {s} DROP body", "UPDATE {s} SET name = 'later' WHERE id < 9")
    assert "`body`" in made.launchers.run(made.task("r2"))["error"]["what"]
    fields = [{"target": name, "from": name} for name in ("id", "name", "price", "at")]
    task = made.task("r3", mapping={"fields": fields})
    pid = made.launchers.start(task)
    made.until_same("id, name, price, at")
    made.stop(pid, task)
    assert made.value("SELECT count(*) FROM {t} WHERE body = 'x'") > 0


def test_a_column_that_was_not_read_before_is_refused(changes: Callable[..., Changes]) -> None:
    made = changes()
    some = [{"target": name, "from": name} for name in ("id", "name")]
    task = made.task(mapping={"fields": some})
    pid = made.launchers.start(task)
    made.until_same("id, name")
    made.stop(pid, task)
    made.do("ALTER TABLE {t} ADD price numeric(12,2)")
    fields = [*some, {"target": "price", "from": "price"}]
    refused = made.launchers.run(made.task("r2", mapping={"fields": fields}))["error"]
    assert "column `price` was not read before" in refused["what"]


def test_a_replica_identity_without_the_key_is_refused(changes: Callable[..., Changes]) -> None:
    made = changes("id int PRIMARY KEY, name text, price int, other int NOT NULL UNIQUE, body text", rows=0)
    made.do("INSERT INTO {s} (id, other) VALUES (1, 1), (2, 2)")
    made.followed()
    name = f"s{made.number}_other_key"
    made.do(f"ALTER TABLE {{s}} REPLICA IDENTITY USING INDEX {name}", "DELETE FROM {s} WHERE id = 1")
    planned = made.launchers.run(made.task("r2"))["error"]
    assert "no unique key (id) that its changes name" in planned["what"]
    made.do("ALTER TABLE {s} REPLICA IDENTITY DEFAULT")
    refused = made.launchers.run(made.task("r2", 2))["error"]
    assert "replica identity was changed: it names no row by `id`" in refused["what"]
