"""Peers of the benchmark of streams: the limit, Quix Streams, and Bytewax with its own KafkaSource, row by row.

Each is a program that reads every event of a topic, casts, filters and masks as the pipeline does (the limit: only
decodes), writes to its table, and ends.
"""

from __future__ import annotations

import json
from typing import Any, Final

from benchmarks.peers.peer import in_venv

__all__ = ["BYTEWAX", "COLUMNS", "LIMIT", "QUIX", "QUIX_VERSION", "order_of", "quix_python"]

QUIX_VERSION: Final = "3.28.1"
COLUMNS: Final = "id bigint, email text, amount numeric(12,2), kind text, at timestamptz, note text"

LIMIT: Final = """
import json, sys, time
import psycopg, pyarrow as pa, pyarrow.json as pj, pgpq
from confluent_kafka import Consumer, TopicPartition
order = json.loads(sys.argv[1])
one = Consumer({"bootstrap.servers": order["bootstrap"], "group.id": "limit", "enable.auto.commit": False,
                "auto.offset.reset": "earliest", "queued.max.messages.kbytes": 65536, "fetch.wait.max.ms": 50})
one.assign([TopicPartition(order["topic"], part, 0) for part in range(order["partitions"])])
schema = pa.schema([("id", pa.int64()), ("email", pa.string()), ("amount", pa.string()), ("kind", pa.string()),
                    ("at", pa.timestamp("us", "UTC")), ("note", pa.string())])
options = pj.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
reading = pj.ReadOptions(block_size=16 << 20, use_threads=True)
encoder = pgpq.ArrowToPostgresBinaryEncoder(schema)
seen = 0
with psycopg.connect(order["dsn"]) as session, session.cursor() as cursor:
    with cursor.copy(f"COPY {order['table']} FROM STDIN (FORMAT binary)") as copy:
        copy.write(encoder.write_header())
        while seen < order["events"]:
            messages = one.consume(2000, 0.2)
            while messages and len(messages) < 16_000 and (more := one.consume(2000, 0.0)):
                messages += more
            if not messages:
                continue
            seen += len(messages)
            block = b"\\n".join([message.value() for message in messages])
            table = pj.read_json(pa.py_buffer(block), read_options=reading, parse_options=options)
            for batch in table.combine_chunks().to_batches():
                copy.write(encoder.write_batch(batch))
        copy.write(encoder.finish())
"""
"""librdkafka, the fastest decoder of JSON that was found for chunks of this size, and one binary COPY; nothing else."""

QUIX: Final = """
import hashlib, json, sys
from datetime import datetime
from decimal import Decimal
import psycopg
from quixstreams import Application
from quixstreams.sinks import BatchingSink
order = json.loads(sys.argv[1])

class Postgres(BatchingSink):
    def setup(self):
        self.session, self.written = psycopg.connect(order["dsn"]), 0
    def write(self, batch):
        with self.session.transaction(), self.session.cursor() as cursor:
            with cursor.copy(f"COPY {order['table']} FROM STDIN") as copy:
                for item in batch:
                    row = item.value
                    copy.write_row((row["id"], row["email"], row["amount"], row["kind"], row["at"], row["note"]))
                    self.written += 1
        if self.written >= order["kept"]:
            app.stop()

def mapped(row):
    row["amount"] = Decimal(row["amount"])
    row["at"] = datetime.fromisoformat(row["at"])
    row["email"] = hashlib.sha256(row["email"].encode()).hexdigest()
    return row

app = Application(broker_address=order["bootstrap"], consumer_group="quix", auto_offset_reset="earliest",
                  commit_interval=1.0, loglevel="ERROR", quix_portal_api=None)
topic = app.topic(order["topic"], value_deserializer="json")
frame = app.dataframe(topic).filter(lambda row: row["kind"] != "ping").apply(mapped)
frame.sink(Postgres())
app.run()
"""

BYTEWAX: Final = """
import hashlib, json, sys
from datetime import datetime
from decimal import Decimal
import bytewax.operators as op
import psycopg
from bytewax.connectors.kafka import KafkaSource
from bytewax.dataflow import Dataflow
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.testing import run_main
order = json.loads(sys.argv[1])

class Part(StatelessSinkPartition):
    def __init__(self):
        self.session = psycopg.connect(order["dsn"])
    def write_batch(self, rows):
        with self.session.transaction(), self.session.cursor() as cursor:
            with cursor.copy(f"COPY {order['table']} FROM STDIN") as copy:
                for row in rows:
                    copy.write_row((row["id"], row["email"], row["amount"], row["kind"], row["at"], row["note"]))

class Postgres(DynamicSink):
    def build(self, step_id, worker_index, worker_count):
        return Part()

def mapped(row):
    row["amount"] = Decimal(row["amount"])
    row["at"] = datetime.fromisoformat(row["at"])
    row["email"] = hashlib.sha256(row["email"].encode()).hexdigest()
    return row

flow = Dataflow("bench")
events = op.input("in", flow, KafkaSource([order["bootstrap"]], [order["topic"]], tail=False, batch_size=1000))
rows = op.map("decode", events, lambda message: json.loads(message.value))
kept = op.filter("kept", rows, lambda row: row["kind"] != "ping")
op.output("out", op.map("mapped", kept, mapped), Postgres())
run_main(flow)
"""


def order_of(program: str, python: str, **order: Any) -> list[str]:
    """Return the command of a program."""
    return [python, "-c", program, json.dumps(order)]


def quix_python() -> str:
    """Install Quix Streams, if it is not, and return its Python."""
    return str(in_venv("quix", f"quixstreams=={QUIX_VERSION}", "psycopg[binary]==3.3.9") / "python")
