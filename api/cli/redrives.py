"""Dead letters that are corrected, redriven or deleted, by `penstock dlq`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import asdict
from shlex import quote
from typing import Any

from api.cli.candidates import candidates
from api.cli.comparisons import asked, receipt_line, wait_for_result
from api.cli.console import escape
from api.cli.events import link_records
from api.cli.letter_options import keys_of
from api.cli.main import State
from api.client import Client, connected
from catalog.letters import letters
from penstock.errors import NotFound, UsageError
from penstock.models.letters import MAX_IDS, LetterChoice, LetterFix
from penstock.postgres import connect
from penstock.records.commands import LettersStart
from penstock.telemetry import exporting, span

__all__ = ["fix", "settle"]


def fix(state: State, name: str, choice: LetterChoice, options: dict[str, Any]) -> None:
    """Show which letters would pass with new values; with `--apply` redrive them."""
    wanted = _fix_of(options)
    _refuse_others(options, "penstock dlq fix", ("keys", "reason", "every", "state_", "grouped"))
    if options["apply_"]:
        _done(state, LettersStart(name=name, action="replay", choice=choice, fix=wanted))
        return
    from dataflows.runs.letter_trial import tried

    with connected(state.settings, runs=False) as client:
        found = tried(candidates(state, client, [name]).job_in_force(state, name), choice, wanted)
    state.output.say(
        f"of {found.chosen:,} dead letters {found.passed:,} would be written, {found.filtered:,} filtered, "
        f"{found.refused:,} refused again, {found.left:,} left as they are"
    )
    if found.overtaken:
        state.output.say(f"{found.overtaken:,} would be dropped: a later change of their key is written")
    if found.held_back:
        state.output.say(f"{found.held_back:,} others match, and cannot be redriven: their rows are to be read again")
    state.output.table(
        ("step", "reason, such as", "#letters"),
        [(one.step, one.reason, one.count) for one in found.failing],
        empty="",
    )
    state.output.data(asdict(found))
    state.output.hint("the same with --apply" if found.passed else "penstock dlq list --groups")


def settle(state: State, action: str, name: str, choice: LetterChoice, options: dict[str, Any]) -> None:
    """Redrive, discard or erase letters, and show the receipt."""
    where = f"penstock dlq {action}"
    _refuse_others(options, where, ("sets", "where", "apply_", "state_", "grouped"))
    if action == "replay":
        _refuse_others(options, where, ("keys", "reason", "every"))
        _done(state, LettersStart(name=name, action="replay", choice=choice))
        return
    if not options["reason"]:
        raise UsageError("say why", where=f"{where}: --reason", hint='such as --reason "test data"')
    keys = keys_of(options)
    if not (keys or options["every"] or choice != LetterChoice()):
        raise UsageError("say which ones", where=where, hint="such as --group F, --key id=7, or --all")
    if keys:
        choice = _with_ids(state, name, choice, keys)
        if not choice.ids:
            state.output.say("no dead letters have these values")
            state.output.data({"action": action, "chosen": 0})
            return
    _done(state, LettersStart(name=name, action=action, choice=choice, reason=options["reason"]))


def _with_ids(state: State, name: str, choice: LetterChoice, keys: dict[str, str]) -> LetterChoice:
    """Return the choice by the ids of the rows that have these values, which must not be on the log."""
    with (
        connected(state.settings, runs=False) as client,
        closing(connect(client.site.catalog_dsn, "penstock:dlq")) as session,
    ):
        found = letters(session, choice, MAX_IDS + 1, name=name, key=keys)
    if len(found) > MAX_IDS:
        hint = "add --group, --run or --since"
        raise UsageError(f"more than {MAX_IDS:,} letters match", where="--key", value=", ".join(keys), hint=hint)
    return choice.model_copy(update={"ids": tuple(one.id for one in found if one.name == name)})


def _done(state: State, order: LettersStart) -> None:
    """Have a worker do it, wait, and show the receipt."""
    name = order.name
    with connected(state.settings, worker=True) as client, span(f"{order.action} letters", pipeline=name) as current:
        if exporting():
            link_records(client, current, _ends(client, name, order.choice))
        answers = asked(state, client, "letters.start", [name], lambda _: order)
        wait_for_result(state, client, name, answers[name], "nothing was done", alone=True)
        found = dict((client.store.pipeline(name).letters or {}).get("found") or {})
    state.output.say(f"{escape(name)}: {receipt_line(found)}")
    state.output.data(found)
    state.output.hint(
        f"penstock dlq list {quote(name)} --groups" if found.get("refused") else f"penstock status {quote(name)}"
    )


def _ends(client: Client, name: str, choice: LetterChoice) -> Iterator[int]:
    """Yield the offsets of the last records of the runs whose letters are chosen, the latest run first."""
    with closing(connect(client.site.catalog_dsn, "penstock:dlq")) as session:
        runs = dict.fromkeys(one.run for one in letters(session, choice, MAX_IDS, name=name))
    for run in runs:
        with suppress(NotFound):
            yield client.store.run(run).changed


def _fix_of(options: dict[str, Any]) -> LetterFix:
    values = {}
    for text in options["sets"]:
        name, is_there, sql = text.partition("=")
        if not is_there or not name.strip() or not sql.strip():
            raise UsageError("is no new value", where="--set", value=text, hint='write --set "price=abs(price)"')
        values[name.strip()] = sql.strip()
    if not values:
        raise UsageError("give new values", where="penstock dlq fix", hint='--set "price=abs(price)"')
    return LetterFix.parse({"set": values} | ({"where": options["where"]} if options["where"] else {}))


def _refuse_others(options: dict[str, Any], where: str, names: tuple[str, ...]) -> None:
    """Refuse options that have no meaning for a command, rather than ignore them. Raises UsageError."""
    if wrong := next((name for name in names if options[name]), None):
        known = {"keys": "--key", "sets": "--set", "apply_": "--apply", "every": "--all", "state_": "--state"}
        option = known.get(wrong, "--groups" if wrong == "grouped" else f"--{wrong}")
        raise UsageError(f"{option} has no meaning here", where=where, hint="leave it out")
