"""`penstock alerts`: what is not as it should be; to quieten it, and to try a sensitivity on history."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from shlex import quote
from typing import TYPE_CHECKING, Any, Final, get_args

import click
from pydantic import TypeAdapter, ValidationError

from api.cli.alert_lines import alert_lines, quiet_words
from api.cli.completion import pipeline_names
from api.cli.console import ago, counted, escape, plain
from api.cli.main import State, command
from api.cli.moments import moment
from api.client import Client, connected
from catalog.alerts import INCIDENT, Alert, Silence, alerts, silences
from catalog.task_ends import wait_for
from penstock.clock import now
from penstock.errors import NotFound, UsageError, did_you_mean
from penstock.models.base import Duration, duration_text
from penstock.postgres import connect

if TYPE_CHECKING:
    from dataflows.detect.trial import Fired

ACTIONS: Final = ("list", "show", "snooze", "silence", "test", "try")
MOST_RUNS: Final = 5000
"""Runs of the history that a back-test reads."""


@command(name="alerts")
@click.argument("action", type=click.Choice(ACTIONS), default="list")
@click.argument("name", metavar="[NAME|ID]", required=False, shell_complete=pipeline_names)
@click.option("--all", "every", is_flag=True, help="List: closed ones, too.")
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=50,
    show_default=True,
    help="List: how many, open and critical ones first.",
)
@click.option("--for", "length", help="Snooze, silence: for how long, such as 30m, 2h, 1d.")
@click.option("--until", help="Snooze, silence: until a time (ISO 8601); silence: `now` ends it.")
@click.option("--metric", help="Silence: only this metric, such as rows_out, or kind, such as fresh.")
@click.option("--why", help="Snooze, silence: what for; it is recorded.")
@click.option("--sensitivity", type=float, help="Test: in place of that of the policy.")
@click.option("--since", default="30d", show_default=True, help="Test: a time (ISO 8601) or a duration ago.")
@click.option("--plot", "drawn", is_flag=True, help="Test: draw the scores over time.")
def alerts_(state: State, action: str, name: str | None, **options: Any) -> None:
    """List open alerts, of a pipeline with NAME; `show ID` tells one in full, with what it was decided by.

    `snooze ID --for 2h` tells nothing of an open alert until then; `silence PIPELINE [--metric M] --until TIME` tells
    nothing of a pipeline or a set. `test NAME` shows which alerts another sensitivity would have opened, and when.
    `try ROUTE` sends a message to a connection that takes alerts.
    """
    if action != "list" and name is None:
        raise UsageError(f"`alerts {action}` needs a name", where="penstock alerts", hint="penstock alerts --help")
    CARRY_OUT[action](state, name, **options)


def _list(state: State, name: str | None, *, every: bool, limit: int, **_options: Any) -> None:
    with connected(state.settings, runs=False) as client, closing(_session(client)) as session:
        found, quiet = alerts(session, name, open_only=not every, limit=limit), silences(session, now())
        if name is not None and not found:
            client.store.pipeline(name)  # says so if there is none
    columns = ("alert", "severity", "kind", "pipeline", "since", "status", "what")
    rows = [
        (one.id[:8], one.severity, one.kind, one.pipeline or "", ago(one.since), _status(one), one.summary)
        for one in found
    ]
    state.output.table(columns, rows, empty="No alert has opened." if every else "No alert is open.")
    state.output.data({"alerts": plain(found), "silences": plain(quiet)})
    for line in (*_silence_lines(quiet), *_undelivered(found)):
        state.output.say(line)
    state.output.hint(f"penstock alerts show {found[0].id[:8]}" if found else "penstock list")


def _session(client: Client) -> Any:
    return connect(client.site.catalog_dsn, "penstock:alerts")


def _status(one: Alert) -> str:
    if one.status == "closed":
        return f"closed {ago(one.closed_at)}"
    return quiet_words(one) or "open"


def _silence_lines(found: Sequence[Silence]) -> Iterator[str]:
    for one in found:
        what = f"{one.metric} of {one.pipeline}" if one.metric else one.pipeline
        why = f": {one.why}" if one.why else ""
        by = one.by.partition(":")[2] or one.by
        yield escape(f"{what} is silenced until {one.until:%Y-%m-%d %H:%M} UTC by {by}{why}")


def _show(state: State, name: str | None, **_options: Any) -> None:
    with connected(state.settings, runs=False) as client, closing(_session(client)) as session:
        one = _one(alerts(session, name, open_only=False, limit=2), name)
    state.output.data(plain(one))
    for line in alert_lines([one]):
        state.output.say(line)
    alert = one.alert
    if alert.get("score") is not None:
        numbers = f"value {alert['value']:,g}, expected {alert['expected']:,g}, score {alert['score']:.2f}"
        state.output.say(f"{alert['metric']}: {numbers}")
    for label, key in (
        ("run", "run"),
        ("incident" if one.kind == INCIDENT else "incident that may be why", "incident"),
    ):
        if alert.get(key):
            state.output.say(f"{label}: {alert[key]}")
    if alert.get("hint"):
        state.output.say(escape(f"what to do: {alert['hint']}"))
    state.output.say(f"told by: {', '.join(alert.get('routes', ())) or 'none'}")
    for route, receipt in sorted((one.delivered or {}).items()):
        state.output.say(escape(f"{route}: {_received(receipt)}"))
    if one.snooze:
        why = f": {one.snooze['why']}" if one.snooze.get("why") else ""
        state.output.say(escape(f"snoozed by {one.snooze['by']}{why}"))
    if one.closed_at is not None:
        lasted = duration_text(timedelta(seconds=round((one.closed_at - one.since).total_seconds())))
        state.output.say(f"closed {ago(one.closed_at)}, after {lasted}: {escape(one.reason or '')}")
    state.output.hint(f"penstock errors {alert['incident']}" if one.kind == INCIDENT else f"penstock why {one.id}")


def _undelivered(found: Sequence[Alert]) -> Iterator[str]:
    """Yield a line for each route that did not take the last that it was to be told of an alert."""
    failed = Counter(route for one in found for route, of in (one.delivered or {}).items() if of["status"] == "failed")
    for route, count in sorted(failed.items()):
        told = f"was not told of {counted(count, 'alert')}: `penstock errors {quote(route)}` says why"
        yield f"[red]{escape(route)}[/red] {escape(told)}"


def _received(receipt: Mapping[str, Any]) -> str:
    """Return what became of the last notice to a route."""
    what = receipt["event"].rpartition(".")[2]
    after = f" after {counted(receipt['attempts'], 'attempt')}" if receipt["attempts"] > 1 else ""
    when = f"{ago(datetime.fromisoformat(receipt['at']))}{after}"
    if receipt["status"] == "sent":
        return f"{what}, sent {when}"
    return f"{what}, given up {when}: {(receipt.get('error') or {}).get('what')}"


def _try(state: State, name: str | None, **_options: Any) -> None:
    """Send a notice to a route, once, and wait for what becomes of it."""
    route = str(name)
    with connected(state.settings, worker=True) as client:
        result = client.ask("route.try", route, {"route": route}).result or {}
        wait_for(client.site.catalog_dsn, result["task"], f"route {route}", client.look_after)
    state.output.data({"route": route, "task": result["task"], "status": "sent"})
    state.output.say(escape(f"{route} has taken a test message"))
    state.output.hint("penstock alerts")


def _one(found: Sequence[Alert], id_: str | None) -> Alert:
    if len(found) != 1 or id_ is None or not found[0].id.startswith(id_):
        what = "more than one alert begins so" if len(found) > 1 else "there is no such alert"
        raise NotFound(what, value=id_, hint="`penstock alerts --all` lists them")
    return found[0]


def _snooze(state: State, name: str | None, *, why: str | None, **options: Any) -> None:
    until = _until(options, "snooze")
    with connected(state.settings) as client, closing(_session(client)) as session:
        one = _one(alerts(session, name, limit=2), name)
        payload = {"alert": one.id, "until": until.isoformat()} | ({"why": why} if why else {})
        result = client.ask("alert.snooze", one.id, payload).result or {}
    state.output.data(result)
    state.output.say(f"alert {one.id[:8]} is not told until {until:%Y-%m-%d %H:%M} UTC")
    state.output.hint("penstock alerts")


def _silence(state: State, name: str | None, *, why: str | None, metric: str | None, **options: Any) -> None:
    until = _until(options, "silence")
    pipeline = str(name)
    _check_metric(metric)
    payload = {"pipeline": pipeline, "until": until.isoformat()} | ({"why": why} if why else {})
    payload |= {"metric": metric} if metric else {}
    with connected(state.settings) as client:
        result = client.ask("alert.silence", pipeline, payload).result or {}
    state.output.data(result)
    ends = f"is not told until {until:%Y-%m-%d %H:%M} UTC" if until > now() else "is told again"
    state.output.say(escape(f"{metric or 'what is wrong'} of {pipeline} {ends}"))
    state.output.hint("penstock alerts")


def _check_metric(metric: str | None) -> None:
    """Refuse a metric that opens no alert: nothing would be silenced. Raises UsageError."""
    from agents.alerts import KINDS
    from penstock.records.alerts import AlertKind

    known = sorted({*KINDS, *get_args(AlertKind)})
    if metric is not None and metric not in known:
        hint = did_you_mean(metric, known) or f"known: {', '.join(known)}"
        raise UsageError("is no metric or kind of alert", where="--metric", value=metric, hint=hint)


def _until(options: dict[str, Any], action: str) -> datetime:
    length, until = options["length"], options["until"]
    if (length is None) == (until is None):
        hint = f"penstock alerts {action} NAME --for 2h"
        raise UsageError("give either --for or --until", where=f"penstock alerts {action}", hint=hint)
    if until == "now":
        return now()
    if until is not None:
        if until[:-1].isdigit():  # `moment` takes it for so long ago
            raise UsageError("is not a time", where="--until", value=until, hint=f"write --for {until}")
        return moment(until, "--until", hint="write 2026-01-31T12:00:00Z").astimezone(UTC)
    try:
        span: timedelta = TypeAdapter(Duration).validate_python(length)
        return now() + span
    except (ValidationError, OverflowError):
        raise UsageError("is not a duration", where="--for", value=length, hint="write 30m, 2h or 1d") from None


def _test(
    state: State, name: str | None, *, sensitivity: float | None, since: str, drawn: bool, **_options: Any
) -> None:
    from api.cli.back_test import back_test, drawing

    begin = moment(since, "--since", hint="write 30d, or 2026-01-31T12:00:00Z")
    with connected(state.settings, runs=False) as client:
        tried = back_test(client, str(name), begin, sensitivity, MOST_RUNS)
    columns = ("metric", "severity", "from", "to", "#score", "what")
    rows = [_row(one) for one in tried.fired]
    nothing = f"No alert would have opened since {begin:%Y-%m-%d %H:%M} UTC."
    state.output.table(columns, rows, empty=nothing)
    state.output.data({"sensitivity": tried.rules.sensitivity, "warm_up": tried.rules.warm_up, "runs": tried.runs,
                       "scores": len(tried.scored), "alerts": [asdict(one) for one in tried.fired]})  # fmt: skip
    of = f"{counted(len(tried.fired), 'alert')} by sensitivity {tried.rules.sensitivity:g}"
    state.output.say(f"{of} and a warm-up of {tried.rules.warm_up}, of {counted(len(tried.scored), 'score')}")
    for line in drawing(tried) if drawn else ():
        state.output.say(line)
    state.output.hint(f"penstock alerts test {quote(tried.name)} --sensitivity 3")


def _row(one: Fired) -> tuple[object, ...]:
    metric = f"{one.metric} {one.part}" if one.part else one.metric
    end = f"{one.end:%Y-%m-%d %H:%M}" if one.end else "still open"
    return (metric, one.severity, f"{one.begin:%Y-%m-%d %H:%M}", end, f"{one.peak:.1f}", one.summary)


CARRY_OUT: Final[dict[str, Callable[..., None]]] = {
    "list": _list,
    "show": _show,
    "snooze": _snooze,
    "silence": _silence,
    "test": _test,
    "try": _try,
}
