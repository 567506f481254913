"""The `penstock` command: parse, one call, render. Each command's module is loaded when it is used."""

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
from penstock.errors import PenstockError, UsageError, did_you_mean

if TYPE_CHECKING:
    from penstock.settings import Settings

__all__ = ["State", "cli", "main"]

GROUPS: Final[dict[str, tuple[str, dict[str, str]]]] = {
    "Begin": ("api.cli.project", {
        "demo": "The whole story on this machine, with a real database, in under two minutes.",
        "init": "A project folder that runs as it is.",
        "up": "All in one: server, control, projector, scheduler, one worker. Ctrl-C stops cleanly.",
        "doctor": "What is wrong with this installation, and how to mend it.",
        "settings": "Every setting, its value and where it came from.",
    }),
    "Files": ("api.cli.project", {
        "validate": "Check the files of the project, or those named.",
        "test": "Run the tests that pipelines carry, offline.",
        "plan": "What runs of files or pipelines would do, and why they would be refused.",
        "apply": "Make it so: connections, policies, pipelines.",
        "schema": "The JSON Schema of a kind of document, for editors.",
    }),
    "Pipelines": ("api.cli.pipelines", {
        "list": "All pipelines, with their last run and the next one.",
        "status": "One pipeline: version, status, runs.",
        "preview": "Rows before and after each step.",
        "run": "Run pipelines: by name, by label, by pattern, or all.",
        "backfill": "A window of the cursor again.",
        "runs": "Runs, the latest first.",
        "pause": "No new runs; a running one stops at its last commit.",
        "resume": "Active again; an interrupted run goes on.",
        "stop": "Stopped: an open run is ended.",
        "delete": "Gone, with what it owns at its sink.",
        "versions": "Every version of a pipeline.",
        "rollback": "A new version that equals an older one.",
    }),
    "Operations": ("api.cli.letters", {
        "dlq": "Dead letters: the rows that could not be written.",
        "metrics": "What runs processed, how fast, and how far behind.",
    }),
    "Audit": ("api.cli.audit", {
        "events": "The records of the control topic.",
        "why": "What led to a run, a decision, a command or a record.",
    }),
    "Plumbing": ("api.cli.plumbing", {
        "flow": "One flow in the foreground: what a pod runs.",
        "topics": "The topics: list, tail, lag.",
    }),
}  # fmt: skip
"""Commands by their section in `--help`, with the module that holds them and the line that tells of them."""

MODULES: Final = {
    "list": "api.cli.listing",
    "demo": "api.cli.demo",
    "up": "api.cli.up",
    "doctor": "api.cli.doctor",
    "test": "api.cli.trials",
    "plan": "api.cli.plan",
    "preview": "api.cli.trials",
    "run": "api.cli.run",
    "backfill": "api.cli.run",
    "runs": "api.cli.runs",
    "metrics": "api.cli.metrics",
}
"""Commands that stand in a module of their own."""


EPILOG: Final = """\b
Exit codes: 0 done, 1 failed, 2 wrong use or invalid file, 3 not found, 4 refused by policy.
Completion: eval "$(_PENSTOCK_COMPLETE=bash_source penstock)", or zsh_source, fish_source."""


class State:
    """What every command shares: settings, made when first asked for, and the output."""

    def __init__(self, project: Path | None, output: Output) -> None:
        self.project, self.output = project, output

    @property
    def settings(self) -> Settings:
        """The settings of the project."""
        from penstock.settings import load

        return load(self.project)


class _Lazy(click.Group):
    """Knows its commands by name and loads a command's module when it is asked for."""

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
    for name, told in reversed(_COMMON.items()):
        function = click.option(f"--{name}", f"common_{name}", **told)(function)
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
    """A command that also takes the common options after its name, and gets the shared `State` first."""

    def decorate(function: Callable[..., Any]) -> click.Command:
        @click.pass_context
        def run(ctx: click.Context, /, common_json: bool, common_project: Path | None, **given: Any) -> Any:  # noqa: FBT001 - click gives flags by name
            state: State = ctx.obj
            state.output.as_json |= common_json
            state.project = common_project or state.project
            return function(state, **{name: value for name, value in given.items() if name != "common_debug"})

        run.__doc__ = function.__doc__
        run.__click_params__ = getattr(function, "__click_params__", [])  # type: ignore[attr-defined]
        made: click.Command = click.command(**settings)(_common(run))
        return made

    return decorate


def main(arguments: list[str] | None = None) -> None:
    """The entry point: errors become one line and an exit code."""
    gc.set_threshold(50_000, 20, 100)  # imports leave next to no garbage, and looking for it takes a fifth of a start
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
    except Exception as error:  # noqa: BLE001 - whatever it is, a person is told in one line
        found = _told(error)
        if "--debug" in words or os.environ.get("PENSTOCK_DEBUG"):
            traceback.print_exception(error)
        output.failed(found)
        sys.exit(found.exit_code)
    finally:
        telemetry.shut_down()


def _told(error: Exception) -> PenstockError:
    """What a person is told of `error`."""
    if isinstance(error, PenstockError):
        return error
    if isinstance(error, click.ClickException):
        return _wrong_use(error)
    hint = "show it with --debug, and report it"
    return PenstockError(f"a defect of Penstock: {type(error).__name__}", hint=hint)


def _wrong_use(error: click.ClickException) -> UsageError:
    where = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "penstock"
    if isinstance(error, click.NoSuchOption):
        near = did_you_mean(error.option_name, error.possibilities or ())
        return UsageError(f"there is no option {error.option_name}", where=where, hint=near or f"{where} --help")
    what = error.format_message().rstrip(".")
    return UsageError(what[:1].lower() + what[1:], where=where, hint=f"{where} --help")
