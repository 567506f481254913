"""The example of change data capture, from `apply` to `delete`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from penstock.topics.embedded import EmbeddedServer
from tests.api.project import Project, until

pytestmark = pytest.mark.xdist_group("cdc")

EXAMPLE = Path(__file__).parents[2] / "examples" / "cdc"
ROWS = "SELECT * FROM mirrored_orders ORDER BY id"
MORE = "  schema: {additive: apply}\n  errors: {dead_letter: {fail_above: 100%}}\n"


@pytest.fixture
def ends(logical: EmbeddedServer) -> Iterator[dict[str, psycopg.Connection[Any]]]:
    """Sessions with both databases of the example."""
    with psycopg.connect(logical.dsn("postgres"), autocommit=True) as session:
        for name in ("shop", "warehouse"):
            session.execute(f"CREATE DATABASE {name}")
    with (
        psycopg.connect(logical.dsn("shop"), autocommit=True, prepare_threshold=None) as shop,
        psycopg.connect(logical.dsn("warehouse"), autocommit=True, prepare_threshold=None) as warehouse,
    ):
        yield {"shop": shop, "warehouse": warehouse}


def rows(session: psycopg.Connection[Any]) -> list[tuple[Any, ...]]:
    return session.execute(ROWS).fetchall()


def test_the_example_of_changes(
    running: Project, logical: EmbeddedServer, ends: dict[str, psycopg.Connection[Any]], tmp_path: Path
) -> None:
    shop, mirror = ends["shop"], ends["warehouse"]
    shop.execute((EXAMPLE / "shop.sql").read_bytes())
    text = (EXAMPLE / "connections.yaml").read_text()
    for name in ("shop", "warehouse"):
        text = text.replace(f"host=localhost dbname={name} user=penstock", logical.dsn(name))
    text = text.replace("shop:", "cdc_shop:")  # the sample has a shop of its own
    connections = running.folder / "connections.yaml"
    connections.write_text(connections.read_text() + text)
    file = tmp_path / "orders.yaml"
    spec = (EXAMPLE / "orders.yaml").read_text().replace("connection: shop", "connection: cdc_shop")
    file.write_text(spec.replace("  mode: stream\n", f"  mode: stream\n{MORE}"))
    running.done("apply", connections, file)
    until(lambda: _same(shop, mirror), "the snapshot")
    said = running.do("plan", "orders_mirror")
    assert "orders_mirror: merge into public.mirrored_orders, changes as they come" in said.out, said.err
    shop.execute((EXAMPLE / "changes.sql").read_bytes())
    until(lambda: _same(shop, mirror), "the changes")
    until(lambda: _behind(running) == 0, "the end of the changes")
    assert "0 bytes behind, newest event" in running.do("status", "orders_mirror").out
    shop.execute("ALTER TABLE mirrored_orders ADD gift boolean NOT NULL DEFAULT false")
    shop.execute("UPDATE mirrored_orders SET gift = true WHERE id = (SELECT min(id) FROM mirrored_orders)")
    until(lambda: _same(shop, mirror), "the new column")
    until(lambda: _observed(running) == 2, "the event of the new schema")
    until(lambda: running.done("status", "orders_mirror")["slot"]["active"], "the slot to be in use")
    slot = running.done("status", "orders_mirror")["slot"]
    assert (slot["status"], slot["room"]) == ("reserved", None)
    _a_change_is_redriven(running, shop, mirror)
    running.done("pause", "orders_mirror")
    until(lambda: not running.done("status", "orders_mirror")["slot"]["active"], "the end of the run")
    shop.execute("SELECT pg_logical_emit_message(false, 'other', repeat('x', 3000000))")
    line = running.do("status", "orders_mirror").out
    assert f"slot {slot['name']}: not active, reserved; its source keeps " in line
    _members_share_one_slot(running, shop, mirror, tmp_path / "copies.yaml")
    running.done("delete", "orders_mirror", "--yes")
    until(lambda: running.do("status", "orders_mirror").code == 3, "the end of the deletion")
    assert shop.execute("SELECT count(*) FROM pg_replication_slots WHERE database = 'shop'").fetchone() == (0,)
    assert shop.execute("SELECT count(*) FROM pg_publication").fetchone() == (0,)


def _a_change_is_redriven(running: Project, shop: psycopg.Connection[Any], mirror: psycopg.Connection[Any]) -> None:
    mirror.execute("ALTER TABLE mirrored_orders ADD CONSTRAINT few CHECK (total < 1000)")
    shop.execute("UPDATE mirrored_orders SET total = 5000 WHERE id IN (SELECT id FROM mirrored_orders LIMIT 2)")
    until(lambda: len(running.done("dlq", "list", "orders_mirror")) == 2, "the letters")
    one, other = running.done("dlq", "list", "orders_mirror")
    key = one["values"]["id"]
    shop.execute("UPDATE mirrored_orders SET total = 7 WHERE id = %s", (key,))
    until(lambda: len(running.done("dlq", "list", "orders_mirror", "--state", "overtaken")) == 1, "the later change")
    shown = running.do("dlq", "show", one["id"]).out
    assert f"; of key {key}; " in shown
    assert "a later one of its key is written" in shown
    fix = ("dlq", "fix", "orders_mirror", "--set", "total=999")
    tried = running.done(*fix)
    assert (tried["passed"], tried["overtaken"]) == (1, 1)
    done = running.done(*fix, "--apply")
    assert (done["written"], done["overtaken"], done["refused"]) == (1, 1, 0)
    shop.execute("UPDATE mirrored_orders SET total = 999 WHERE id = %s", (other["values"]["id"],))
    until(lambda: _same(shop, mirror), "the same rows")
    assert "1 dropped as later changes are written" in running.do("status", "orders_mirror").out


SET = """
kind: Pipeline
metadata: {name: copies}
spec:
  mode: stream
  source: {connection: cdc_shop, objects: [public.one, public.two]}
  sink: {connection: mirror, object: "copied.{table}", write: merge, key: auto}
  limits: {linger: 100ms}
"""
SLOTS = "SELECT count(*) FROM pg_replication_slots WHERE database = 'shop' AND active"


def _copied(shop: psycopg.Connection[Any], mirror: psycopg.Connection[Any]) -> bool:
    """True if both members of the set have the rows of their tables."""
    for name in ("one", "two"):
        if mirror.execute(f"SELECT to_regclass('copied.{name}') IS NOT NULL").fetchone() != (True,):
            return False
        query = "SELECT * FROM {}.{} ORDER BY id"
        if (
            shop.execute(query.format("public", name)).fetchall()
            != mirror.execute(query.format("copied", name)).fetchall()
        ):
            return False
    return True


def _members_share_one_slot(
    running: Project, shop: psycopg.Connection[Any], mirror: psycopg.Connection[Any], file: Path
) -> None:
    for name in ("one", "two"):
        shop.execute(f"CREATE TABLE {name} AS SELECT n AS id FROM generate_series(1, 50) n")
        shop.execute(f"ALTER TABLE {name} ADD PRIMARY KEY (id)")
    file.write_text(SET)
    running.done("apply", file)
    until(lambda: _copied(shop, mirror), "the snapshots")
    until(lambda: shop.execute(SLOTS).fetchone() == (1,), "one slot")
    shop.execute("BEGIN; DELETE FROM one WHERE id < 9; INSERT INTO two VALUES (99); COMMIT")
    until(lambda: _copied(shop, mirror), "the changes of both")
    running.done("delete", "copies", "--yes")
    until(lambda: running.do("status", "copies").code == 3, "the end of the deletion")


def _behind(running: Project) -> Any:
    """Return by how much the stream is behind; None until it has reported something."""
    return (running.done("status", "orders_mirror")["stream"] or {}).get("behind")


def _observed(running: Project) -> int:
    """Return how many schemas of the source the log has."""
    return running.do("events", "--type", "schema.observed").out.count("cdc_shop:public.mirrored_orders")


def _same(shop: psycopg.Connection[Any], mirror: psycopg.Connection[Any]) -> bool:
    found = mirror.execute("SELECT to_regclass('mirrored_orders') IS NOT NULL").fetchone()
    return found == (True,) and rows(shop) == rows(mirror)
