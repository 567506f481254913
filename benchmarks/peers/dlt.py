"""dlt: tables by ConnectorX into Arrow, files by pyarrow; loaded as Parquet by ADBC, or as CSV by COPY."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from benchmarks.peers.peer import Command, Move, Peer, in_venv, url_of

__all__ = ["DLT", "VERSION", "ready", "whole_database"]

VERSION: Final = "1.31.0"
REQUIREMENTS: Final = (
    f"dlt[postgres,parquet]=={VERSION}", "sqlalchemy==2.0.44", "connectorx==0.4.6", "adbc-driver-postgresql==1.13.0",
    "adbc-driver-manager==1.13.0", "psycopg2-binary==2.9.11", "pymysql==1.1.2",
)  # fmt: skip

PROGRAM: Final = """
import json, sys
import dlt
order = json.loads(sys.argv[1])
way, url, folder = order["direction"], order["url"], order["folder"]
source, target = way.split("-")

def rows():
    if source == "parquet":
        import pyarrow.parquet as pq
        yield from pq.ParquetFile(folder + "/lineitem.parquet").iter_batches(65536)
    else:
        import pyarrow.csv as pc
        yield from pc.open_csv(folder + "/lineitem.csv")

if source in ("postgres", "mysql"):
    from dlt.sources.sql_database import sql_table
    here = url if source == "postgres" else order["mysql"]
    backend = {"return_type": "arrow", "conn": here}
    taken = sql_table(here.replace("mysql:", "mysql+pymysql:"), table=order["source"], backend="connectorx",
                      backend_kwargs=backend, reflection_level="full_with_precision")
else:
    taken = rows()
if target == "postgres":
    into = dlt.destinations.postgres(url)
else:
    into = dlt.destinations.filesystem(bucket_url="file://" + folder + "/" + order["table"])
pipeline = dlt.pipeline("bench", destination=into, dataset_name="by_dlt", pipelines_dir=folder + "/dlt")
info = pipeline.run(taken, table_name=order["table"], write_disposition="replace", loader_file_format=order["loader"])
info.raise_on_failed_jobs()
"""
LOADERS: Final = ("parquet", "csv")
QUIET: Final = {"RUNTIME__DLTHUB_TELEMETRY": "false", "RUNTIME__LOG_LEVEL": "CRITICAL"}


def ready() -> None:
    """Install it."""
    in_venv("dlt", *REQUIREMENTS)


def _command(loader: str, move: Move) -> Command:
    python = in_venv("dlt", *REQUIREMENTS) / "python"
    order = {
        "direction": move.direction,
        "url": move.url,
        "folder": str(move.folder),
        "source": move.source,
        "mysql": f"mysql://bench@127.0.0.1:{move.mysql}/bench",
        "table": move.table,
        "loader": loader if move.direction.endswith("postgres") else "parquet",
    }
    return Command([[str(python), "-c", PROGRAM, json.dumps(order)]], environment=QUIET)


def _by(loader: str, directions: frozenset[str]) -> Peer:
    return Peer(
        f"dlt {VERSION} ({loader} loader)",
        directions,
        ready,
        lambda move: _command(loader, move),
        lambda move: f"by_dlt.{move.table}",
    )


DLT: Final = (
    _by(
        "parquet",
        frozenset({"postgres-postgres", "postgres-parquet", "parquet-postgres", "csv-postgres", "mysql-postgres"}),
    ),
    _by("csv", frozenset({"postgres-postgres", "parquet-postgres", "csv-postgres", "mysql-postgres"})),
)
"""Its loaders, each as a peer: the fastest one counts."""

WHOLE: Final = """
import json, sys
import dlt
from dlt.sources.sql_database import sql_database
order = json.loads(sys.argv[1])
pipeline = dlt.pipeline("many_" + order["schema"], destination=dlt.destinations.postgres(order["target"]),
                        dataset_name="by_dlt_" + order["schema"], pipelines_dir=order["folder"])
backend = {"backend": order["backend"]}
if order["backend"] == "connectorx":
    backend["backend_kwargs"] = {"return_type": "arrow", "conn": order["plain"]}
    backend["reflection_level"] = "full_with_precision"
tables = sql_database(order["source"], schema=order["schema"], **backend)
info = pipeline.run(tables, write_disposition="replace", loader_file_format=order["loader"])
info.raise_on_failed_jobs()
"""


def whole_database(
    source: str, target: str, folder: Path, schema: str, backend: str, loader: str | None = None
) -> tuple[list[str], dict[str, str]]:
    """Return the command that copies every table of a schema to ``by_dlt_SCHEMA`` elsewhere, and its environment."""
    python = in_venv("dlt", *REQUIREMENTS) / "python"
    order = {
        "source": url_of(source).replace("postgresql:", "postgresql+psycopg2:"),
        "plain": url_of(source),
        "target": url_of(target),
        "folder": str(folder / "dlt"),
        "schema": schema,
        "backend": backend,
        "loader": loader,
    }
    # One table after the other: concurrently, they would need more connections than the server has.
    return [str(python), "-c", WHOLE, json.dumps(order)], {**QUIET, "EXTRACT__NEXT_ITEM_MODE": "fifo"}
