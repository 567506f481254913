"""Meltano: the taps and the target of MeltanoLabs, joined by a pipe."""

from __future__ import annotations

import json
from typing import Final

from psycopg import conninfo

from benchmarks.peers.peer import Command, Move, Peer, in_venv

__all__ = ["MELTANO"]

TAPS: Final = {"postgres": "meltanolabs-tap-postgres==0.10.0", "mysql": "meltanolabs-tap-mysql==0.0.1a1"}
TARGET: Final = "meltanolabs-target-postgres==0.8.1"
CATALOG: Final = """
import json, subprocess, sys
tap, config, wanted = sys.argv[1:4]
found = json.loads(subprocess.run([tap, "--config", config, "--discover"], check=True, capture_output=True).stdout)
found["streams"] = [one for one in found["streams"] if one["table_name"] == wanted]
for stream in found["streams"]:
    stream["replication_method"] = "FULL_TABLE"
    for one in stream["metadata"]:
        one["metadata"]["selected"] = True
open(sys.argv[4], "w").write(json.dumps(found))
"""


def _ready() -> None:
    for kind, tap in TAPS.items():
        in_venv(f"tap-{kind}", tap)
    in_venv("target-postgres", TARGET)


def _command(move: Move) -> Command:
    kind = move.direction.partition("-")[0]
    tap, target = in_venv(f"tap-{kind}", TAPS[kind]), in_venv("target-postgres", TARGET)
    parts = conninfo.conninfo_to_dict(move.dsn)
    config = move.folder / "tap.json"
    urls = {
        "postgres": move.url.replace("postgresql:", "postgresql+psycopg2:"),
        "mysql": f"mysql+pymysql://bench@127.0.0.1:{move.mysql}/bench",
    }
    schemas = {"postgres": ["public"], "mysql": ["bench"]}
    config.write_text(json.dumps({"sqlalchemy_url": urls[kind], "filter_schemas": schemas[kind]}))
    into = move.folder / "target.json"
    into.write_text(
        json.dumps(
            {
                "sqlalchemy_url": move.url.replace("postgresql:", "postgresql+psycopg:"),
                "default_target_schema": "by_meltano",
                "use_copy": True,
                "batch_size_rows": 50_000,
                "database": parts["dbname"],
            }
        )
    )
    catalog = move.folder / "catalog.json"
    steps = (
        f'{tap}/python -c "$CATALOG" {tap}/tap-{kind} {config} {move.source} {catalog} && '
        f"{tap}/tap-{kind} --config {config} --catalog {catalog} | {target}/target-postgres --config {into}"
    )
    return Command([["bash", "-o", "pipefail", "-c", steps]], environment={"CATALOG": CATALOG})


MELTANO: Final = Peer(
    "Meltano (tap-postgres 0.10.0, tap-mysql 0.0.1a1, target-postgres 0.8.1 with COPY)",
    frozenset({"postgres-postgres", "mysql-postgres"}), _ready,
    _command, lambda move: f"by_meltano.{move.source}", fraction=0.1,
)  # fmt: skip
