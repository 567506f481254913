"""Every command: its help, its options, its errors, and what it prints for people, machines and pipes."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import click
import pytest

from api.cli.main import GROUPS, cli
from tests.api.project import PENSTOCK, environment, on_a_terminal, penstock

NAMES = [name for _, names in GROUPS.values() for name in names]


def test_all_documented_commands_exist() -> None:
    asked = (
        "init up doctor validate apply run list status runs pause resume drain stop delete versions rollback events "
        "check why topics flow demo schema settings test plan preview backfill dlq metrics audit catalog discover "
        "destroy approvals approve deny lineage deletes decisions agents errors alerts"
    )
    assert set(NAMES) == set(asked.split())


@pytest.mark.parametrize("name", NAMES)
def test_each_command_has_help_for_itself_and_its_options(name: str) -> None:
    said = penstock(name, "--help")
    assert (said.code, said.err) == (0, "")
    assert f"Usage: penstock {name}" in said.out
    for option in ("--json", "--project", "--help", "--debug"):
        assert option in said.out
    found = cli.get_command(click.Context(cli), name)
    assert found is not None
    assert found.help
    assert found.help.partition("\n")[0].strip().endswith((".", "?"))
    assert [one.name for one in found.params if isinstance(one, click.Option) and not one.help] == []


def test_the_help_lists_every_command_with_a_line_and_the_exit_codes() -> None:
    said = penstock("--help")
    assert said.code == 0
    for _, names in GROUPS.values():
        for name, line in names.items():
            assert f"  {name} " in said.out
            assert line.split()[0] in said.out
    for word in ("Exit codes", "4", "_PENSTOCK_COMPLETE"):
        assert word in said.out


def test_no_command_shows_the_help() -> None:
    said = penstock()
    assert said.code == 2
    assert "Usage: penstock" in said.out + said.err


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_option_is_wrong_use_with_a_suggestion(name: str) -> None:
    said = penstock(name, "--jsn")
    assert said.code == 2
    assert "--jsn" in said.error
    assert "--json" in said.err
    assert said.out == ""


@pytest.mark.parametrize(
    ("wrong", "right"), [("lst", "list"), ("statsu", "status"), ("aply", "apply"), ("evnets", "events")]
)
def test_an_unknown_command_is_wrong_use_with_a_suggestion(wrong: str, right: str) -> None:
    said = penstock(wrong)
    assert said.code == 2
    assert wrong in said.error
    assert f"`{right}`" in said.err


def test_wrong_use_is_json_for_machines() -> None:
    said = penstock("list", "--jsn", "--json")
    assert said.code == 2
    assert said.json["error"]["code"] == "usage"
    assert said.err == ""


@pytest.mark.parametrize("form", [("--json", "settings"), ("settings", "--json")])
def test_json_may_stand_before_or_after_the_command(form: tuple[str, str], tmp_path: Path) -> None:
    for arguments in ((*form, "--project", tmp_path), ("--project", tmp_path, *form)):
        said = penstock(*arguments)
        assert said.code == 0
        assert said.json["project"]["value"] == str(tmp_path)


def test_the_schema_of_each_kind(tmp_path: Path) -> None:
    for kind in ("Pipeline", "AgentPolicy", "connections"):
        found = penstock("schema", kind).json
        assert found["type"] == "object"
        for name in _references(found):
            assert name.removeprefix("#/$defs/") in found["$defs"], name
    said = penstock("schema", "Pipelin")
    assert said.code == 3
    assert "`Pipeline`" in said.err


def _references(schema: Any) -> list[str]:
    if isinstance(schema, dict):
        here = [schema["$ref"]] if isinstance(schema.get("$ref"), str) else []
        return here + [name for inner in schema.values() for name in _references(inner)]
    return [name for inner in schema for name in _references(inner)] if isinstance(schema, list) else []


def test_the_schema_of_a_pipeline_has_every_key_of_the_contract() -> None:
    found = penstock("schema", "Pipeline").json
    assert set(found["properties"]) == {"apiVersion", "kind", "metadata", "spec"}
    spec = (
        found["$defs"]["PipelineSpec"]["properties"]
        if "PipelineSpec" in found["$defs"]
        else found["$defs"]["Spec"]["properties"]
    )
    names = "mode source schedule mapping schema transforms validate sink errors limits tests"
    assert set(names.split()) <= set(spec)


@pytest.mark.parametrize("debug", [False, True])
def test_an_unexpected_exception_is_one_line_without_debug(monkeypatch: pytest.MonkeyPatch, *, debug: bool) -> None:
    def broken(*_: object) -> None:
        message = "a secret of the inside"
        raise ZeroDivisionError(message)

    monkeypatch.setattr("api.cli.project.did_you_mean", broken)
    said = penstock(*(["--debug"] if debug else []), "schema", "x")
    assert said.code == 1
    assert "error: a defect of Penstock: ZeroDivisionError\n" in said.err
    assert ("Traceback" in said.err, "secret" in said.err) == (debug, debug)


def test_debug_shows_the_stack_before_or_after_the_command(tmp_path: Path) -> None:
    for arguments in (["--debug", "validate"], ["validate", "--debug"]):
        done = subprocess.run(
            [*PENSTOCK, *arguments], cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False
        )
        assert "Traceback" in done.stderr
        assert done.returncode == 3


def test_colours_only_on_a_terminal(tmp_path: Path) -> None:
    assert "\x1b[" in on_a_terminal(["settings"], tmp_path)
    assert "\x1b[" not in on_a_terminal(["settings"], tmp_path, NO_COLOR="1").replace("\x1b[1m", "").replace(
        "\x1b[2m", ""
    ).replace("\x1b[0m", "")
    done = subprocess.run(
        [*PENSTOCK, "settings"], cwd=tmp_path, env=environment(), capture_output=True, text=True, check=True
    )
    assert "\x1b" not in done.stdout + done.stderr


def test_a_table_in_a_pipe_is_never_folded(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 50)
    folder.mkdir()
    said = penstock("settings", "--project", folder)
    assert f" {folder} " in said.out or f" {folder}\n" in said.out


def test_a_closed_pipe_is_no_error(tmp_path: Path) -> None:
    command = " ".join(f"'{word}'" for word in (*PENSTOCK, "schema", "Pipeline"))
    shell = f"set -o pipefail; {command} | head -n 1"
    done = subprocess.run(["bash", "-c", shell], env=environment(), capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("{\n", "", 0)


def test_each_command_ends_with_a_next_step(tmp_path: Path) -> None:
    for arguments in (("settings",), ("validate",), ("schema", "nothing")):
        said = penstock(*arguments, "--project", tmp_path)
        assert [line for line in (said.out + said.err).splitlines() if line][-1].startswith("next: ")


def test_completion_of_commands() -> None:
    words = {"COMP_WORDS": "penstock sta", "COMP_CWORD": "1"}
    done = subprocess.run(
        PENSTOCK,
        env=environment(_PENSTOCK_COMPLETE="bash_complete", **words),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == ["plain,status"]
    script = subprocess.run(
        PENSTOCK, env=environment(_PENSTOCK_COMPLETE="zsh_source"), capture_output=True, text=True, check=False
    )
    assert "#compdef penstock" in script.stdout


def test_errors_are_json_for_machines(tmp_path: Path) -> None:
    said = penstock("--json", "validate", "--project", tmp_path)
    assert said.code == 3
    assert said.err == ""
    assert said.json["error"]["code"] == "not_found"
    assert json.dumps(said.json)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [("PENSTOCK_PORT", "many", "whole number"), ("PENSTOCK_HOM", "/x", "did you mean"),
     ("PENSTOCK_TRACES", "oltp", "did you mean"), ("PENSTOCK_DATABASE_URL", "postgres//x", "connection string")],
)  # fmt: skip
def test_a_wrong_setting_is_wrong_use(monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: str) -> None:
    monkeypatch.setenv(name, value)
    said = penstock("settings")
    assert said.code == 2
    assert name in said.error
    assert words in said.err


def test_help_and_completion_load_nothing_heavy() -> None:
    program = (
        "import sys\nfrom api.cli.main import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'psycopg', 'sqlalchemy', 'pydantic', 'bytewax', 'polars', 'rich.table', 'sqlglot'} & {*sys.modules}\n"
        "sys.exit(' '.join(heavy) or 0)"
    )
    done = subprocess.run([*PENSTOCK[:2], program], env=environment(), capture_output=True, text=True, check=False)
    assert (done.stderr, done.returncode) == ("", 0)


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        *((name, {"pydantic", "sqlalchemy", "pyarrow"}) for name in ("listing", "run", "status")),
        ("runs", {"pyarrow", "polars"}),
        ("pipelines", {"pyarrow"}),
    ],
)
def test_a_command_that_only_shows_loads_no_more_than_it_needs(module: str, heavy: set[str]) -> None:
    program = f"import sys\nimport api.cli.{module}\nsys.exit(' '.join({heavy} & {{*sys.modules}}) or 0)"
    done = subprocess.run([*PENSTOCK[:2], program], env=environment(), capture_output=True, text=True, check=False)
    assert (done.stderr, done.returncode) == ("", 0)
