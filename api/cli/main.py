"""The `penstock` command. Each command's module is loaded when it is used."""

from __future__ import annotations

import gc
import os
import sys
import traceback
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from api.cli.console import Output
from penstock import telemetry
from penstock.collector import collect_rarely
from penstock.errors import PenstockError, UsageError, did_you_mean
from penstock.libpq import forget_variables

if TYPE_CHECKING:
    from penstock.settings import Settings

__all__ = ["State", "cli", "command", "main"]

GROUPS: Final[dict[str, tuple[str, dict[str, str]]]] = {
    "Begin": ("api.cli.project", {
        "demo": "A tour on this machine, with a real database, in under two minutes.",
        "init": "Make a project folder that runs as it is.",
        "up": "Run everything on this machine, with one worker. Ctrl-C stops it cleanly.",
        "doctor": "Check this installation; say what is wrong and how to fix it.",
        "settings": "Show every setting, its value and where it came from.",
        "destroy": "Delete the project's embedded server with its databases.",
    }),
    "Files": ("api.cli.project", {
        "validate": "Check the files of the project, or those named.",
        "test": "Run the tests in pipelines' files, offline.",
        "plan": "Show what runs would do, and why they would be refused.",
        "apply": "Put files into effect: connections, policies, pipelines.",
        "schema": "Print the JSON Schema of a kind of document, for editors.",
    }),
    "Pipelines": ("api.cli.pipelines", {
        "list": "Show all pipelines, with their last run and the next one.",
        "status": "Show one pipeline: version, status, runs.",
        "preview": "Show rows before and after each step.",
        "run": "Run pipelines: by name, by label, by pattern, or all.",
        "backfill": "Read a window of the cursor again.",
        "check": "Compare source and target, row by row.",
        "deletes": "Mark or remove rows that the source does not have any more.",
        "runs": "Show runs, the latest first.",
        "approvals": "List proposed changes that wait for an answer.",
        "approve": "Approve proposed changes, and new objects of sets.",
        "deny": "Deny proposed changes.",
        "pause": "Start no new runs; stop a running one at its last commit.",
        "resume": "Make pipelines active again; an interrupted run continues.",
        "drain": "Start no new runs; finish what is there, then pause.",
        "stop": "Start no new runs; end an open one.",
        "delete": "Delete a pipeline, with its positions and plans at the sink.",
        "versions": "Show every version of a pipeline.",
        "rollback": "Make a new version that equals an older one.",
    }),
    "Data": ("api.cli.catalog", {
        "discover": "Look at what a connection has: tables, columns, keys, sizes.",
        "catalog": "Search datasets; show one, and how it has changed; rebuild the catalog.",
        "lineage": "Show where values come from and go to, by column.",
    }),
    "Operations": ("api.cli.letters", {
        "errors": "Show what failed and why, what was done about it, and what needs a person.",
        "dlq": "Show rows that could not be written; fix, redrive or delete them.",
        "alerts": "Show what is not as it should be; quieten it, or try a sensitivity on history.",
        "metrics": "Show what runs processed, how fast, and how far behind.",
        "agents": "Show the agents; halt them, or let them act again.",
    }),
    "Audit": ("api.cli.audit", {
        "events": "Show the records of the log: commands, events, decisions.",
        "decisions": "Show what agents decided, and why.",
        "audit": "Verify the log; judge it under another policy; export it.",
        "why": "Show what caused a run, a decision, a command, a record or a row.",
    }),
    "Plumbing": ("api.cli.plumbing", {
        "flow": "Run one flow in the foreground, as a pod does.",
        "topics": "Show the topics: list, tail, lag; create, copy them.",
    }),
}  # fmt: skip
"""Sections of `--help`: the module of their commands, and each command with its line."""

MODULES: Final = {
    "init": "api.cli.init",
    "list": "api.cli.listing",
    "demo": "api.cli.demo",
    "up": "api.cli.up",
    "destroy": "api.cli.destroy",
    "doctor": "api.cli.doctor",
    "test": "api.cli.trials",
    "plan": "api.cli.plan",
    "preview": "api.cli.trials",
    "run": "api.cli.run",
    "backfill": "api.cli.run",
    "status": "api.cli.status",
    "check": "api.cli.check",
    "deletes": "api.cli.deletes",
    "approvals": "api.cli.approvals",
    "approve": "api.cli.approvals",
    "deny": "api.cli.approvals",
    "runs": "api.cli.runs",
    "errors": "api.cli.errors",
    "alerts": "api.cli.alerts",
    "metrics": "api.cli.metrics",
    "discover": "api.cli.discover",
    "lineage": "api.cli.lineage",
    "events": "api.cli.events",
    "decisions": "api.cli.decisions",
    "agents": "api.cli.agents",
    "why": "api.cli.why",
}
"""Modules of commands that are not in the module of their section."""


EPILOG: Final = """\b
Exit codes: 0 done, 1 failed, 2 wrong use or invalid file, 3 not found, 4 refused by policy.
Completion: eval "$(_PENSTOCK_COMPLETE=bash_source penstock)", or zsh_source, fish_source."""


class State:
    """State that every command shares: the settings, read when first used, and the output."""

    def __init__(self, project: Path | None, output: Output) -> None:
        self.project, self.output = project, output

    @property
    def settings(self) -> Settings:
        """The settings of the project."""
        from penstock.settings import load

        return load(self.project)


class _Lazy(click.Group):
    """A group that knows its commands by name, and loads a command's module when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - as click calls it
        return [name for _, names in GROUPS.values() for name in names]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - as above
        for module, names in GROUPS.values():
            if cmd_name in names:
                found = getattr(import_module(MODULES.get(cmd_name, module)), cmd_name.replace("-", "_") + "_")
                return found if isinstance(found, click.Command) else None
        return None

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args[0] not in self.list_commands(ctx):
            hint = did_you_mean(args[0], self.list_commands(ctx)) or "penstock --help"
            raise UsageError(f"there is no command {args[0]!r}", where="penstock", hint=hint)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's signature
        for section, (_, names) in GROUPS.items():
            with formatter.section(section):
                formatter.write_dl(list(names.items()))


_COMMON: Final[dict[str, dict[str, Any]]] = {
    "project": {"type": click.Path(path_type=Path, file_okay=False), "help": "The project's folder (default: here)."},
    "json": {"is_flag": True, "help": "JSON for machines."},
    "debug": {"is_flag": True, "envvar": "PENSTOCK_DEBUG", "help": "Show the stack of an error."},
}
"""The options that every command takes, before and after its name."""


def _common(function: Callable[..., Any]) -> Callable[..., Any]:
    for name, settings in reversed(_COMMON.items()):
        function = click.option(f"--{name}", f"common_{name}", **settings)(function)
    return function


@click.group(
    cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}, epilog=EPILOG
)
@click.version_option(package_name="penstock", prog_name="penstock")
@_common
@click.pass_context
def cli(ctx: click.Context, /, common_project: Path | None, common_json: bool, **_: object) -> None:  # noqa: FBT001 - click gives flags by name
    """Penstock moves data between systems, and keeps moving it when they change.

    Begin with `penstock demo`, then `penstock init DIR`. Each command takes --json, --project and --debug too, before
    or after its name, and has its own --help.
    """
    ctx.obj = State(common_project, Output(as_json=common_json))


def command(**settings: Any) -> Callable[[Callable[..., Any]], click.Command]:
    """Make a command that also takes the common options after its name, and gets the shared `State` first."""

    def decorate(function: Callable[..., Any]) -> click.Command:
        @click.pass_context
        def run(ctx: click.Context, /, common_json: bool, common_project: Path | None, **given: Any) -> Any:  # noqa: FBT001 - click gives flags by name
            state: State = ctx.obj
            state.output.as_json |= common_json
            state.project = common_project or state.project
            return function(state, **{name: value for name, value in given.items() if name != "common_debug"})

        run.__doc__ = function.__doc__
        run.__click_params__ = getattr(function, "__click_params__", [])  # type: ignore[attr-defined]  # click reads it
        made: click.Command = click.command(**settings)(_common(run))
        return made

    return decorate


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; an error becomes one line and an exit code."""
    collect_rarely()
    forget_variables()
    words = sys.argv[1:] if arguments is None else arguments
    output = Output(as_json="--json" in words)
    try:
        telemetry.set_up("penstock-cli")
        code = cli.main(arguments, prog_name="penstock", standalone_mode=False)
        sys.stdout.flush()
        sys.exit(code if isinstance(code, int) else 0)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except (click.Abort, KeyboardInterrupt):
        output.errors.print("stopped")
        sys.exit(130)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(error.exit_code)
    except Exception as error:  # noqa: BLE001 - any error becomes one line
        found = _shown(error)
        if "--debug" in words or os.environ.get("PENSTOCK_DEBUG"):
            traceback.print_exception(error)
        output.failed(found)
        sys.exit(found.exit_code)
    finally:
        telemetry.shut_down()
        gc.freeze()  # else the interpreter looks through all that was imported before it exits


def _shown(error: Exception) -> PenstockError:
    """Return `error` as it is shown to people."""
    if isinstance(error, PenstockError):
        return error
    if isinstance(error, click.ClickException):
        return _wrong_use(error)
    hint = "run it again with --debug, and report what it shows"
    return PenstockError(f"a defect of Penstock: {type(error).__name__}", hint=hint)


def _wrong_use(error: click.ClickException) -> UsageError:
    where = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "penstock"
    if isinstance(error, click.NoSuchOption):
        near = did_you_mean(error.option_name, error.possibilities or ())
        return UsageError(f"there is no option {error.option_name}", where=where, hint=near or f"{where} --help")
    what = error.format_message().rstrip(".")
    return UsageError(what[:1].lower() + what[1:], where=where, hint=f"{where} --help")
