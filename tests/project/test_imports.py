import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[2]
ADAPTERS = {"agents.operator"}
PACKAGES = ("penstock", "catalog", "agents", "dataflows")
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


def _imports(path: Path, modules: set[str]) -> set[str]:
    """The modules of the project that a file imports, wherever in the file, also for types only."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            inner = {f"{node.module}.{alias.name}" for alias in node.names} & modules
            names = {alias.name for alias in node.names if f"{node.module}.{alias.name}" not in modules}
            found |= inner | ({node.module} if names else set())
    return found & modules


def test_no_modules_import_each_other_in_a_circle() -> None:
    paths = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    named = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}
    graph = {name: _imports(path, set(named)) - {name} for name, path in named.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        circle = " -> ".join(reversed(error.args[1]))
        raise AssertionError(circle) from None
