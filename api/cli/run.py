"""`penstock run` and `penstock backfill`: start runs, and follow them until they end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from shlex import quote
from typing import TYPE_CHECKING, Any

import click

from api.cli.choice import Choice
from api.cli.completion import pipeline_names, tables_option
from api.cli.console import escape
from api.cli.downstream import Cascade, downstream
from api.cli.main import State, command
from api.cli.results import Result
from api.cli.set_runs import member_results
from api.client import UP, Client, connected
from penstock.errors import PenstockError, Refused

if TYPE_CHECKING:
    from api.watch import Watch

__all__ = ["again", "start"]

Rows = Mapping[str, str]
"""Rows to read again, as `penstock.models.domain.Reload` writes them; the models are slow to load."""


@command(name="run")
@click.argument("names", nargs=-1, metavar="[NAME]...", shell_complete=pipeline_names)
@click.option("--all", "every", is_flag=True, help="Every active pipeline.")
@click.option(
    "--select", "selectors", multiple=True, metavar="LABEL=VALUE|PATTERN",
    help="Active pipelines with this label, or with a name like `sales-*`; may be given again.",
)  # fmt: skip
@tables_option("Members of sets whose table matches.")
@click.option(
    "--downstream", "below", is_flag=True, help="Then all that run `after` them, in order; waits for their ends."
)
@click.option("--watch", is_flag=True, help="Show its progress until it ends.")
@click.option("--full", is_flag=True, help="Read all rows again; they replace the target's at the end.")
@click.option(
    "--from", "begin", metavar="earliest|latest|TIME|OFFSETS",
    help="Where a stream begins; OFFSETS are partitions with offsets, such as 0=120,1=80.",
)  # fmt: skip
@click.option(
    "--reset", is_flag=True, help="With --from: for a stream that was read before. Rows repeat, or are skipped."
)
def run_(  # noqa: PLR0913 - one for each option
    state: State,
    names: tuple[str, ...],
    selectors: tuple[str, ...],
    tables: tuple[str, ...],
    begin: str | None,
    *,
    every: bool,
    below: bool,
    watch: bool,
    full: bool,
    reset: bool,
) -> int:
    """Run pipelines, several at once. Waits for them to end, unless `penstock up` is running.

    It then waits for those too that run `after` them.

    Exit code 1 if any of several failed.
    """
    choice = Choice(names, selectors, every, tables)
    if begin is not None or reset:
        from api.cli.beginnings import begin_stream

        return begin_stream(state, choice, begin, reset=reset)
    return _run(state, choice, {"rows": "all"} if full else None, watch=watch, below=below)


@command(name="backfill")
@click.argument("name", shell_complete=pipeline_names)
@click.option("--from", "first", required=True, metavar="VALUE", help="The first value of the cursor, such as a day.")
@click.option("--to", "end", required=True, metavar="VALUE", help="The value of the cursor before which it ends.")
@tables_option("Of a set: members whose table matches.")
@click.option("--watch", is_flag=True, help="Show its progress until it ends.")
def backfill_(state: State, name: str, tables: tuple[str, ...], first: str, end: str, *, watch: bool) -> int:
    """Read a window of the cursor again, as far as earlier runs have read; its rows replace the target's.

    In `merge` they are merged. The position stays as it is: the next run continues from there. Of a set: of each member
    that has a cursor.
    """
    from penstock.models.domain import Reload

    window = Reload.parse({"rows": "window", "from": first, "to": end}).to_dict()
    return _run(state, Choice((name,), tables=tables, command="backfill"), window, watch=watch)


def _run(state: State, choice: Choice, reload: Rows | None, *, watch: bool, below: bool = False) -> int:
    left: dict[str, str] = {}
    single = None if below else choice.single
    with connected(state.settings, runs=False) as client:
        pipelines = client.overview(name=single)
        names, cascade = choice.names_among(pipelines), Cascade()
        if below:
            cascade = Cascade([*names, *downstream(names, pipelines)])
            names = cascade.first(pipelines)
        client.start(worker=True)
        watched = client.watch() if watch or below or not client.log.holder(UP) else None
        results, sets = _start(state, client, names, reload)
        _raise_if_single(single, results)
        for name, answer in sets.items():
            if watched is None:
                results[name] = Result(name, str(answer["group"]))
                continue
            found = member_results(client, name, answer, others=reload is None)
            results |= {one.pipeline: one for one in found}
            cascade.idle.update(() if found else (name,))
            if single and not found:
                state.output.say(f"{name}: no member is due; penstock status {quote(name)}")
        if watched is not None:
            follow_all = partial(_follow, state, watched, single, again(choice, reload), shown=watch)
            results |= follow_all(results)
            while more := _following(state, client, cascade, results):
                results |= follow_all(more)
            left = cascade.left(results, client.overview()) if below else {}
            _tell_causes(state, client, results.values())
        else:
            for one in results.values():
                state.output.say(one.line)
    _raise_if_single(single, results)
    for name, failed in left.items():
        state.output.say(f"{name}: [yellow]not run:[/yellow] {failed} did not complete")
    if single in results and len(results) == 1:
        return _tell_one(state, results[single])
    return _tell_all(state, list(results.values()))


def _follow(
    state: State, watched: Watch, single: str | None, words: str, found: Mapping[str, Result], *, shown: bool
) -> dict[str, Result]:
    """Follow the runs of `found` to their ends; return their results. `words` is the command that continues them."""
    from api.cli.board import board
    from api.cli.following import follow

    results = dict(found)
    runs = {one.run: one.pipeline for one in found.values() if one.run is not None}
    with board(state.output, runs, shown=shown) as progress, _interruptible(state, words):
        for refused in (one for one in found.values() if one.run is None):
            progress.end(refused)
        for result in follow(watched, runs, progress):
            results[result.pipeline] = result
            if not (result.pipeline == single and result.error):
                progress.end(result)
    return results


def _following(state: State, client: Client, cascade: Cascade, results: Mapping[str, Result]) -> dict[str, Result]:
    """Return the runs that follow from those that have ended: started by `after`, or asked for now."""
    if not cascade.asked and not client.has_followers():
        return {}
    pipelines = client.overview()
    runs = cascade.started(results, pipelines)
    found = {name: Result(name, run) for run, name in runs.items()}
    asked, sets = _start(state, client, [one for one in cascade.ready(results, pipelines) if one not in found], None)
    for name, answer in sets.items():
        members = member_results(client, name, answer, others=False)
        cascade.idle.update(() if members else (name,))
        asked |= {one.pipeline: one for one in members}
    return found | asked


def _tell_causes(state: State, client: Client, results: Iterable[Result]) -> None:
    """Print why runs have failed, before this command ends the processes that look for it."""
    failed = [one.run for one in results if one.error is not None and one.run is not None]
    if failed and not client.log.holder(UP):
        from api.cli.errors import seen_causes

        for line in seen_causes(client, failed):
            state.output.say(line)


def _start(
    state: State, client: Client, names: Iterable[str], reload: Rows | None
) -> tuple[dict[str, Result], dict[str, Mapping[str, Any]]]:
    """Ask for a run of each pipeline; an open run that reads the same rows is followed instead.

    Return the results, and the answers of sets, whose runs are queued later.
    """
    answers = client.ask_each("run.start", {name: _order(name, reload) for name in names})
    results: dict[str, Result] = {}
    sets: dict[str, Mapping[str, Any]] = {}
    for name, answer in answers.items():
        if not isinstance(answer, PenstockError) and "group" in (answer.result or {}):
            sets[name] = answer.result or {}
        elif not isinstance(answer, PenstockError):
            results[name] = Result(name, str((answer.result or {})["run"]))
        elif isinstance(answer, Refused) and (run := _open_run(client, name, reload)):
            state.output.say(f"run {run} of {name} is open: it continues")
            results[name] = Result(name, run)
        else:
            results[name] = Result(name, error=answer)
    return results, sets


def _open_run(client: Client, name: str, reload: Rows | None) -> str | None:
    """Return the open run, if there is one: an interrupted one, or another command's."""
    from api.watch import OPEN

    runs = client.store.runs(pipeline=name, limit=1).items
    if not runs or runs[0].status not in OPEN or runs[0].reload != reload:
        return None
    return str(runs[0].id) if client.store.pipeline(name).status == "active" else None


def _order(name: str, reload: Rows | None) -> dict[str, Any]:
    return {"pipeline": name} if reload is None else {"pipeline": name, "reload": reload}


def start(client: Client, name: str) -> str:
    """Ask for a run; return its id."""
    answer = client.ask("run.start", name, _order(name, None))
    return str((answer.result or {})["run"])


@contextmanager
def _interruptible(state: State, words: str) -> Iterator[None]:
    """On Ctrl-C print how to continue the runs that have not ended."""
    try:
        yield
    except KeyboardInterrupt:
        state.output.errors.print(f"[dim]what is committed stays; `{escape(words)}` continues from there[/dim]")
        raise


def again(choice: Choice, reload: Rows | None) -> str:
    """Return the command that continues these runs: it has to read the same rows."""
    if reload is None or reload["rows"] == "all":
        return f"penstock run {choice.words}{' --full' if reload else ''} --watch"
    return f"penstock backfill {choice.words} --from {quote(reload['from'])} --to {quote(reload['to'])} --watch"


def _raise_if_single(single: str | None, results: dict[str, Result]) -> None:
    """Raise the error of a single run: the command ends with its exit code."""
    if single in results and (error := results[single].error):
        raise error


def _tell_one(state: State, result: Result) -> int:
    if result.entry is None:
        state.output.data({"run": result.run, "status": "queued"})
        state.output.hint(f"penstock status {quote(result.pipeline)}")
    else:
        state.output.data(result.entry)
        state.output.hint(
            f"penstock dlq list {quote(result.pipeline)}" if result.dead else f"penstock why {result.run}"
        )
    return 0


def _tell_all(state: State, results: list[Result]) -> int:
    """Print the summary of several runs; return 1 if any failed."""
    failed = [one.pipeline for one in results if one.error is not None]
    completed = sum(one.entry is not None and one.error is None for one in results)
    state.output.data({"runs": [one.to_dict() for one in results], "failed": failed})
    counts = f"{completed} of {len(results)} completed" if completed or failed else f"{len(results)} are asked for"
    state.output.say(counts + (f", {len(failed)} failed: {', '.join(failed)}" if failed else ""))
    dead = [one.pipeline for one in results if one.dead]
    letters = f"penstock dlq list {quote(dead[0])}" if dead else "penstock list"
    state.output.hint(f"penstock status {quote(failed[0])}" if failed else letters)
    return 1 if failed else 0
