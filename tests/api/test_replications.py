"""`penstock init NAME --from URL --to URL`, then `penstock run NAME`: all that one system has, in another."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
import yaml

from penstock.topics.embedded import EmbeddedServer
from tests.api.project import Project, ending, penstock, until
from tests.dataflows.connectors.ducks import query_file
from tests.kafka import KafkaServer
from tests.mariadb import SECRET, MysqlServer

Replicate = Callable[..., Project]


@pytest.fixture
def replicate(folder: Path) -> Iterator[Replicate]:
    """Make a project that replicates one system into another."""
    made: list[Project] = []

    def make(name: str, source: str, sink: str, *more: str) -> Project:
        project = Project(folder / name)
        said = penstock("init", project.folder, "--from", source, "--to", sink, *more)
        assert said.code == 0, said.out + said.err
        made.append(project)
        return project

    yield make
    for project in made:
        with ending(project):
            pass


def ran(project: Project, name: str) -> dict[str, str]:
    return {one["pipeline"]: one["status"] for one in project.do("run", name, "--watch", "--json").json["runs"]}


def table(dsn: str, query: str) -> list[tuple[object, ...]]:
    with psycopg.connect(dsn) as session:
        return session.execute(query.encode()).fetchall()


def test_a_database_file_into_postgres(replicate: Replicate, tmp_path: Path, database: str) -> None:
    path = tmp_path / "shop.db"
    with closing(sqlite3.connect(path)) as session:
        session.executescript(
            """
            CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT); INSERT INTO customers VALUES (1, 'a'), (2, 'b');
            CREATE TABLE "Odd dot.ted" (a TEXT, b TEXT); INSERT INTO "Odd dot.ted" VALUES ('x', 'y'), ('x', 'y');
            CREATE VIEW recent AS SELECT * FROM customers;
            """
        )
    project = replicate("Shop", str(path), database)
    text = (project.folder / "pipelines" / "shop.yaml").read_text()
    assert yaml.safe_load(text)["spec"]["sink"] == {
        "connection": "target", "object": "public.{table}", "write": "merge", "key": "auto",
    }  # fmt: skip
    assert ran(project, "shop") == {"shop/customers": "completed", "shop/Odd dot.ted": "completed"}
    with closing(sqlite3.connect(path)) as session:
        session.executescript(
            "UPDATE customers SET name = 'c' WHERE id = 2; CREATE TABLE late (id INTEGER PRIMARY KEY)"
        )
    assert set(ran(project, "shop").values()) == {"completed"}
    assert sorted(table(database, "SELECT * FROM customers")) == [(1, "a"), (2, "c")]
    assert table(database, 'SELECT * FROM "Odd dot.ted"') == [("x", "y")] * 2
    assert table(database, "SELECT * FROM late") == []


@pytest.mark.parametrize(
    ("source", "sink"),
    [("postgresql://a:b@h/d", "postgresql://a:c@h/d"), ("s3://k:s@lake/raw", "s3://other:t@lake/raw/")],
)
def test_a_system_is_not_replicated_into_itself(tmp_path: Path, source: str, sink: str) -> None:
    said = penstock("init", tmp_path / "new", "--from", source, "--to", sink)
    assert (said.code, "is the source, too" in said.error) == (1, True), said.error
    assert not (tmp_path / "new").exists()


@pytest.mark.chaos
def test_a_folder_into_duckdb(replicate: Replicate, tmp_path: Path) -> None:
    lake, file = tmp_path / "lake", tmp_path / "house.duckdb"
    for path in ("orders_2026-11-29.csv", "orders_2026-11-30.csv", "events/a.csv", "events/2026/b.csv"):
        (lake / path).parent.mkdir(parents=True, exist_ok=True)
        (lake / path).write_text("id,name\n1,a\n2,b\n")
    project = replicate("lake", str(lake), str(file))
    assert ran(project, "lake") == {"lake/events": "completed", "lake/orders_[0-9]*.csv": "completed"}
    assert query_file(file, "SELECT (SELECT count(*) FROM orders), (SELECT count(*) FROM events)") == [(4, 4)]
    assert project.done("run", "lake/orders_[0-9]*.csv", "--full", "--watch")["counters"]["rows_out"] == 4


def test_a_mysql_server_into_postgres(
    replicate: Replicate, mariadb: MysqlServer, new_schema: Callable[[], str], database: str
) -> None:
    shop = new_schema()
    for statement in (
        "CREATE TABLE customers (id int PRIMARY KEY, updated_at timestamp(6) NOT NULL DEFAULT current_timestamp(6))",
        "INSERT INTO customers (id) VALUES (1), (2)",
        "CREATE TABLE `Odd lines` (c int, n int, PRIMARY KEY (c, n), FOREIGN KEY (c) REFERENCES customers (id))",
        "INSERT INTO `Odd lines` VALUES (1, 1), (1, 2), (2, 1)",
    ):
        mariadb.query(statement, shop)
    url = f"mysql://penstock:{SECRET}@127.0.0.1:{mariadb.port}/{shop}"
    project = replicate("shop", url, database)
    assert SECRET not in "".join(path.read_text() for path in project.folder.rglob("*.yaml"))
    tables = yaml.safe_load((project.folder / "pipelines" / "shop.yaml").read_text())["spec"]["tables"]
    assert tables == {f"{shop}.customers": {"source": {"cursor": {"field": "updated_at", "lag": "5m"}}}}
    assert ran(project, "shop") == {f"shop/{shop}.customers": "completed", f"shop/{shop}.Odd lines": "completed"}
    assert len(table(database, f'SELECT * FROM {shop}."Odd lines"')) == 3


@pytest.mark.chaos
@pytest.mark.xdist_group("kafka")
def test_topics_into_postgres(replicate: Replicate, kafka: KafkaServer, database: str) -> None:
    for name in ("replica.orders", "replica.Lines-1"):
        kafka.create(name)
        kafka.send(name, *(json.dumps({"id": number}).encode() for number in range(10)))
    project = replicate("bus", f"kafka://{kafka.bootstrap}", database, "--include", "replica.*")
    project.up()
    query = 'SELECT (SELECT count(*) FROM "replica.orders"), (SELECT count(*) FROM "replica.Lines-1")'

    def rows() -> bool:
        try:
            return table(database, query) == [(10, 10)]
        except psycopg.errors.UndefinedTable:
            return False

    until(rows, "all messages")
    stopped = {one["name"] for one in project.done("list", "--members") if one["status"] == "active"}
    assert stopped == {"bus", "bus/replica.orders", "bus/replica.Lines-1"}


@pytest.mark.xdist_group("cdc")
def test_the_changes_of_a_database_into_another(replicate: Replicate, logical: EmbeddedServer) -> None:
    for name in ("replica_shop", "replica_house"):
        logical.create_database(name)
    shop, house = logical.dsn("replica_shop"), logical.dsn("replica_house")
    with psycopg.connect(shop, autocommit=True) as session:
        session.execute("CREATE TABLE orders (id int PRIMARY KEY, note text); CREATE TABLE keyless (x int)")
        session.execute("INSERT INTO orders SELECT n, 'a' FROM generate_series(1, 10) n")
        project = replicate("shop", shop, house, "--cdc")
        tables = yaml.safe_load((project.folder / "pipelines" / "shop.yaml").read_text())["spec"]["tables"]
        assert tables == {"public.keyless": {"disabled": True}}
        project.up()
        until(lambda: rows_of(house) == [(n, "a") for n in range(1, 11)], "the snapshot")
        session.execute("UPDATE orders SET note = 'b' WHERE id < 3; DELETE FROM orders WHERE id > 3")
        until(lambda: rows_of(house) == [(1, "b"), (2, "b"), (3, "a")], "the changes")
    project.done("delete", "shop", "--yes")


def rows_of(house: str) -> list[tuple[object, ...]]:
    try:
        return table(house, "SELECT * FROM orders ORDER BY id")
    except psycopg.errors.UndefinedTable:
        return []
