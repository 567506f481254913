"""What `plan` says about rows, statements and privileges of MySQL, against a server."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import product
from pathlib import Path
from typing import Any

import pymysql
import pytest

from dataflows.connectors.mysql.errors import penstock_error
from dataflows.runs.job import Job
from dataflows.runs.planning import plan
from dataflows.runs.survey import opened
from penstock.errors import AccessDenied, PenstockError, Refused
from tests.dataflows.conftest import Launchers, task_of
from tests.mariadb import MysqlServer
from tests.pairs import soon

SECRET = "loader's secret"


@pytest.fixture
def loader(mariadb: MysqlServer) -> Iterator[dict[str, Any]]:
    """Return the connection of a user without any privilege."""
    (mariadb.home / "loader").write_text(SECRET)
    mariadb.query("CREATE USER `the loader`@'%%' IDENTIFIED BY %s", values=[SECRET])
    yield {"user": "the loader", "password": f"${{file:{mariadb.home}/loader}}"}
    mariadb.query("DROP USER `the loader`@'%'")


Tasks = Callable[..., dict[str, Any]]


@pytest.fixture
def task(
    mariadb: MysqlServer, new_schema: Callable[[], str], loader: dict[str, Any], tmp_path: Path
) -> tuple[Tasks, str, str]:
    """Return tasks over two databases, and the databases; `as_loader` is the user without privileges."""
    shop, stock = new_schema(), new_schema()

    def made(run: str, source: dict[str, Any], sink: dict[str, Any], *, as_loader: bool = True, **spec: Any) -> Any:
        who = loader if as_loader else {}
        connections = {"shop": mariadb.connection(shop, **who), "stock": mariadb.connection(stock, **who)}
        ends = {"source": {"connection": "shop", **source}, "sink": {"connection": "stock", **sink}}
        return task_of(run, "u", connections, {**ends, **spec}, tmp_path, secrets=str(mariadb.home))

    return made, shop, stock


def planned(task: dict[str, Any]) -> dict[str, Any]:
    job = Job.from_task(task, secrets=Path(task["secrets"]))
    with opened(job) as ends:
        return plan(job, ends)


def granted(server: MysqlServer, one: dict[str, Any]) -> list[str]:
    """Plan until nothing is refused, and execute each time what the hint says; return that."""
    done: list[str] = []
    while (refused := _refusal(one)) is not None:
        assert len(done) < 8, done
        assert "\n" not in refused
        found = re.findall(r"GRANT [^;]+ TO 'the loader'@'%'", refused)
        assert found, refused
        for statement in found:
            server.query(statement)
        done += found
    return done


def _refusal(one: dict[str, Any]) -> str | None:
    try:
        planned(one)
    except (AccessDenied, Refused) as error:
        return str(error)
    return None


def test_rows_are_estimated_for_tables_partitions_views_and_windows(
    mariadb: MysqlServer, task: tuple[Tasks, str, str], launchers: Launchers
) -> None:
    tasks, shop, _ = task
    for statement in (
        "CREATE TABLE plain (id int PRIMARY KEY, b int)",
        "INSERT INTO plain SELECT seq, seq % 10 FROM seq_1_to_20000",
        "CREATE TABLE parts (id int PRIMARY KEY) PARTITION BY HASH (id) PARTITIONS 3",
        "INSERT INTO parts SELECT seq FROM seq_1_to_20000",
        "CREATE VIEW seen AS SELECT id, b + 1 AS c FROM plain",
    ):
        mariadb.query(statement, shop)
    for name in ("plain", "parts", "seen"):
        one = tasks("r", {"object": name}, {"object": f"to_{name}", "write": "replace"}, as_loader=False)
        assert 10_000 < planned(one)["estimated_rows"] < 40_000, name
    append = tasks(
        "r1",
        {"object": "plain", "cursor": {"field": "id", "ordered": True}},
        {"object": "copy", "write": "append"},
        as_loader=False,
    )
    assert (ran := launchers.run(append))["status"] == "completed", ran["error"]
    mariadb.query("INSERT INTO plain SELECT seq, 1 FROM seq_20001_to_20500", shop)
    found = planned(append)
    assert found["above"] == "20000"
    assert 200 < found["estimated_rows"] < 1_000


@pytest.mark.parametrize("write", soon(["append", "replace", "merge"], "replace", "merge"))
def test_the_statements_of_a_plan_are_those_that_the_run_executes(
    mariadb: MysqlServer, task: tuple[Tasks, str, str], launchers: Launchers, write: str
) -> None:
    tasks, shop, stock = task
    mariadb.query('CREATE TABLE `Order by` (`Se``lect "x"` int PRIMARY KEY, `table` decimal(9,2) NOT NULL)', shop)
    cursor = {} if write == "replace" else {"cursor": {"field": 'Se`lect "x"', "ordered": True}}
    sink = {"object": "Group By", "write": write} | ({"key": ['Se`lect "x"']} if write == "merge" else {})
    one = tasks("r1", {"object": "Order by", **cursor}, sink, as_loader=False, schema={"additive": "apply"})
    (shown,) = planned(one)["statements"]
    assert "`table` DECIMAL(9,2) NOT NULL" in shown
    mariadb.query(shown.replace("%", "%%"), stock)
    made = mariadb.query("SHOW CREATE TABLE `Group By`", stock)
    mariadb.query("DROP TABLE `Group By`", stock)
    ran = launchers.run(one)
    assert ran["status"] == "completed", ran["error"]
    assert mariadb.query("SHOW CREATE TABLE `Group By`", stock) == made
    mariadb.query("ALTER TABLE `Order by` ADD `Column` date", shop)
    (added,) = planned(one)["statements"]
    mariadb.query(added, stock)
    assert planned(one)["statements"] == []


@pytest.mark.parametrize(
    ("write", "there"),
    soon(
        product(("append", "replace", "merge", "delete"), (False, True)),
        ("append", False),
        ("replace", True),
        ("merge", True),
        ("delete", False),
    ),
)
def test_the_grants_that_a_plan_names_are_enough_for_the_run(
    mariadb: MysqlServer,
    task: tuple[Tasks, str, str],
    launchers: Launchers,
    write: str,
    there: bool,
) -> None:
    tasks, shop, stock = task
    mariadb.query("CREATE TABLE items (id int PRIMARY KEY, b text, v int NOT NULL, gone bool)", shop)
    mariadb.query("INSERT INTO items SELECT seq, 'x', seq, seq % 7 = 0 FROM seq_1_to_300", shop)
    mode = "merge" if write == "delete" else write
    sink: dict[str, Any] = {"object": "items", "write": mode} | (
        {"key": ["id"], "version": "v"} if mode == "merge" else {}
    )
    sink |= {"delete": "gone"} if write == "delete" else {}
    cursor = {} if mode == "replace" else {"cursor": {"field": "id", "ordered": True}}
    if there:
        owner = tasks("r0", {"object": "items", **cursor}, sink, as_loader=False) | {"uid": "other"}
        assert launchers.run(owner)["status"] == "completed"
        if mode == "append":
            mariadb.query("TRUNCATE items", stock)
    one = tasks("r1", {"object": "items", **cursor}, sink)
    done = granted(mariadb, one)
    assert f"GRANT SELECT ON `{shop}`.* TO 'the loader'@'%'" in done
    ran = launchers.run(one)
    assert ran["status"] == "completed", (ran["error"], done)
    assert ran["counters"]["rows_in"] == 300


@pytest.mark.parametrize("seen", [True, False])
def test_columns_that_may_not_be_read_are_never_left_out_in_silence(
    mariadb: MysqlServer,
    task: tuple[Tasks, str, str],
    launchers: Launchers,
    seen: bool,
) -> None:
    tasks, shop, stock = task
    mariadb.query("CREATE TABLE people (id int PRIMARY KEY, name text, salary int)", shop)
    mariadb.query("INSERT INTO people VALUES (1, 'a', 5), (2, 'b', 6)", shop)
    mariadb.query(f"GRANT SELECT (id, name) ON {shop}.people TO 'the loader'@'%'")
    if seen:
        mariadb.query(f"GRANT INSERT (salary) ON {shop}.people TO 'the loader'@'%'")
    mariadb.query(f"GRANT ALL ON {stock}.* TO 'the loader'@'%'")
    whole = tasks("r1", {"object": "people"}, {"object": "copy", "write": "replace"})
    grant = "GRANT SELECT (`salary`)" if seen else "GRANT SELECT"
    with pytest.raises(PenstockError) as refused:
        planned(whole)
    assert f"{grant} ON `{shop}`.`people` TO 'the loader'@'%'" in str(refused.value)
    assert launchers.run(whole)["status"] == "failed"
    fields = [{"target": name, "from": name} for name in ("id", "name")]
    part = tasks("r2", {"object": "people"}, {"object": "copy", "write": "replace"}, mapping={"fields": fields})
    planned(part)
    ran = launchers.run(part)
    assert ran["status"] == "completed", ran["error"]
    assert mariadb.query("SELECT * FROM copy ORDER BY id", stock) == [(1, "a"), (2, "b")]


def test_a_table_that_the_user_may_not_see_is_refused_with_the_grant(
    mariadb: MysqlServer, task: tuple[Tasks, str, str]
) -> None:
    tasks, shop, stock = task
    mariadb.query("CREATE TABLE hidden (id int PRIMARY KEY)", shop)
    mariadb.query("CREATE TABLE seen (id int PRIMARY KEY)", shop)
    mariadb.query(f"GRANT SELECT ON {shop}.seen TO 'the loader'@'%'")
    mariadb.query(f"GRANT ALL ON {stock}.* TO 'the loader'@'%'")
    with pytest.raises(AccessDenied, match=r"may not read .+hidden, or there is no such table; GRANT SELECT ON"):
        planned(tasks("r1", {"object": "hidden"}, {"object": "copy", "write": "replace"}))


def test_the_statements_that_a_refusal_names_run_as_they_are(
    mariadb: MysqlServer, task: tuple[Tasks, str, str]
) -> None:
    tasks, shop, stock = task
    mariadb.query("CREATE TABLE `From` (`Id` int PRIMARY KEY, `group` int)", shop)
    mariadb.query("CREATE TABLE `Into it` (`Id` int NOT NULL, `group` int) ENGINE = MyISAM", stock)
    sink = {"object": "Into it", "write": "merge", "key": ["Id"]}
    one = tasks("r1", {"object": "From"}, sink, as_loader=False)
    seen = []
    while (found := re.search(r"ALTER TABLE [^;]+", _refusal(one) or "")) is not None:
        mariadb.query(found[0])
        seen.append(found[0].partition("`.")[2])
    assert seen == ["`Into it` ENGINE = InnoDB", "`Into it` ADD PRIMARY KEY (`Id`)"]
    assert planned(one)["exists"]


def test_a_password_that_has_expired_is_told(mariadb: MysqlServer) -> None:
    mariadb.query("CREATE USER late@'%%' IDENTIFIED BY %s PASSWORD EXPIRE", values=[SECRET])
    try:
        with (
            closing(
                pymysql.connect(unix_socket=mariadb.socket, user="late", password=SECRET, ssl_disabled=True)
            ) as one,
            one.cursor() as cursor,
            pytest.raises(pymysql.err.Error) as caught,
        ):
            cursor.execute("SELECT 1")
    finally:
        mariadb.query("DROP USER late@'%'")
    error = penstock_error(caught.value, "orders: connection lake")
    assert type(error) is AccessDenied
    assert "password of this user has expired" in error.what
