"""The `penstock` command: parse, one call, render. Each command's module is loaded when it is used."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import click

from api.cli.console import Output
from penstock import __version__, telemetry
from penstock.errors import PenstockError, did_you_mean
from penstock.settings import Settings, load

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
        "apply": "Make it so: connections, policies, pipelines.",
        "schema": "The JSON Schema of a kind of document, for editors.",
    }),
    "Pipelines": ("api.cli.pipelines", {
        "list": "All pipelines.",
        "status": "One pipeline: version, status, runs.",
        "run": "One run.",
        "runs": "Runs, the latest first.",
        "pause": "No new runs; a running one stops at its last commit.",
        "resume": "Active again; an interrupted run goes on.",
        "stop": "Stopped: an open run is ended.",
        "delete": "Gone, with what it owns at its sink.",
        "versions": "Every version of a pipeline.",
        "rollback": "A new version that equals an older one.",
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
"""Commands by the section that `--help` shows them in, with the module that holds them and the line that tells of them."""

MODULES: Final = {"demo": "api.cli.demo", "up": "api.cli.up", "doctor": "api.cli.doctor", "run": "api.cli.run", "runs": "api.cli.run"}
"""Commands that stand in a module of their own."""


class State:
    """What every command shares: settings, made when first asked for, and the output."""

    def __init__(self, project: Path | None, output: Output, *, debug: bool) -> None:
        self.project, self.output, self.debug = project, output, debug

    @property
    def settings(self) -> Settings:
        """The settings of the project."""
        return load(self.project)


class _Lazy(click.Group):
    """Knows its commands by name and loads a command's module when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for _, names in GROUPS.values() for name in names]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        for module, names in GROUPS.values():
            if cmd_name in names:
                found = getattr(import_module(MODULES.get(cmd_name, module)), cmd_name.replace("-", "_") + "_")
                return found if isinstance(found, click.Command) else None
        return None

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if self.get_command(ctx, args[0]) is None:
            hint = did_you_mean(args[0], self.list_commands(ctx)) or "`penstock --help` lists all."
            raise click.UsageError(f"no command {args[0]!r}; {hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for section, (_, names) in GROUPS.items():
            with formatter.section(section):
                formatter.write_dl(list(names.items()))


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="penstock")
@click.option("--project", type=click.Path(path_type=Path, file_okay=False), help="The project's folder (default: here).")
@click.option("--json", "as_json", is_flag=True, help="JSON for machines.")
@click.option("--debug", is_flag=True, envvar="PENSTOCK_DEBUG", help="Show the stack of an error.")
@click.pass_context
def cli(ctx: click.Context, project: Path | None, as_json: bool, debug: bool) -> None:  # noqa: FBT001 - click's way
    """Penstock moves data between systems, and keeps moving it when they change.

    Begin with `penstock demo`, then `penstock init DIR`. Each command takes --json and --project too, and its own --help.

    Exit codes: 0 done, 1 failed, 2 wrong use or invalid file, 3 not found, 4 refused by policy.
    """
    ctx.obj = State(project, Output(as_json=as_json), debug=debug)


def command(**settings: Any) -> Any:
    """A command that also takes ``--json`` and ``--project`` after its name, and gets the shared `State` first."""

    def decorate(function: Any) -> click.Command:
        @click.pass_context
        def run(ctx: click.Context, /, as_json: bool, project: Path | None, **given: Any) -> Any:  # noqa: FBT001
            state: State = ctx.obj
            state.output.as_json |= as_json
            state.project = project or state.project
            return function(state, **given)

        run.__doc__ = function.__doc__
        run.__click_params__ = getattr(function, "__click_params__", [])  # type: ignore[attr-defined]
        folder = click.Path(path_type=Path, file_okay=False)
        made: click.Command = click.command(**settings)(
            click.option("--json", "as_json", is_flag=True, help="JSON for machines.")(
                click.option("--project", type=folder, help="The project's folder (default: here).")(run)
            )
        )
        return made

    return decorate


def main(arguments: list[str] | None = None) -> None:
    """The entry point: errors become one line and an exit code."""
    output, debug = Output(), "--debug" in (sys.argv if arguments is None else arguments) or "PENSTOCK_DEBUG" in os.environ
    output.as_json = "--json" in (sys.argv if arguments is None else arguments)
    try:
        telemetry.set_up("penstock-cli")
        code = cli.main(arguments, prog_name="penstock", standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except PenstockError as error:
        if debug:
            raise
        output.failed(error)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        output.errors.print("stopped")
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:
        if debug:
            raise
        output.failed(PenstockError(f"a defect of Penstock: {type(error).__name__}", hint="show it with --debug, and report it"))
        sys.exit(1)
    finally:
        telemetry.shut_down()
