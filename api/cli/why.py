"""`penstock why`: from a run, a decision, a record or a row back to the command, tick or change that caused it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from typing import Any, Final

import click

from api.cli.console import ago, counted, escape, hinted_line
from api.cli.dependencies import files_words, fired_words
from api.cli.errors import why_failed
from api.cli.events import gist_of, records_from
from api.cli.main import State, command
from api.client import Client, connected
from catalog.alerts import alerts
from catalog.entries import PipelineEntry, RunEntry
from catalog.letters import KeptLetter, letters
from penstock.errors import NotFound, UsageError, did_you_mean
from penstock.models.letters import LetterChoice
from penstock.models.proposals import Proposal
from penstock.postgres import connect
from penstock.records import Record, records_of
from penstock.topics.table import CONTROL

LOOKED: Final = 100
"""Runs of a pipeline that are looked at."""
RUNS: Final = 5
"""Runs that may have written a row, as they are shown."""
SHORT: Final = 8
"""Characters that name a change: so many are shown."""
LETTERS: Final = 1000
"""Dead letters in which a key is looked for."""


@command(name="why")
@click.argument("id_", metavar="[ID]", required=False)
@click.option("--row", nargs=2, metavar="TABLE KEY", help="Which runs may have written this row of a target.")
def why_(state: State, id_: str | None, row: tuple[str, str] | None) -> None:
    """Show the causes of ID: a run, task, decision, command, alert, record, offset, or a pipeline (its last run).

    With --row: the run that wrote a row of a target, as far as that can be known, and dead letters with that key.
    """
    if (id_ is None) == (row is None):
        raise UsageError("name either an ID or --row TABLE KEY", where="penstock why", hint="penstock why --help")
    with connected(state.settings, runs=False) as client:
        if row is not None:
            _explain_row(state, client, *row)
            return
        chain = list(_chain(client, _offset(client, id_ or "")))
        failed = list(why_failed(client, chain[0][1].key))
    told = [sentence(record) for _, record in chain]
    state.output.data([{"offset": o, **r.to_dict(), "text": t} for (o, r), t in zip(chain, told, strict=True)])
    for depth, ((offset, record), text) in enumerate(zip(chain, told, strict=True)):
        _explain(state, depth, offset, record, text)
    for line in failed:
        state.output.say(line)
    state.output.hint(f"penstock events --since {chain[-1][0]}")


def _explain(state: State, depth: int, offset: int, record: Record, text: str) -> None:
    lead = f"{'   ' * (depth - 1)}└─ because " if depth else ""
    place = f"({record.type}, offset {offset}, {record.at:%Y-%m-%d %H:%M:%S} UTC)"
    state.output.say(f"{lead}{escape(text)} [dim]{escape(place)}[/dim]")
    if record.type == "agent.decided":
        why = record.payload
        judged = [f"rules {why['rules']}", f"policy {str(why.get('policy'))[:12]}", f"confidence {why['confidence']:g}"]
        judged += [f"threshold {why['threshold']:g}"] if why.get("threshold") is not None else []
        judged += [f"held by {why['held']}"] if why.get("held") else []
        judged += [f"{name}={value}" for name, value in why.get("inputs", {}).items()]
        state.output.say(f"{'   ' * (depth + 1)}[dim]{escape(', '.join(judged))}[/dim]")


def sentence(record: Record) -> str:
    """Return in plain words what a record says."""
    told = SENTENCES.get(record.type)
    if told is not None:
        return told(record)
    who = record.actor.partition(":")[2] or record.actor
    if record.kind == "command":
        return f"{who} asked for {record.type} {record.key}".rstrip()
    gist = gist_of(record)
    return f"{record.type} {record.key}" + (f": {gist}" if gist else "")


def _decided(record: Record) -> str:
    why = record.payload
    verb = {"acted": "decided to", "proposed": "proposes to", "refused": "refused to"}[why["outcome"]]
    action = str(why["action"]).replace("_", " ")
    return f"the {why['agent']} agent {verb} {action}: {why['reason']}"


def _run(record: Record) -> str:
    run, what = record.payload["run"], record.type.partition(".")[2]
    text = f"run {run['id']} of {run['pipeline']}, version {run['version']}, was {what}"
    if what != "finished":
        return text + (f": {fired_words(run['trigger'])}" if run.get("trigger") else "")
    rows = run.get("counters", {}).get("rows_out", 0)
    error = record.payload.get("error")
    return f"{text}: {run['status']}, {counted(rows, 'row')} written" + (f"; {hinted_line(error)}" if error else "")


def _task(record: Record) -> str:
    task, what = record.payload, record.type.partition(".")[2]
    text = f"worker {task['worker']} {what} attempt {task['attempt']} of task {task['task']}"
    return text + (f": {hinted_line(task['error'])}" if task.get("error") else "")


def _fired(record: Record) -> str:
    return f"{record.payload['name']} was triggered: {fired_words(record.payload['fired'])}"


def _files(record: Record) -> str:
    found = record.payload
    return f"{files_words(found)} for {found['name']}"


def _change(record: Record) -> str:
    payload = record.payload
    if record.type == "change.proposed":
        plan = payload.get("plan") or {}
        bound = f", plan {plan['hash'][:12]} of version {plan['version']}" if plan else ""
        return f"for {payload['name']} it was proposed to {Proposal.parse(payload['proposal'])}{bound}"
    because = f": {payload['reason']}" if payload.get("reason") else ""
    bound = f", plan {payload['plan'][:12]}" if payload.get("plan") else ""
    return f"change {payload['id'][:8]} of {payload['name']} is {payload['answer']} by {payload['by']}{bound}{because}"


def _alert(record: Record) -> str:
    payload, what = record.payload, record.type.partition(".")[2]
    text = f"{payload.get('severity', '')} alert {payload['alert'][:SHORT]} was {what}".strip()
    about = payload["summary"] if what == "opened" else payload["reason"]
    run = f", run {payload['run']}" if payload.get("run") else ""
    return f"{text}: {about}{run}"


def _scored(record: Record) -> str:
    one = record.payload
    numbers = f"{one['value']:,g} where {one['expected']:,g} was expected, score {one['score']:.1f}"
    run = f" by run {one['run']}" if one.get("run") else ""
    return f"{one['metric']} of {one['pipeline']} was {numbers} by {counted(one['samples'], 'value')}{run}"


SENTENCES: Final[dict[str, Callable[[Record], str]]] = {
    "agent.decided": _decided,
    "change.proposed": _change,
    "change.answered": _change,
    "run.created": _run,
    "run.trigger": lambda record: f"the webhook of {record.payload['pipeline']} was called",
    "run.finished": _run,
    "trigger.fired": _fired,
    "tasks.aged": lambda record: f"{counted(len(record.payload['tasks']), 'task')} gained priority by waiting",
    "files.found": _files,
    "task.started": _task,
    "task.completed": _task,
    "task.failed": _task,
    "task.assigned": lambda record: (
        f"task {record.payload['task']} was given to worker {record.payload['worker']}, "
        f"attempt {record.payload['attempt']}"
    ),
    "timer.fired": lambda record: f"the timer for {record.payload['due']} was due",
    "timer.requested": lambda record: f"a timer was set for {record.payload['due']}",
    "pipeline.created": lambda record: f"pipeline {record.payload['name']} was made",
    "pipeline.updated": lambda record: f"pipeline {record.payload['name']} got version {record.payload['version']}",
    "pipeline.status_changed": lambda record: (
        f"pipeline {record.payload['name']} is {record.payload['status']}, it was {record.payload['before']}"
    ),
    "worker.joined": lambda record: f"worker {record.payload['worker']} joined",
    "worker.lost": lambda record: f"worker {record.payload['worker']} was lost: {record.payload['reason']}",
    "brain.started": lambda _: "a control process started",
    "series.scored": _scored,
    "alert.opened": _alert,
    "alert.changed": _alert,
    "alert.closed": _alert,
}


def _offset(client: Client, id_: str) -> int:
    """Return the offset of the record that `id_` names."""
    if id_.isdigit() and int(id_) < client.log.end(CONTROL, 0):
        return int(id_)
    store = client.store
    finds: tuple[Callable[[], int], ...] = (
        lambda: store.run(id_).changed,
        lambda: store.decision(id_).offset,
        lambda: store.command(id_).offset,
        lambda: _of_change(client, id_),
        lambda: _of_alert(client, id_),
    )
    for find in finds:
        with suppress(NotFound):
            return find()
    if runs := store.runs(pipeline=id_, limit=1).items:
        return runs[0].changed
    with suppress(NotFound):
        pipeline = store.pipeline(id_)
        members = store.runs_of(id_, limit=1).items
        return members[0].changed if members else pipeline.changed
    last = None
    for offset, record in records_from(client, 0, follow=False):
        if record.id == id_:
            return offset
        last = offset if record.key == id_ else last
    if last is not None:  # a task, a timer, a worker
        return last
    hint = did_you_mean(id_, [one.name for one in store.overview()])
    hint = hint or "name a pipeline (penstock list), a run (penstock runs), or the id of a record (penstock events)"
    raise NotFound("no pipeline, run, decision, command or record has this name or id", value=id_, hint=hint)


def _chain(client: Client, offset: int) -> Iterator[tuple[int, Record]]:
    """Yield the record at `offset`, the decision that it belongs to, and so on back to the first cause."""
    while True:
        ((_, record),) = records_of(client.log.read(CONTROL, 0, offset, 1))
        yield offset, record
        if record.type == "change.answer" and (proposed := _proposed(client, record, offset)) is not None:
            offset = proposed
            continue
        if record.cause is None:
            return
        if record.brain is not None and record.cause[1] > 0:
            first = offset - record.cause[1]
            ((_, decided),) = records_of(client.log.read(CONTROL, 0, first, 1))
            yield first, decided
        offset = record.cause[0]


def _of_change(client: Client, id_: str) -> int:
    """Return the offset of the last record about a change that is proposed, by the beginning of its id.

    Raises:
        NotFound: there is none.
    """
    for one in client.store.proposals(every=True):
        if len(id_) >= SHORT and one.id.startswith(id_):
            return one.changed
    raise NotFound("no such change is proposed", value=id_)


def _of_alert(client: Client, id_: str) -> int:
    """Return the offset at which an alert opened, by the beginning of its id.

    Raises:
        NotFound: there is none.
    """
    with closing(connect(client.site.catalog_dsn, "penstock:why")) as session:
        for one in alerts(session, id_, open_only=False, limit=1):
            if len(id_) >= SHORT and one.id.startswith(id_):
                return one.offset
    raise NotFound("no such alert has opened", value=id_)


def _proposed(client: Client, answer: Record, offset: int) -> int | None:
    """Return the offset of the change that a person has answered: its evidence is what led to that."""
    ids, known = answer.payload.get("ids") or (), client.store.proposals(every=True)
    return max((one.offset for one in known if one.id in ids and one.offset < offset), default=None)


# --- a row of a target


def _explain_row(state: State, client: Client, table: str, key: str) -> None:
    """Show which runs may have written a row; of a run is recorded how many rows it wrote, not which."""
    known = client.store.pipelines(limit=1000).items
    writers = [one for one in known if table in _targets(one)]
    if not writers:
        names = {name for one in known for name in _targets(one)}
        hint = did_you_mean(table, names) or "name it as a pipeline's file does, with or without CONNECTION:"
        raise NotFound("no pipeline writes to this table", value=table, hint=hint)
    found = [_of_writer(client, one, key) for one in writers]
    state.output.data({"table": table, "key": key, "writers": found})
    for one in found:
        state.output.say(f"[bold]{one['pipeline']}[/bold] writes {table} ({one['write']}): {escape(one['text'])}")
        for run in one["runs"]:
            state.output.say(f"   run {run['id']}, finished {ago(run['finished_at'])}, {counted(run['rows'], 'row')}")
        for letter in one["dead_letters"]:
            text = f"dead letter {letter['id'][:8]} has this key: run {letter['run']}, {letter['reason']}"
            state.output.say(f"   {escape(text)}")
    runs = [run["id"] for one in found for run in one["runs"]]
    state.output.hint(f"penstock why {runs[0]}" if runs else f"penstock check {found[0]['pipeline']}")


def _targets(pipeline: PipelineEntry) -> set[str]:
    """Return the names of the object that a pipeline writes to."""
    sink = pipeline.pipeline["spec"]["sink"]
    return {sink["object"], f"{sink['connection']}:{sink['object']}"}


def _of_writer(client: Client, pipeline: PipelineEntry, key: str) -> dict[str, Any]:
    write = pipeline.pipeline["spec"]["sink"].get("write", "append")
    page = client.store.runs(pipeline=pipeline.name, limit=LOOKED)
    runs = [one for one in page.items if one.counters.get("rows_out")]
    is_one = len(runs) == 1 and not page.after
    none = f"none of the last {LOOKED} runs has" if page.after else "no run has"
    if write == "replace":
        runs = [one for one in runs if one.status == "completed"][:1]
        is_one = bool(runs)
        text = "every row there is of its last completed run" if runs else f"{none} completed"
    elif not runs:
        text = f"{none} written a row"
    else:
        unknown = "neither the log nor the target keeps the run of each row, so which of them wrote it is not known"
        wrote = f"of the last {LOOKED} runs, {len(runs)} wrote rows" if page.after else f"{len(runs)} runs wrote rows"
        text = "only one run has written rows" if is_one else f"{wrote}, the last ones are below; {unknown}"
    return {
        "pipeline": pipeline.name,
        "write": write,
        "known": is_one,
        "text": text,
        "runs": [_shown(one) for one in runs[:RUNS]],
        "dead_letters": [
            {"id": one.id, "run": one.run, "reason": one.reason} for one in _refused(client, pipeline, key)
        ],
    }


def _shown(run: RunEntry) -> dict[str, Any]:
    return {"id": run.id, "finished_at": run.finished_at, "rows": run.counters.get("rows_out", 0), "status": run.status}


def _refused(client: Client, pipeline: PipelineEntry, key: str) -> list[KeptLetter]:
    """Return dead letters of the pipeline in which a value is this key."""
    with closing(connect(client.site.catalog_dsn, "penstock:why")) as session:
        found = letters(session, LetterChoice(), LETTERS, name=pipeline.name)
    return [one for one in found if key in {str(value) for value in one.values.values()}][:RUNS]
