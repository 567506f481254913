"""`penstock flow` and `penstock topics`: one flow in the foreground, and the topics."""

from __future__ import annotations

import json
import signal
import tempfile
import threading
from pathlib import Path
from shlex import quote
from typing import Any

import click

from api.cli.console import stopped_by_hand, visible
from api.cli.main import State, command
from api.client import connected
from catalog.projection import Projector
from dataflows.process.site import Site
from dataflows.runs.launcher import run_task
from dataflows.runtime.flows import FLOWS, run_flows
from dataflows.runtime.retention import drop_leftovers
from penstock.clock import now
from penstock.errors import NotFound, Refused, UsageError, did_you_mean
from penstock.ids import new_id
from penstock.topics.log import Stored
from penstock.topics.opening import topics_of
from penstock.topics.table import CONTROL, TOPICS, topic_named

POLL_SECONDS = 0.5


@command(name="flow")
@click.argument("names", nargs=-1, required=True)
def flow_(state: State, names: tuple[str, ...]) -> int:
    """Run flows in one process: control, projector, scheduler, worker; or `pipeline NAME`, one run of it.

    A flow runs until it is stopped by SIGTERM or Ctrl-C. A control, projector or scheduler flow waits while another
    one is active.

    `pipeline NAME` runs outside the control plane: no policy, no retry, no limit, and no record of it on the log, so
    that `penstock runs` and `penstock why` do not show it. Use `penstock run NAME` wherever you can.
    """
    if names[0] == "pipeline":
        return _one_run(state, names[1:])
    for name in names:
        if name not in FLOWS:
            raise NotFound(
                "there is no such flow",
                value=name,
                hint=did_you_mean(name, FLOWS) or f"one of {', '.join(FLOWS)}, pipeline",
            )
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    settings = state.settings
    settings.check_project()
    drop_leftovers(settings.home, now())
    with Site(settings) as site:
        state.output.say(f"{', '.join(names)}: in the foreground, Ctrl-C stops")
        run_flows(names, site, stop)
    return 0


def _one_run(state: State, names: tuple[str, ...]) -> int:
    """Run a pipeline in this process, outside the control plane; the sink's fence excludes any other run."""
    if len(names) != 1:
        raise UsageError("name one pipeline", where="flow pipeline", hint="penstock flow pipeline NAME")
    with connected(state.settings, runs=False) as client, tempfile.TemporaryDirectory() as folder:
        client.site.check(client.log)
        pipeline = client.store.pipeline(names[0])
        if pipeline.status != "active":
            hint = (
                f"penstock resume {quote(pipeline.name)}"
                if pipeline.status in {"paused", "stopped"}
                else "penstock list"
            )
            raise Refused(f"is {pipeline.status}: it is not run", where=f"pipeline {pipeline.name}", hint=hint)
        result = Path(folder) / "result.json"
        task = {
            "run": new_id(),
            "attempt": 1,
            "uid": pipeline.uid,
            "kind": "pipeline",
            "pipeline": dict(pipeline.pipeline),
            "connections": {one.name: dict(one.connection) for one in client.store.connections()},
            "secrets": str(state.settings.secrets),
            "result": str(result),
            "letters": client.site.catalog_dsn,
            "modules": state.settings.modules,
            "mask_key": state.settings.mask_key,
        }
        code = run_task(task)
        click.echo(json.dumps(json.loads(result.read_text())))
    return code


@command(name="topics")
@click.argument("action", type=click.Choice(["list", "tail", "lag", "create", "append", "copy"]), default="list")
@click.argument("topic", required=False)
@click.option("--from", "begin", type=int, help="tail: from this offset on (default: the last 20).")
@click.option("--follow", "-f", is_flag=True, help="tail: continue with new messages.")
@click.option("--partitions", type=click.IntRange(1, 1024), help="create: the number of its partitions (default: 1).")
@click.option("--keep", metavar="TIME", help="create: how long messages are kept, such as 7d (default: for good).")
@click.option("--key", metavar="COLUMN", help="append: the events' key; those of one key stay in order.")
@click.option("--to", metavar="URL", help="copy: kafka://…, a PostgreSQL database, or `own` (next to the catalog).")
def topics_(state: State, action: str, topic: str | None, **options: Any) -> None:
    """Show the topics: `list` them, `tail TOPIC`, or how far the catalog is behind (`lag`).

    `create TOPIC` makes a topic for events of your own, and `append TOPIC` reads them from standard input, one JSON
    object a line; a stream reads them by a connection of `type: topics`. `create` alone makes Penstock's own topics if
    they are missing, and checks them; `copy --to URL` copies these to another log, which can then take its place.
    """
    if action == "tail":
        _tail(state, topic, options["begin"], follow=options["follow"])
    elif action == "lag":
        _lag(state)
    elif action == "copy":
        from api.cli.moving import copy_topics

        copy_topics(state, options["to"])
    elif action == "append":
        from api.cli.appending import append_events

        append_events(state, topic, options["key"])
    elif action == "create":
        _create(state, topic, options["partitions"], options["keep"])
    else:
        _list(state)


def _create(state: State, topic: str | None, partitions: int | None, keep: str | None) -> None:
    if topic is not None:
        from api.cli.appending import create_topic

        create_topic(state, topic, partitions, keep)
        return
    if partitions or keep:
        raise UsageError("name the topic", where="topics create", hint="penstock topics create NAME --partitions 4")
    with connected(state.settings, runs=False) as client:
        for one in TOPICS.values():
            client.log.create(one)
    _list(state)


def _list(state: State) -> None:
    with connected(state.settings, runs=False) as client:
        rows = [
            (one.name, part, client.log.begin(one, part), client.log.end(one, part), one.retention_time or "for good")
            for one in topics_of(client.log)
            for part in range(one.partitions)
        ]
    columns = ("topic", "#partition", "#begin", "#end", "kept")
    state.output.table(columns, rows, empty="")
    state.output.data([dict(zip(("topic", "partition", "begin", "end", "kept"), row, strict=True)) for row in rows])
    state.output.hint("penstock topics tail control")


def _tail(state: State, name: str | None, begin: int | None, *, follow: bool) -> None:
    with connected(state.settings, runs=False) as client, stopped_by_hand():
        known = {one.name: one for one in topics_of(client.log)}
        topic = known.get(name or CONTROL.name) or topic_named(str(name))
        at = {
            part: max(client.log.begin(topic, part), client.log.end(topic, part) - 20) if begin is None else begin
            for part in range(topic.partitions)
        }
        while True:
            found = [one for part, offset in at.items() for one in client.log.read(topic, part, offset, 1000)]
            for one in found:
                _print(state, one)
                at[one.partition] = one.offset + 1
            if not found and not follow:
                return
            if not found:
                client.log.wait(topic, 0, at[0], POLL_SECONDS)


def _print(state: State, one: Stored) -> None:
    """Print a message on a line."""
    message = one.message
    key, value = (message.key or b"").decode(errors="replace"), message.value.decode(errors="replace")
    if not state.output.as_json:
        click.echo(visible(f"{one.partition}/{one.offset} {key} {value}"))
        return
    document = {
        "topic": one.topic.name,
        "partition": one.partition,
        "offset": one.offset,
        "at": message.at,
        "key": key,
        "value": _parsed(value),
    }
    state.output.data(document)


def _parsed(value: str) -> object:
    try:
        return json.loads(value)
    except ValueError:
        return value


def _lag(state: State) -> None:
    with connected(state.settings, runs=False) as client:
        end = client.log.end(CONTROL, 0)
        with Projector(client.site.catalog_dsn) as projector:
            position = projector.position()[0]
        rows = [("catalog", position, end, end - position)]
        rows += [
            (f"snapshot of {name}", one.offset, end, end - one.offset)
            for name, one in client.store.load_snapshots().items()
        ]
    state.output.table(("reader", "#position", "#end", "#behind"), rows, empty="")
    state.output.data([dict(zip(("reader", "position", "end", "behind"), row, strict=True)) for row in rows])
    state.output.hint("penstock events")
