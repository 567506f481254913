"""The demo's stream: events of orders in a topic of the log, and the table that they are written to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from api.starter import WAREHOUSE
from penstock import postgres
from penstock.clock import now
from penstock.topics.embedded import EmbeddedServer
from penstock.topics.log import Message, TopicLog
from penstock.topics.table import Topic

__all__ = ["COUNT", "EVENTS", "ORDERS", "STEPS", "STREAM", "append_steps", "arrived", "prepare_events", "write_stream"]

ORDERS: Final = 2_000
STEPS: Final = ("placed", "paid", "packed", "shipped", "delivered", "reviewed", "returned", "refunded")
EVENTS: Final = ORDERS * len(STEPS)
"""Events in all: each order takes each step once, in this order."""

TOPIC: Final = Topic("orders", key="the order", partitions=4)
STREAM: Final = "order-events"
COUNT: Final = "SELECT count(*) FROM sales.order_events"

_TABLE: Final = """
CREATE TABLE sales.order_events (
  arrival bigint GENERATED ALWAYS AS IDENTITY, order_id bigint NOT NULL, step integer NOT NULL, status text NOT NULL,
  happened_at timestamptz NOT NULL)
"""
"""The target: `arrival` numbers the rows in the order in which they are written."""

_ARRIVED: Final = """
SELECT count(*), count(DISTINCT (order_id, step)), count(*) FILTER (WHERE step <> place)
FROM (SELECT order_id, step, row_number() OVER (PARTITION BY order_id ORDER BY arrival) - 1 AS place
      FROM sales.order_events) AS written
"""

_PIPELINE: Final = f"""\
apiVersion: penstock/v1
kind: Pipeline
metadata: {{name: {STREAM}, owner: demo}}
spec:
  mode: stream                                             # runs until it is paused, drained or deleted
  source:
    connection: events
    object: {TOPIC.name}
    format: {{type: jsonl, columns: {{order_id: bigint, step: integer, status: text}}}}
  mapping:
    fields:
      - {{target: order_id, from: order_id}}
      - {{target: step, from: step}}
      - {{target: status, sql: "upper(status)"}}
      - {{target: happened_at, from: _timestamp}}
  sink: {{connection: warehouse, object: sales.order_events, write: append}}
  limits: {{batch_rows: 500, linger: 20ms}}
  errors: {{retry: {{base: 200ms, max: 2s}}}}
"""


def write_stream(folder: Path, dsn: str) -> list[Path]:
    """Write the stream's pipeline, and its connection to the log at `dsn`; return both files."""
    pipeline, connection = folder / "pipelines" / f"{STREAM}.yaml", folder / "connections.yaml"
    pipeline.write_text(_PIPELINE)
    with connection.open("a") as file:
        file.write(f"events: {{type: topics, dsn: {json.dumps(dsn)}}}\n")
    return [connection, pipeline]


def prepare_events(log: TopicLog, server: EmbeddedServer) -> None:
    """Make the topic and the target."""
    log.create(TOPIC)
    with postgres.connect(server.dsn(WAREHOUSE), "penstock:demo") as session:
        session.execute(_TABLE)


def append_steps(log: TopicLog, first: int, end: int) -> None:
    """Append the events of steps `first` to before `end`, of all orders."""
    for step in range(first, end):
        at, status = now(), STEPS[step]
        log.append(TOPIC, [Message(b"%d" % order, _event(order, step, status), at) for order in range(ORDERS)])


def _event(order: int, step: int, status: str) -> bytes:
    return json.dumps({"order_id": order, "step": step, "status": status}).encode()


def arrived(server: EmbeddedServer) -> tuple[int, int, int]:
    """Return the number of rows, of different events, and of events that are not in the order of their key."""
    with postgres.connect(server.dsn(WAREHOUSE), "penstock:demo") as session:
        rows, events, misplaced = session.execute(_ARRIVED).fetchone() or (0, 0, 0)
        return rows, events, misplaced
