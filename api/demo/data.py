"""The demo's databases and pipelines: TPC-H at a small scale, made by `tpchgen-cli`, and an empty warehouse."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from api.starter import SHOP, WAREHOUSE
from penstock import postgres
from penstock.errors import Unavailable
from penstock.topics.embedded import EmbeddedServer

__all__ = ["CHECKS", "SCALE", "TABLES", "Rows", "pipelines", "prepare"]

SCALE: Final = 0.1
"""TPC-H's scale factor: 15 000 customers, 150 000 orders, 600 572 line items."""

GENERATOR: Final = "tpchgen-cli>=2"
"""Package of the generator, as the extra `demo` names it. Named alone: another index may have another `penstock`."""

TABLES: Final = {
    "customer": """
        c_custkey bigint PRIMARY KEY, c_name text NOT NULL, c_address text NOT NULL, c_nationkey integer NOT NULL,
        c_phone text NOT NULL, c_acctbal numeric(15,2) NOT NULL, c_mktsegment text NOT NULL, c_comment text NOT NULL""",
    "orders": """
        o_orderkey bigint PRIMARY KEY, o_custkey bigint NOT NULL, o_orderstatus text NOT NULL,
        o_totalprice numeric(15,2) NOT NULL, o_orderdate date NOT NULL, o_orderpriority text NOT NULL,
        o_clerk text NOT NULL, o_shippriority integer NOT NULL, o_comment text NOT NULL""",
    "lineitem": """
        l_orderkey bigint NOT NULL, l_partkey bigint NOT NULL, l_suppkey bigint NOT NULL, l_linenumber integer NOT NULL,
        l_quantity numeric(15,2) NOT NULL, l_extendedprice numeric(15,2) NOT NULL, l_discount numeric(15,2) NOT NULL,
        l_tax numeric(15,2) NOT NULL, l_returnflag text NOT NULL, l_linestatus text NOT NULL, l_shipdate date NOT NULL,
        l_commitdate date NOT NULL, l_receiptdate date NOT NULL, l_shipinstruct text NOT NULL, l_shipmode text NOT NULL,
        l_comment text NOT NULL, PRIMARY KEY (l_orderkey, l_linenumber)""",
}
"""The source tables, as TPC-H defines them, with their keys."""

WAREHOUSE_TABLES: Final = """
CREATE SCHEMA sales;
CREATE TABLE sales.customers (
  customer_id bigint PRIMARY KEY, name text NOT NULL, segment text NOT NULL, balance numeric(15,2) NOT NULL,
  in_debt boolean NOT NULL);
CREATE TABLE sales.orders (
  order_id bigint PRIMARY KEY, customer_id bigint NOT NULL, status text NOT NULL, total numeric(15,2) NOT NULL,
  ordered_on date NOT NULL, priority text NOT NULL);
CREATE TABLE sales.line_items (
  order_id bigint NOT NULL, line integer NOT NULL, part_id bigint NOT NULL, quantity integer NOT NULL,
  revenue numeric(18,4) NOT NULL, shipped_on date NOT NULL, ship_mode text NOT NULL, late boolean NOT NULL,
  PRIMARY KEY (order_id, line));
"""

_CUSTOMERS: Final = """\
apiVersion: penstock/v1
kind: Pipeline
metadata: {name: customers, owner: demo}
spec:
  source: {connection: shop, object: public.customer}      # no cursor: everything, each time
  mapping:
    fields:
      - {target: customer_id, from: c_custkey}
      - {target: name, from: c_name}
      - {target: segment, sql: "lower(c_mktsegment)"}
      - {target: balance, from: c_acctbal}
      - {target: in_debt, sql: "c_acctbal < 0"}
  sink: {connection: warehouse, object: sales.customers, write: replace}
"""

_ORDERS: Final = """\
apiVersion: penstock/v1
kind: Pipeline
metadata: {name: orders, owner: demo}
spec:
  source: {connection: shop, object: public.orders, cursor: {field: o_orderkey, ordered: true}}     # what is new
  mapping:
    fields:
      - {target: order_id, from: o_orderkey}
      - {target: customer_id, from: o_custkey}
      - {target: status, sql: "CASE o_orderstatus WHEN 'O' THEN 'open' WHEN 'F' THEN 'final' ELSE 'partial' END"}
      - {target: total, from: o_totalprice}
      - {target: ordered_on, from: o_orderdate}
      - {target: priority, sql: "split_part(o_orderpriority, '-', 1)"}
  sink: {connection: warehouse, object: sales.orders, write: append}
"""

_LINE_ITEMS: Final = """\
apiVersion: penstock/v1
kind: Pipeline
metadata: {name: line-items, owner: demo, labels: {tier: gold}}
spec:
  source: {connection: shop, object: public.lineitem, cursor: {field: l_orderkey, ordered: true}}
  mapping:
    fields:
      - {target: order_id, from: l_orderkey}
      - {target: line, from: l_linenumber}
      - {target: part_id, from: l_partkey}
      - {target: quantity, sql: "CAST(l_quantity AS integer)"}
      - {target: revenue, sql: "CAST(l_extendedprice * (1 - l_discount) AS numeric(18,4))"}
      - {target: shipped_on, from: l_shipdate}
      - {target: ship_mode, sql: "lower(l_shipmode)"}
      - {target: late, sql: "l_receiptdate > l_commitdate"}
  sink: {connection: warehouse, object: sales.line_items, write: append}
"""

CHECKS: Final = {
    "customers": (
        """SELECT count(*), sum(c_custkey), sum(c_acctbal), count(*) FILTER (WHERE c_acctbal < 0),
            md5(string_agg(lower(c_mktsegment), ',' ORDER BY c_custkey)) FROM customer""",
        """SELECT count(*), sum(customer_id), sum(balance), count(*) FILTER (WHERE in_debt),
            md5(string_agg(segment, ',' ORDER BY customer_id)) FROM sales.customers""",
    ),
    "orders": (
        """SELECT count(*), sum(o_orderkey), sum(o_totalprice), sum(o_orderdate - date '1990-01-01'),
            md5(string_agg(o_custkey || split_part(o_orderpriority, '-', 1), ',' ORDER BY o_orderkey)) FROM orders""",
        """SELECT count(*), sum(order_id), sum(total), sum(ordered_on - date '1990-01-01'),
            md5(string_agg(customer_id || priority, ',' ORDER BY order_id)) FROM sales.orders""",
    ),
    "line-items": (
        """SELECT count(*), sum(l_quantity)::bigint, sum(l_extendedprice * (1 - l_discount)),
            count(*) FILTER (WHERE l_receiptdate > l_commitdate),
            md5(string_agg(l_partkey || lower(l_shipmode), ',' ORDER BY l_orderkey, l_linenumber)) FROM lineitem""",
        """SELECT count(*), sum(quantity), sum(revenue), count(*) FILTER (WHERE late),
            md5(string_agg(part_id || ship_mode, ',' ORDER BY order_id, line)) FROM sales.line_items""",
    ),
}
"""For each pipeline the same counts and checksums, as a query on the source and as one on the warehouse."""


def pipelines() -> dict[str, str]:
    """Return the pipelines' files by name."""
    return {"customers": _CUSTOMERS, "orders": _ORDERS, "line-items": _LINE_ITEMS}


def prepare(server: EmbeddedServer) -> None:
    """Create the empty tables of the source and of the warehouse."""
    with postgres.connect(server.dsn(WAREHOUSE), "penstock:demo") as session:
        session.execute(WAREHOUSE_TABLES)
    with postgres.connect(server.dsn(SHOP), "penstock:demo") as session:
        for name, columns in TABLES.items():
            session.execute(f"CREATE TABLE {name} ({columns})".encode())


class Rows:
    """TPC-H's rows at `scale`, generated in the background while this is entered.

    Raises:
        Unavailable: the generator is not installed, or fails.
    """

    def __init__(self, scale: float = SCALE) -> None:
        self._scale = scale

    def __enter__(self) -> Self:
        program = _program()
        self._folder = tempfile.TemporaryDirectory(prefix="penstock-tpch-")
        self._output = Path(self._folder.name) / "output"
        options = ("--num-threads", "1", "--output-dir", self._folder.name, "--tables", ",".join(TABLES))
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(
                [program, "csv", "-s", str(self._scale), *options],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self._process.kill()
        self._process.wait()
        self._folder.cleanup()

    def load(self, server: EmbeddedServer, tables: Iterable[str]) -> None:
        """Fill `tables` of the source, once all rows are generated."""
        if self._process.wait():
            last_words = self._output.read_text(errors="replace")[-200:]
            raise Unavailable("the generator of the demo's data failed", where="tpchgen-cli", hint=last_words)
        for name in tables:
            _load(server, name, Path(self._folder.name) / f"{name}.csv")


def _program() -> str:
    installed = Path(sys.executable).parent / "tpchgen-cli"
    program = str(installed) if installed.exists() else shutil.which("tpchgen-cli")
    if program is None:
        what, python = "the generator of the demo's data is not installed", shlex.quote(sys.executable)
        raise Unavailable(what, where="penstock demo", hint=f"{python} -m pip install '{GENERATOR}'")
    return program


def _load(server: EmbeddedServer, name: str, path: Path) -> None:
    with (
        postgres.connect(server.dsn(SHOP), "penstock:demo") as session,
        session.cursor() as cursor,
        path.open("rb") as file,
    ):
        with cursor.copy(f"COPY {name} FROM STDIN (FORMAT csv, HEADER)".encode()) as copy:
            while block := file.read(1 << 20):
                copy.write(block)
        cursor.execute(f"ANALYZE {name}".encode())
