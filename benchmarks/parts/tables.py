"""Server of a benchmark, with TPC-H's lineitem."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import psycopg
import pyarrow as pa
import pyarrow.parquet as pq

from penstock.topics.embedded import EmbeddedServer

__all__ = ["LINEITEM", "generated", "lineitem", "served"]

ROWS_AT_SCALE_1: Final = 6_001_215
LINEITEM: Final = """
l_orderkey bigint NOT NULL, l_partkey bigint NOT NULL, l_suppkey bigint NOT NULL, l_linenumber integer NOT NULL,
l_quantity numeric(15,2), l_extendedprice numeric(15,2), l_discount numeric(15,2), l_tax numeric(15,2),
l_returnflag char(1), l_linestatus char(1), l_shipdate date, l_commitdate date, l_receiptdate date,
l_shipinstruct text, l_shipmode text, l_comment text"""


@contextmanager
def served() -> Iterator[str]:
    """Start an embedded server; yield the DSN of its database."""
    home = Path(tempfile.mkdtemp(prefix="pen-", dir="/tmp"))
    server = EmbeddedServer(home)
    server.acquire()
    try:
        yield server.dsn("postgres")
    finally:
        server.stop()
        server.release()
        shutil.rmtree(home)


def generated(rows: int, form: str, folder: Path) -> Path:
    """Return a file of about `rows` line items, as ``csv`` or ``parquet``."""
    program = shutil.which("tpchgen-cli", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if program is None:
        sys.exit("tpchgen-cli is missing; run `make setup`")
    scale = f"{rows / ROWS_AT_SCALE_1:.6f}"
    command = [program, form, "-s", scale, "--tables=lineitem", f"--output-dir={folder}"]
    subprocess.run(command, check=True, capture_output=True)
    file = folder / f"lineitem.{form}"
    return _of_usual_types(file) if form == "parquet" else file


def _of_usual_types(file: Path) -> Path:
    """Rewrite the file with text types that every reader of Parquet supports."""
    source = pq.ParquetFile(file)
    schema = pa.schema(
        [pa.field(one.name, pa.string() if one.type == pa.string_view() else one.type) for one in source.schema_arrow]
    )
    made = file.with_suffix(".made")
    with pq.ParquetWriter(made, schema) as writer:
        for batch in source.iter_batches(1 << 16):
            writer.write_batch(batch.cast(schema))
    return made.rename(file)


def lineitem(dsn: str, rows: int) -> int:
    """Create and fill table ``lineitem``, with its key; return its number of rows."""
    with psycopg.connect(dsn, autocommit=True) as session, tempfile.TemporaryDirectory() as folder:
        session.execute(f"CREATE TABLE lineitem ({LINEITEM})")
        file = generated(rows, "csv", Path(folder))
        with session.cursor().copy("COPY lineitem FROM STDIN (FORMAT csv, HEADER)") as copy, file.open("rb") as data:
            while piece := data.read(1 << 20):
                copy.write(piece)
        session.execute("ALTER TABLE lineitem ADD PRIMARY KEY (l_orderkey, l_linenumber)")
        session.execute("VACUUM ANALYZE lineitem")
        found = session.execute("SELECT count(*) FROM lineitem").fetchone()
        return int(found[0]) if found else 0
