"""A connector of another package, the example's: installed, validated, and run like a built-in one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psycopg
import pytest

ROOT = Path(__file__).parents[2]
PENSTOCK = str(Path(sys.executable).with_name("penstock"))
LINE = '10.0.0.{} - {} [02/Jan/2024:03:04:{:02d} +0100] "GET /größe?q=\\"x\\" HTTP/1.1" 200 {} "-" "curl/8 ({})"\n'


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the example's package from its wheel by pip; return the folder."""
    folder = tmp_path_factory.mktemp("site")
    options = ["--quiet", "--disable-pip-version-check", "--no-index", "--no-deps", "--no-build-isolation"]
    pip = [sys.executable, "-m", "pip", "install", *options, "--target", str(folder), str(ROOT / "examples/connector")]
    subprocess.run(pip, check=True, cwd=folder)
    return folder


@pytest.fixture
def environment(installed: Path) -> dict[str, str]:
    """An environment in which the package is installed."""
    return os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{installed}"}


@pytest.fixture
def program(environment: dict[str, str], tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a program of Penstock with the package installed."""

    def run(*arguments: str, given: str | None = None, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *arguments],
            input=given,
            text=True,
            capture_output=True,
            check=False,
            cwd=tmp_path,
            env=environment | more,
        )

    return run


def lines(numbers: Sequence[int]) -> str:
    return "".join(
        LINE.format(at % 256, "ada" if at % 2 else "-", at % 60, at if at % 3 else "-", at) for at in numbers
    )


def task(folder: Path, dsn: str, run: str) -> dict[str, Any]:
    spec = {
        "source": {"connection": "web", "object": "access.log", "cursor": {"field": "position"}},
        "sink": {"connection": "lake", "object": "public.requests", "write": "append"},
    }
    return {
        "run": run,
        "attempt": 1,
        "uid": "00000000-0000-4000-8000-00000000000a",
        "progress": None,
        "split_rows": 20,
        "connections": {
            "web": {"type": "accesslog", "folder": str(folder)},
            "lake": {"type": "postgres", "dsn": dsn},
        },
        "pipeline": {
            "apiVersion": "penstock/v1",
            "kind": "Pipeline",
            "metadata": {"name": "requests"},
            "spec": spec,
        },
        "result": str(folder / "result.json"),
    }


Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(
    program: Callable[..., subprocess.CompletedProcess[str]], environment: dict[str, str], tmp_path: Path, database: str
) -> Iterator[Run]:
    """Run tasks in one process, one after the other; one that is to be killed has a process of its own."""
    words = [sys.executable, "-m", "dataflows.runs"]
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=tmp_path, env=environment
    ) as process:
        assert process.stdin
        assert process.stdout

        def launch(name: str, failpoint: str = "") -> dict[str, Any]:
            given = task(tmp_path, database, name)
            if failpoint:
                ended = program(*words[1:], given=json.dumps(given), PENSTOCK_FAILPOINT=failpoint)
                return {"killed": -ended.returncode}
            assert process.stdin
            process.stdin.write(json.dumps(given) + "\n")
            process.stdin.flush()
            assert any('"ended"' in line for line in process.stdout or ())
            return dict(json.loads(Path(given["result"]).read_text()))

        yield launch
        process.stdin.close()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            raise


def test_a_pipeline_from_a_plugged_in_source_each_line_once(run: Run, tmp_path: Path, database: str) -> None:
    log = tmp_path / "access.log"
    log.write_text(lines(range(100)) + "10.0.0.1 - - [half of a li")
    assert run("r1", "commit.before_fence:2=kill") == {"killed": 9}
    with log.open("r+") as file:
        file.seek(0)
        file.write(lines(range(110)))
    first = run("r2")
    assert first["status"] == "completed", first
    assert run("r3")["counters"]["rows_in"] == 0
    with log.open("a") as file:
        file.write(lines(range(110, 115)))
    assert run("r4")["counters"]["rows_in"] == 5
    with psycopg.connect(database) as session:
        found = session.execute(
            "SELECT host, login, at::text, request, status, bytes, referrer, agent FROM requests ORDER BY position"
        ).fetchall()
    assert len(found) == 115
    assert found[7] == (
        "10.0.0.7",
        "ada",
        "2024-01-02 02:04:07+00",
        'GET /größe?q=\\"x\\" HTTP/1.1',
        200,
        7,
        "-",
        "curl/8 (7)",
    )
    assert [row[7] for row in found] == [f"curl/8 ({at})" for at in range(115)]
    assert (found[6][1], found[6][5]) == (None, None)


def test_errors_of_a_log_do_not_contain_its_lines(run: Run, tmp_path: Path) -> None:
    missing = run("r1")["error"]
    assert (missing["code"], missing["what"]) == ("schema.missing_table", "there is no such log, got 'access.log'")
    log, good = tmp_path / "access.log", lines(range(3))
    log.write_text(good + "my secret line\n")
    bad = run("r1")["error"]
    assert bad["code"] == "data.bad"
    assert f"at byte {len(good.encode())} " in bad["what"]
    assert "secret" not in json.dumps(bad)
    log.write_text(lines(range(50)))
    assert run("r2")["status"] == "completed"
    log.write_text(lines(range(2)))
    assert "it was rotated" in run("r3")["error"]["what"]


def test_validate_knows_the_keys_of_a_plugged_in_connection(
    program: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    file = tmp_path / "connections.yaml"
    file.write_text("web: {type: accesslog, folder: /var/log}\n")
    assert program(PENSTOCK, "validate", str(file)).returncode == 0
    file.write_text("web: {type: accesslog, foldr: /var/log}\n")
    wrong = program(PENSTOCK, "validate", str(file), "--json")
    assert wrong.returncode == 2
    assert "web.foldr: unknown key; did you mean `folder`?" in wrong.stdout + wrong.stderr
    assert "web.folder: is required" in wrong.stdout + wrong.stderr
