"""The demo's last chapter: sales whose source changes, with rows that are bad and a connection that breaks."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from api.starter import SHOP, WAREHOUSE
from penstock import postgres
from penstock.topics.embedded import EmbeddedServer

__all__ = [
    "BAD",
    "CHANGED",
    "FIX",
    "MENDING",
    "SALES",
    "WIDENED",
    "begin_story",
    "change",
    "kept_sales",
    "widen",
    "write_sales",
]

SALES: Final = "sales"
BAD: Final = 101
"""New rows whose amount is not a number: 100 with a comma, and one that is unknown."""
CHANGED, WIDENED = 1_000, 100
"""New rows of the first and of the second change."""
FIX: Final = "amount=replace(amount, ',', '.')"
MENDING: Final = """penstock dlq fix sales --set "amount=replace(amount, ',', '.')" --apply"""
"""The same as a command."""

_SOURCE: Final = """
CREATE TABLE sales (id bigint PRIMARY KEY, phone text NOT NULL, amount text NOT NULL, pieces integer NOT NULL);
INSERT INTO sales SELECT n, '0' || n, n || '.50', n % 9 FROM generate_series(1, 2000) AS n;
"""
_TARGET: Final = """
CREATE TABLE sales (id bigint PRIMARY KEY, phone text NOT NULL, amount numeric(12,2) NOT NULL, pieces integer NOT NULL);
"""
_RENAME: Final = """
ALTER TABLE sales RENAME phone TO phone_number;
INSERT INTO sales
  SELECT n, '0' || n, CASE WHEN n % 10 = 0 THEN n || ',50' WHEN n = 2999 THEN 'unknown' ELSE n || '.50' END, n % 9
  FROM generate_series(2001, 3000) AS n;
"""
_CUT: Final = """
CREATE SEQUENCE cuts;
CREATE FUNCTION cut() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF nextval('cuts') = 1 THEN PERFORM pg_terminate_backend(pg_backend_pid()); END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER cut AFTER INSERT ON sales FOR EACH STATEMENT EXECUTE FUNCTION cut();
"""
"""The first write to the target loses its connection."""
_WIDEN: Final = """
ALTER TABLE sales ALTER pieces TYPE bigint;
INSERT INTO sales SELECT n, '0' || n, n || '.50', 3000000000 + n FROM generate_series(3001, 3100) AS n;
"""
_KEPT: Final = (
    """SELECT count(*), sum(id), sum(replace(amount, ',', '.')::numeric(12,2)), sum(pieces),
        md5(string_agg(phone_number, ',' ORDER BY id)) FROM sales WHERE amount <> 'unknown'""",
    "SELECT count(*), sum(id), sum(amount), sum(pieces), md5(string_agg(phone, ',' ORDER BY id)) FROM sales",
)
"""What the source has and what the target should have; one row cannot be mended."""

_PIPELINE: Final = f"""\
apiVersion: penstock/v1
kind: Pipeline
metadata: {{name: {SALES}, owner: demo}}
spec:
  source: {{connection: shop, object: public.sales, cursor: {{field: id, ordered: true}}}}
  mapping:
    fields:
      - {{target: id, from: id}}
      - {{target: phone, from: phone}}
      - {{target: amount, sql: "CAST(amount AS numeric(12,2))"}}
      - {{target: pieces, from: pieces}}
  schema: {{renames: apply, types: propose}}
  errors: {{retry: {{base: 100ms, max: 1s}}, dead_letter: {{fail_above: 5%}}}}
  sink: {{connection: warehouse, object: public.sales, write: append}}
"""
_POLICY: Final = """\
apiVersion: penstock/v1
kind: AgentPolicy
metadata: {name: default}
spec:
  error_resolution: {autonomy: act, act_above: 0.5, actions: {skip_record: act}}   # up to 1,000 rows of a run
"""


def write_sales(folder: Path) -> list[Path]:
    """Write the pipeline, and the policy that lets an agent skip rows; return both files."""
    pipeline, policy = folder / "pipelines" / f"{SALES}.yaml", folder / "policies" / "default.yaml"
    pipeline.write_text(_PIPELINE)
    policy.write_text(_POLICY)
    return [policy, pipeline]


def begin_story(server: EmbeddedServer) -> None:
    """Make the source with 2 000 rows, and the empty target."""
    _execute(server, SHOP, _SOURCE)
    _execute(server, WAREHOUSE, _TARGET)


def change(server: EmbeddedServer) -> None:
    """Rename a column of the source, add rows of which some are bad, and let the target break a connection once."""
    _execute(server, SHOP, _RENAME)
    _execute(server, WAREHOUSE, _CUT)


def widen(server: EmbeddedServer) -> None:
    """Let a column of the source have greater numbers than the target's can hold, and add such rows."""
    _execute(server, SHOP, _WIDEN)


def kept_sales(server: EmbeddedServer) -> tuple[tuple[object, ...], tuple[object, ...]]:
    """Return counts and checksums of the source's rows that can be mended, and of the target's."""
    found = []
    for database, query in zip((SHOP, WAREHOUSE), _KEPT, strict=True):
        with postgres.connect(server.dsn(database), "penstock:demo") as session:
            found.append(tuple(session.execute(query.encode()).fetchone() or ()))
    return found[0], found[1]


def _execute(server: EmbeddedServer, database: str, statements: str) -> None:
    with postgres.connect(server.dsn(database), "penstock:demo") as session:
        session.execute(statements.encode())
