"""A ready-made project: sample databases on the embedded server, connections, pipelines and a policy."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from penstock import postgres
from penstock.errors import UsageError
from penstock.settings import FILE, load
from penstock.topics.embedded import EmbeddedServer

__all__ = ["PIPELINE", "SHOP", "WAREHOUSE", "make_project", "write_connections"]

SHOP, WAREHOUSE = "sample_shop", "sample_warehouse"

SAMPLE: Final = """
CREATE TABLE IF NOT EXISTS orders (
  id bigint PRIMARY KEY, customer text NOT NULL, price numeric(10,2) NOT NULL, quantity integer NOT NULL,
  placed_at timestamptz NOT NULL);
INSERT INTO orders
  SELECT n, 'customer ' || n % 97, (n % 500) + 0.99, n % 7 + 1,
    timestamptz '2026-01-01 00:00Z' + n * interval '1 minute'
  FROM generate_series(1, 10000) AS n
  ON CONFLICT DO NOTHING;
ANALYZE orders;
"""

SETTINGS: Final = """\
# Settings of this project; `penstock settings` shows all of them. The environment (PENSTOCK_…) comes first.
# database_url = "postgresql://penstock@localhost/penstock"   # default: the embedded server below .penstock
# slots = 2
"""

PIPELINE: Final = """\
apiVersion: penstock/v1
kind: Pipeline
metadata: {name: orders, owner: me}
spec:
  source: {connection: shop, object: public.orders, cursor: {field: id}}   # each run reads what is new
  mapping:
    fields:
      - {target: order_id, from: id}
      - {target: customer, sql: "upper(customer)"}
      - {target: total, sql: "CAST(price * quantity AS numeric(14,2))"}
      - {target: placed_at, from: placed_at}
  sink: {connection: warehouse, object: public.orders, write: append}
"""

POLICY: Final = """\
apiVersion: penstock/v1
kind: AgentPolicy
metadata: {name: default}
spec:
  orchestrator: {max_running: 4, per_connection: 2}
  constraints: {never: [drop_table]}
"""

WAREHOUSE_TABLE: Final = """
CREATE TABLE IF NOT EXISTS orders (
  order_id bigint PRIMARY KEY, customer text NOT NULL, total numeric(14,2) NOT NULL, placed_at timestamptz NOT NULL)
"""


def _sample(server: EmbeddedServer) -> None:
    for database, statements in ((SHOP, SAMPLE), (WAREHOUSE, WAREHOUSE_TABLE)):
        with postgres.connect(server.dsn(database), "penstock:init") as session:
            session.execute(statements.encode())


def make_project(
    folder: Path,
    *,
    fill: Callable[[EmbeddedServer], None] = _sample,
    pipelines: Mapping[str, str] = MappingProxyType({"orders": PIPELINE}),
) -> list[Path]:
    """Write the project and fill its databases; return the files written.

    `fill` gets the server with both databases empty; `pipelines` are files by name. Both default to the sample's.

    Raises:
        UsageError: the folder is not empty.
    """
    if folder.exists() and any(folder.iterdir()):
        raise UsageError("is not empty", where=str(folder), hint="name a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    files = {FILE: SETTINGS, "policies/default.yaml": POLICY, ".gitignore": ".penstock/\nsecrets/\n"}
    written = [_write(folder / name, text) for name, text in files.items()]
    server = EmbeddedServer(load(folder).home)
    with server.lease():
        for name in (SHOP, WAREHOUSE):
            server.create_database(name)
        written.append(write_connections(folder, server))
        fill(server)
    return written + [_write(folder / "pipelines" / f"{name}.yaml", text) for name, text in pipelines.items()]


def write_connections(folder: Path, server: EmbeddedServer) -> Path:
    """Write `connections.yaml` with the two sample databases."""
    lines = [
        f"{name}: {{type: postgres, dsn: {json.dumps(server.dsn(database))}}}"
        for name, database in (("shop", SHOP), ("warehouse", WAREHOUSE))
    ]
    return _write(folder / "connections.yaml", "\n".join(lines) + "\n")


def _write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path
