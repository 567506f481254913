"""Python steps that hang, exit or return other rows end their run by name, soon, and lose nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from api.starter import WAREHOUSE
from tests.api.programs.runs import SPAWNED
from tests.api.project import Project, ending

ROWS: Final = 10_000
STEPS: Final = """
import os, signal, sys, threading, time

def fine(batch):
    return batch

def hangs(batch):
    while True:
        time.sleep(1)

def waits_for_input(batch):
    sys.stdin.read()
    os.read(0, 10)
    threading.Event().wait()

def exits(batch):
    sys.exit(0)

def exits_at_once(batch):
    os._exit(0)

def interrupts(batch):
    raise KeyboardInterrupt

def kills(batch):
    os.kill(os.getpid(), signal.SIGKILL)

def closes(batch):
    for number in range(64):
        try:
            os.close(number)
        except OSError:
            pass
    return batch

def writes_lines(batch):
    os.write(1, b'{"ended": 0, "reusable": true}\\n{"phase": "done"}\\n')
    print('{"ended": 0, "reusable": true}', flush=True)
    return batch

def fewer(batch):
    return batch.slice(1)

def leaves_a_thread(batch):
    threading.Thread(target=time.sleep, args=(3600,)).start()
    return batch

def changes_place(batch):
    os.chdir("/")
    os.environ.clear()
    os.umask(0o777)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    return batch

def dawdles(batch):
    time.sleep(0.5)
    return batch

def eats(batch):
    kept = []
    while True:
        kept.append(b"x" * 1_000_000)

def fills_the_log(batch):
    print("x" * 1_000_000)
    return batch
"""
WRONG: Final = {
    "hangs": "gave no rows", "waits_for_input": "gave no rows", "exits": "raised SystemExit",
    "exits_at_once": "ended with exit code 0", "interrupts": "ended with exit code", "kills": "ended by signal SIGKILL",
    "closes": "the run's process ended", "fewer": "must return a RecordBatch of",
}  # fmt: skip
"""What is said of the functions that fail; of what else they may return or raise, see the tests of transforms."""
WAITING: Final = ("hangs", "waits_for_input")
"""They take twelve times what nothing may move."""
IN_PARALLEL: Final = ("writes_lines_twice", "fills_the_log_twice")
"""With several processes."""
BY_COMMAND: Final = ("exits_at_once", "kills")
"""Whose process is started by its command; those of the others are forked."""
FINE: Final = ("leaves_a_thread", "writes_lines", "changes_place")


@pytest.fixture(scope="module")
def stepping(sample: Project) -> Iterator[Project]:
    """A project whose steps may call the functions, with `penstock up`."""
    with ending(sample.copied(sample.folder.with_name("steps"))) as made:
        (made.folder / "bad_steps.py").write_text(STEPS)
        (made.folder / "penstock.toml").write_text('python_modules = "bad_steps"\nslots = 4\n')
        made.up({SPAWNED: str(len(BY_COMMAND))})
        made.done("apply")
        yield made


def run(project: Project, *functions: str, **limits: Any) -> dict[str, Any]:
    """Run a pipeline for each function, all at once; return the results, with the rows of the targets, by function."""
    columns = "id bigint, customer text, price numeric(10,2), quantity integer, placed_at timestamptz"
    project.sql(WAREHOUSE, "".join(f"CREATE TABLE step_{one} ({columns}); " for one in functions))
    project.sql(WAREHOUSE, "".join(f"INSERT INTO step_{one} VALUES (1); " for one in functions))
    paths = [write(project, function, limits) for function in functions]
    project.done("apply", *paths)
    said = project.do("run", *(path.stem for path in paths), "--watch", "--json")
    assert "Traceback" not in said.err
    found = {one["pipeline"]: one for one in said.json["runs"]}
    count = "SELECT count(*) FROM step_{}"
    return {one: found[named(one)] | {"rows": project.sql(WAREHOUSE, count.format(one))[0][0]} for one in functions}


@pytest.fixture(scope="module")
def outcomes(stepping: Project) -> dict[str, Any]:
    """Results of one run with each of the functions."""
    found = run(stepping, *BY_COMMAND)
    started = (stepping.folder / SPAWNED).read_text().splitlines()
    assert len(started) == len(BY_COMMAND), "these processes were started by their command"
    return found | run(stepping, *(one for one in (*WRONG, *FINE, *IN_PARALLEL) if one not in BY_COMMAND))


def named(function: str) -> str:
    return f"step-{function.replace('_', '-')}"


def write(project: Project, function: str, limits: dict[str, Any]) -> Path:
    """Write a pipeline of that function; return its file."""
    called = function.removesuffix("_twice")
    spec = {
        "source": {"connection": "shop", "object": "public.orders"},
        "sink": {"connection": "warehouse", "object": f"public.step_{function}", "write": "replace"},
        "transforms": [{"name": "call", "python": {"call": f"bad_steps:{called}", "columns": {"customer": "text"}}}],
        "errors": {"retry": {"attempts": 1}},
        "limits": {
            "stalled": "1s" if function in WAITING else "1500ms",
            "workers": 2 if function in IN_PARALLEL else 1,
            **limits,
        },
    }
    path = project.folder / f"{named(function)}.json"
    path.write_text(json.dumps({"kind": "Pipeline", "metadata": {"name": path.stem}, "spec": spec}))
    return path


@pytest.mark.parametrize("function", WRONG)
def test_a_bad_step_fails_its_run_by_name_and_changes_nothing(outcomes: dict[str, Any], function: str) -> None:
    found = outcomes[function]
    assert (found["status"], found["rows"]) == ("failed", 1)
    assert WRONG[function] in found["error"]["what"]
    if found["error"]["code"] == "data.bad":
        assert "spec.transforms[0] (call).python" in found["error"]["where"]
    else:
        assert "function" in found["error"]["hint"]
    if function in WAITING:
        assert "spec.transforms" in found["error"]["where"]


@pytest.mark.parametrize("function", [*FINE, *IN_PARALLEL])
def test_what_a_step_does_besides_its_rows_does_not_matter(outcomes: dict[str, Any], function: str) -> None:
    found = outcomes[function]
    assert (found["status"], found["rows"]) == ("completed", ROWS)
    assert "flow" in found["seconds"], "only the first attempt has a flow: a second one finds the rows"


def test_a_run_beyond_its_memory_ends_alone(stepping: Project) -> None:
    found = run(stepping, "eats", "dawdles", memory="300MB", batch_rows=1000)
    assert (found["eats"]["status"], found["eats"]["rows"]) == ("failed", 1)
    assert found["eats"]["error"]["code"] == "memory.exceeded"
    assert (found["dawdles"]["status"], found["dawdles"]["rows"]) == ("completed", ROWS)
    assert found["dawdles"]["seconds"]["flow"] > 4
    assert stepping.done("run", "orders", "--watch")["status"] == "completed"


def test_an_expression_that_takes_memory_ends_its_run_by_name(stepping: Project) -> None:
    stepping.sql(WAREHOUSE, "CREATE TABLE padded (order_id bigint, customer text)")
    padded = " || ".join(f"lpad(customer, {10_000 - at})" for at in range(40))
    spec = {
        "source": {"connection": "shop", "object": "public.orders"},
        "mapping": {"fields": [{"target": "order_id", "from": "id"}, {"target": "customer", "from": "customer"}]},
        "transforms": [{"name": "pad", "filter": f"length({padded}) > 0"}],
        "sink": {"connection": "warehouse", "object": "public.padded", "write": "replace"},
        "limits": {"memory": "300MB"},
    }
    path = stepping.folder / "pads.json"
    path.write_text(json.dumps({"kind": "Pipeline", "metadata": {"name": "pads"}, "spec": spec}))
    stepping.done("apply", path)
    said = stepping.do("run", "pads", "--watch", "--json")
    assert said.code == 1
    assert said.json["error"]["code"] == "memory.exceeded", said.json
