"""What MariaDB's information schema says of a database, and a user that may only SELECT."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dataflows.work import discover
from penstock.errors import PenstockError
from penstock.models.domain import ForeignKey
from tests.dataflows.listings import discovered, outline

ORDERS = """
CREATE TABLE orders (id bigint AUTO_INCREMENT, line int NOT NULL, price decimal(15,2) DEFAULT 0,
    total decimal(16,2) AS (price * 2), customer int, note varchar(99) COMMENT 'free text', at timestamp(6) NULL,
    PRIMARY KEY (id, line), KEY part (note(5)), FOREIGN KEY (customer) REFERENCES `Kunden Ä` (`select`))
COMMENT 'What was ordered'"""


def test_tables_and_views_of_a_database_are_described(
    mariadb: Any,
    new_schema: Callable[[], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    name, next_ = new_schema(), new_schema()
    mariadb.query("CREATE TABLE few (n int)", next_)
    for statement in (
        "CREATE TABLE `Kunden Ä` (`select` int PRIMARY KEY, `a b` varchar(10) NOT NULL UNIQUE, doc json)",
        ORDERS,
        "INSERT INTO orders (line, price, note) VALUES (1, 1.5, 'x'), (2, 20, NULL)",
        "CREATE VIEW recent AS SELECT id FROM orders",
        "CREATE TABLE _penstock_positions (x int)",
        f"GRANT SELECT ON {name}.* TO stranger@'%'",
    ):
        mariadb.query(statement, name)
    connection = mariadb.connection(name, user="stranger")
    there = discovered(connection, secrets=mariadb.home, rows=100)
    all_ = there.objects
    for key, one in all_.items():
        assert one.schema.outline == outline(connection, key, mariadb.home), "a run sees the same"
    assert {key.partition(".")[2]: one.kind for key, one in all_.items()} == {
        "Kunden Ä": "table", "orders": "table", "recent": "view",
    }  # fmt: skip
    orders = all_[f"{name}.orders"]
    assert (orders.description, orders.schema.key) == ("What was ordered", ("id", "line"))
    assert [(one.name, one.type, one.nullable) for one in orders.schema.fields][:3] == [
        ("id", "bigint", False), ("line", "integer", False), ("price", "numeric(15,2)", True),
    ]  # fmt: skip
    assert [one.default for one in orders.schema.fields][:3] == ["AUTO_INCREMENT", None, "0.00"]
    assert orders.schema.fields[5].description == "free text"
    assert orders.schema.foreign == (
        ForeignKey(columns=("customer",), object=f"{name}.Kunden Ä", references=("select",)),
    )
    assert {one.name: (one.columns, one.unique) for one in orders.profile.indexes}["part"] == (("note(5)",), False)
    odd = all_[f"{name}.Kunden Ä"].schema
    assert (odd.unique, odd.fields[2].type) == ((("a b",),), "json")
    assert set(discovered(connection, "*.o*", secrets=mariadb.home).objects) == {f"{name}.orders"}
    statistics = there.samples[f"{name}.orders"]
    assert (statistics["note"].nulls, statistics["price"].bounds) == (0.5, ("1.50", "20.00"))
    monkeypatch.setattr(discover, "stop_on_signal", lambda _: None)
    order = {"id": "d", "connection": "all", "sample_rows": 100, "tables": [f"{name}.*", f"{next_}.*"]}
    server = mariadb.connection(name)
    task = {"discovery": order, "connections": {"all": {one: server[one] for one in server if one != "database"}}}
    assert discover.run_task(task | {"result": str(tmp_path / "result"), "secrets": str(mariadb.home)}) == 0
    found = [one for line in capsys.readouterr().out.splitlines() for one in json.loads(line)["found"]]
    names = {*all_, f"{next_}.few"}
    assert {one["object"] for one in found} == names, "a connection without a database has those of all"
    assert {one["object"] for one in found if not one["partial"]} == names, "also those that share a page are sampled"


def test_a_sample_that_takes_too_long_leaves_no_query_at_the_server(
    mariadb: Any, new_schema: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = new_schema()
    mariadb.query("CREATE VIEW slow AS SELECT sleep(90) AS x", name)
    monkeypatch.setattr("dataflows.connectors.mysql.connector.SAMPLE_SECONDS", 0.5)
    monkeypatch.setattr("dataflows.connectors.source_catalog.SAMPLE_SECONDS", 0.3)
    with pytest.raises(PenstockError):
        discovered(mariadb.connection(name), secrets=mariadb.home, rows=10)
    end = time.monotonic() + 20
    while [row for row in mariadb.query("SHOW FULL PROCESSLIST") if "`slow`" in str(row[7])]:
        assert time.monotonic() < end
        time.sleep(0.1)
