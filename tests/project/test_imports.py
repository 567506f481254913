import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
ADAPTERS = {"agents.operator"}
KEPT_OUT = {"bytewax", "confluent_kafka", "polars", "pyarrow", "sqlalchemy"}

PROGRAM = """
import importlib, sys
for name in sys.argv[1].split(","):
    importlib.import_module(name)
print(*sorted({name.partition(".")[0] for name in sys.modules} & set(sys.argv[2].split(","))))
"""


def test_what_decides_loads_neither_bytewax_nor_a_broker_a_database_or_a_data_frame() -> None:
    names = {f"agents.{path.stem}" for path in (ROOT / "agents").glob("*.py")} - ADAPTERS
    command = [sys.executable, "-c", PROGRAM, ",".join(sorted(names)), ",".join(KEPT_OUT)]
    loaded = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert loaded.split() == []


def test_a_client_sends_commands_without_models_and_without_the_library_of_the_catalog() -> None:
    heavy = "pydantic,sqlalchemy,polars,pyarrow,bytewax,confluent_kafka"
    command = [sys.executable, "-c", PROGRAM, "api.client", heavy]
    loaded = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert loaded.split() == []
