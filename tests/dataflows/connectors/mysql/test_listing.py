"""Tables of a MySQL server as objects of a set."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dataflows.connectors.mysql import listing
from tests.dataflows.listings import before, columns, found
from tests.mariadb import SECRET, MysqlServer

ODD = ["Two Words", "tick`ed", "it's", "dot.ted", "sl/ash", "Größe 東", "select", "br{ac}e [x]*", "%per_cent"]


def quoted(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"


def test_tables_of_mysql_are_objects(mariadb: MysqlServer, new_schema: Callable[[], str]) -> None:
    one, two = new_schema(), new_schema()
    mariadb.query("CREATE TABLE t (id int PRIMARY KEY)", two)
    for statement in (
        "CREATE TABLE customers (id int PRIMARY KEY)",
        f"CREATE TABLE orders (b int, a int, c int, PRIMARY KEY (a, b), FOREIGN KEY (c) REFERENCES {two}.t (id))",
        "CREATE TABLE order_lines (a int, b int, FOREIGN KEY (a, b) REFERENCES orders (a, b))",
        "CREATE TABLE partial (x varchar(100), PRIMARY KEY (x(5)))",
        "CREATE TABLE _penstock_positions (x int)",
        "CREATE VIEW recent AS SELECT * FROM orders",
        "CREATE SEQUENCE numbers",
        *(f"CREATE TABLE {quoted(name)} (a varchar(9) PRIMARY KEY)" for name in ODD),
    ):
        mariadb.query(statement, one)
    here = mariadb.connection(one)
    asked = (f"{one}.order_lines", f"{one}.ORDERS", "customers", f"{two}.t")
    keys = {f"{one}.order_lines": [f"{one}.ORDERS"], f"{one}.ORDERS": [f"{two}.t"]}
    assert before(here, *asked, secrets=mariadb.home) == keys
    objects = found(here, "*", secrets=mariadb.home)
    odd = [f"{one}.{name}" for name in ODD]
    assert set(objects) == {f"{one}.{name}" for name in ("customers", "orders", "order_lines", "partial")} | {*odd}
    assert objects[f"{one}.orders"].key == ("a", "b")
    assert objects[f"{one}.partial"].key == (), "the beginnings of texts are no key"
    assert list(objects).index(f"{one}.orders") < list(objects).index(f"{one}.order_lines")
    assert [columns(here, name, mariadb.home) for name in odd] == [["a"]] * len(odd)
    assert set(found(here, f"{one}.c*", f"{one}.recent", secrets=mariadb.home)) == {f"{one}.customers", f"{one}.recent"}

    every = {key: value for key, value in here.items() if key != "database"}
    both = list(found(every, f"{one}.*", f"{two}.*", secrets=mariadb.home))
    assert set(both) == {*objects, f"{two}.t"}
    assert both.index(f"{two}.t") < both.index(f"{one}.orders"), "a foreign key into another database"
    assert not any(
        name.startswith(("mysql.", "information_schema.")) for name in found(every, "*", secrets=mariadb.home)
    )


def test_a_renamed_table_keeps_its_identity_where_the_user_may_see_it(
    mariadb: MysqlServer, new_schema: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    schema = new_schema()
    for name in ODD:
        mariadb.query(f"CREATE TABLE {quoted(name)} (a int PRIMARY KEY)", schema)
    mariadb.query("CREATE TABLE parts (a int PRIMARY KEY) PARTITION BY HASH (a) PARTITIONS 2", schema)
    here = mariadb.connection(schema)

    def identities() -> dict[str, str | None]:
        objects = found(here, "*", secrets=mariadb.home)
        return {name.removeprefix(f"{schema}."): one.identity for name, one in objects.items()}

    first = identities()
    assert first.pop("parts") is None
    assert len({one for one in first.values() if one}) == len(ODD), "each has its own"
    mariadb.query("RENAME TABLE `Größe 東` TO `now.$`, `select` TO `Größe 東`", schema)
    second = identities()
    assert (second["now.$"], second["Größe 東"]) == (first["Größe 東"], first["select"])
    with monkeypatch.context() as older:
        older.setattr(listing, "_SERVER", "SHOW GLOBAL VARIABLES LIKE 'server_of_old'")
        assert set(identities().values()) == {None}, "another server has the same numbers"
    mariadb.query(f"CREATE USER {schema}_reader IDENTIFIED BY '{SECRET}'")
    mariadb.query(f"GRANT SELECT ON {schema}.* TO {schema}_reader")
    here |= {"user": f"{schema}_reader"}
    assert set(identities().values()) == {None}, "without PROCESS"
