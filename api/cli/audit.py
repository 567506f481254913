"""`penstock audit`: verify the log, judge it again under another policy, export it, and show the state at a time."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
import orjson

from api.cli.console import counted, escape
from api.cli.events import link_records, offset_at, records_from
from api.cli.main import State, command
from api.client import Client, connected
from penstock.errors import Refused, UsageError
from penstock.records import LATER, UNREADABLE
from penstock.telemetry import exporting, span
from penstock.topics.table import CONTROL, TOPICS

if TYPE_CHECKING:
    from dataflows.audit.catalog import CatalogComparison
    from dataflows.audit.replay import Replay
    from dataflows.audit.verification import Verification
    from penstock.models.policy import AgentPolicy
    from penstock.records.seals import Seal

MOST: Final = 1000
"""Flips, or open runs of one status, that are shown at most; `--limit` sets the flips."""


@command(name="audit")
@click.argument(
    "action", type=click.Choice(["messages", "verify", "replay", "state", "export", "seal"]), default="messages"
)
@click.option("--policy", "files", type=click.Path(path_type=Path), multiple=True, help="Replay: a policy's file.")
@click.option("--diff", is_flag=True, help="Replay: show each decision that flips, not only how many.")
@click.option("--limit", default=MOST, show_default=True, help="Replay: how many of them.")
@click.option("--at", help="State: a time (ISO 8601), a duration ago such as 2h, or an offset.")
@click.option("--since", help="Export: begin at a time, a duration ago, or an offset.")
@click.option("--without-catalog", is_flag=True, help="Verify: leave the catalog out, which takes the longest.")
def audit_(state: State, action: str, **options: Any) -> int | None:
    """Verify the log, or judge it again; without an action, list messages that this release cannot read, and skips.

    `verify` compares the log with its seals and their copies, folds it again and compares each decision, and compares
    the catalog with what the log makes of it. It ends with 1 if anything differs. `replay` judges each decision under
    the policies of --policy, alone: what it would have led to is not simulated. `state` shows what there was at a
    time. `export` writes records as JSON lines. `seal` seals what no seal covers; the projector does so each minute.
    """
    return ACTIONS[action](state, **options)


def _messages(state: State, **_options: Any) -> None:
    """Read every topic as its readers do."""
    skipped: list[dict[str, object]] = []
    with connected(state.settings, runs=False) as client:
        parts = [(topic, part) for topic in TOPICS.values() for part in range(topic.partitions)]
        counts = {"records": 0, UNREADABLE: 0, LATER: 0}
        for topic, part in parts:
            begin = client.log.begin(topic, part)
            for _, record in records_from(client, begin, follow=False, topic=topic, part=part):
                counts[record.type if record.type in counts else "records"] += 1
                if record.type in {UNREADABLE, LATER}:
                    skipped.append({"topic": topic.name, "partition": part, "at": record.at, **record.payload})
    columns = ("topic", "#offset", "type", "#bytes", "reason")
    rows = [(one["topic"], one["offset"], one.get("type", ""), one["size"], one["reason"]) for one in skipped]
    state.output.table(columns, rows, empty="Every message is a record that this release can read.")
    state.output.data({**counts, "skipped": skipped})
    state.output.hint(f"penstock topics tail control --from {skipped[0]['offset']}" if skipped else "penstock events")


# --- verify


def _verify(state: State, *, without_catalog: bool, **_options: Any) -> int:
    from dataflows.audit.catalog import compared
    from dataflows.audit.halves import judged
    from dataflows.audit.verification import verified

    with connected(state.settings, runs=False) as client:
        copies = _copies(client)
        end = client.log.end(CONTROL, 0)
        with state.output.progress("verified", end) as told:
            judge = partial(verified, end=end, copies=copies)
            found = judged(client.log, end, judge, client.site.log_opener("audit"), told)
        with state.output.progress("folded", end) as told:
            catalog = None if without_catalog else compared(client.site, client.log, told)
    good = found.is_good and not (catalog and catalog.differing)
    state.output.data(_verified(found, catalog, good=good))
    for line in (*_of_seals(found), *_of_decisions(found), *_of_catalog(catalog)):
        state.output.say(line)
    columns = ("agent", "#rules", "#today's", "#offset", "about", "recorded", "today's rules would")
    rows = [
        (one.agent, one.rules, one.today, one.offset, f"{one.cause} {one.subject}", one.recorded, one.decided)
        for one in found.differences
    ]
    if rows:
        state.output.table(columns, rows, empty="")
    state.output.say("[green]The log is as it was written.[/green]" if good else "[red]Something differs.[/red]")
    if found.differences:
        state.output.hint(f"penstock why {found.differences[0].offset}")
    else:
        state.output.hint("penstock audit replay --policy FILE --diff")
    return 0 if good else 1


def _copies(client: Client) -> list[Seal]:
    """Return the copies of seals; before the end of the log is asked for, since each is older than its copy."""
    from penstock.records.seals import seals_in

    path = client.site.settings.seals_file
    if not path.exists():
        return []
    with path.open("rb") as lines:
        return seals_in(lines, client.log.identity())


def _of_seals(found: Verification) -> list[str]:
    left = found.records - found.sealed
    seals = f"{counted(found.seals, 'seal')} up to offset {found.sealed}, {found.copies:,} of them kept elsewhere, too"
    line = f"{counted(found.records, 'record')}, {seals}; {counted(left, 'record')} after the last seal"
    shown = {"altered": "altered", "missing": "missing", "chain": "a seal is missing or false", "copy": "copy"}
    return [line] + [
        f"[red]{shown[one.kind]}[/red]: offsets {one.begin} to {one.upto - 1}: {escape(one.what)}"
        for one in found.problems
    ]


def _of_decisions(found: Verification) -> list[str]:
    counts = ", ".join(f"{name} {count:,}" for name, count in sorted(found.decisions.items()) if count)
    lines = [f"decisions made again: {counts or 'none'}; {found.differing:,} differ"]
    if found.older:
        lines.append(f"decided by other versions of the rules, and otherwise than today's would: {found.older:,}")
    if found.unknown:
        lines.append(f"of agents that this release does not have: {', '.join(sorted(found.unknown))}; not made again")
    return lines


def _of_catalog(catalog: CatalogComparison | None) -> list[str]:
    if catalog is None:
        return []
    if not catalog.differing:
        return [f"catalog: {catalog.tables} tables are what the records before offset {catalog.upto} make of them"]
    return [
        f"[red]catalog[/red]: {name} has {one[0]:,} rows that differ from the {other[0]:,} that the log makes of it"
        for name, (one, other) in catalog.differing.items()
    ]


def _verified(found: Verification, catalog: CatalogComparison | None, *, good: bool) -> dict[str, Any]:
    names = ("records", "seals", "sealed", "copies", "problems", "older", "differing", "differences")
    shown: dict[str, Any] = {name: getattr(found, name) for name in names}
    shown |= {"decisions": dict(found.decisions), "unknown": dict(found.unknown)}
    return {"good": good, **shown, "catalog": catalog}


# --- replay


def _replay(state: State, *, files: tuple[Path, ...], diff: bool, limit: int, **_options: Any) -> None:
    from dataflows.audit.halves import judged
    from dataflows.audit.replay import NO_CASCADE, replayed

    policies = _policies(files)
    with connected(state.settings, runs=False) as client, span("audit replay") as current:
        _check_ties(client, policies)
        end, most = client.log.end(CONTROL, 0), limit if diff else 0
        with state.output.progress("judged", end) as told:
            judge = partial(replayed, end=end, policies=policies, most=most)
            found = judged(client.log, end, judge, client.site.log_opener("audit"), told)
        if exporting():
            link_records(client, current, (flip.offset for flip in found.flips))
    document: dict[str, Any] = {name: getattr(found, name) for name in ("records", "decisions", "flipped", "older")}
    kinds = [
        {"agent": agent, "action": action, "before": before, "after": after, "count": kind.count,
         "pipelines": sorted(kind.pipelines)}
        for (agent, action, before, after), kind in found.kinds.items()
    ]  # fmt: skip
    document |= {"kinds": kinds, "pipelines": dict(found.pipelines), "runs": len(found.rows)}
    document |= {"rows": sum(found.rows.values()), "flips": found.flips, "cascade": False, "note": NO_CASCADE}
    state.output.data(document)
    _show_replay(state, found, diff=diff)
    state.output.say(f"[dim]{NO_CASCADE[:1].upper()}{NO_CASCADE[1:]}.[/dim]")
    shown = f"penstock why {found.flips[0].offset}" if found.flips else "penstock audit replay --policy FILE --diff"
    state.output.hint(shown)


def _show_replay(state: State, found: Replay, *, diff: bool) -> None:
    rows = [
        (agent, action, before, after, kind.count, len(kind.pipelines))
        for (agent, action, before, after), kind in sorted(found.kinds.items(), key=lambda one: -one[1].count)
    ]
    columns: tuple[str, ...] = ("agent", "action", "was", "would be", "#decisions", "#pipelines")
    state.output.table(columns, rows, empty="No decision flips.")
    touched = f"{counted(len(found.pipelines), 'pipeline')} and {counted(len(found.rows), 'run')}"
    state.output.say(
        f"{found.flipped:,} of {found.decisions:,} decisions flip; they touch {touched}, "
        f"which wrote {sum(found.rows.values()):,} rows"
    )
    if found.older:
        text = "decisions of other versions of the rules are not what today's would have decided in any case"
        state.output.say(f"{found.older:,} {text}")
    if diff and found.flips:
        lines = [
            (f.offset, f"{f.at:%Y-%m-%d %H:%M:%S}", f.agent, f.cause, ", ".join(f.pipelines), f.before, f.after,
             "; ".join(f.changes), sum(found.rows.get(run, 0) for run in f.runs))
            for f in found.flips
        ]  # fmt: skip
        columns = ("#offset", "at", "agent", "about", "pipelines", "was", "would be", "in it", "#rows")
        state.output.table(columns, lines, empty="")
    if diff and (left := found.flipped - len(found.flips)):
        state.output.say(f"… and {left:,} more (--limit)")


def _policies(files: tuple[Path, ...]) -> list[AgentPolicy]:
    from penstock.models.documents import read_documents

    if not files:
        raise UsageError("name the policy", where="penstock audit replay", hint="--policy FILE")
    found = read_documents(list(files)).policies
    if not found:
        raise UsageError("contains no policy", where=str(files[0]), hint="kind: AgentPolicy")
    return list(found)


def _check_ties(client: Client, policies: list[AgentPolicy]) -> None:
    from agents.policies import Policies

    others = {one.name: dict(one.policy) for one in client.store.policies()}
    for policy in policies:
        Policies(others).pinning([one for one in policies if one.name != policy.name]).check(policy)


# --- state, export, seal


def _state(state: State, *, at: str | None, **_options: Any) -> None:
    """Show the catalog as it was, from a spare one into which the log is folded up to that time."""
    from api.watch import OPEN
    from catalog.database import engine
    from catalog.overview import overview
    from catalog.store import MetadataStore
    from dataflows.projector import project
    from penstock.postgres import connect

    if at is None:
        raise UsageError("name the time", where="penstock audit state", hint="--at 2026-01-31T12:00:00Z, or 2h")
    with connected(state.settings, runs=False) as client, client.site.spare_catalog() as spare:
        upto = offset_at(client, at, "--at")
        with state.output.progress("folded", upto) as told:
            project(client.log, spare, upto, told)
        with closing(connect(spare, "penstock:state")) as session:
            pipelines = overview(session)
        with MetadataStore(engine(spare)) as store:
            policies, connections, workers = store.policies(), store.connections(), store.workers()
            runs = [one for status in sorted(OPEN) for one in store.runs(status=status, limit=MOST).items]
    joined = [one.worker for one in workers if one.status == "joined"]
    counts = (counted(len(pipelines), "pipeline"), counted(len(runs), "open run"), counted(len(joined), "worker"))
    state.output.say(f"Before offset {upto}: {', '.join(counts)}")
    state.output.table(
        ("pipeline", "status", "#version", "last run"),
        [(one.name, one.status, one.version, (one.last_run or {}).get("status")) for one in pipelines],
        empty="no pipelines",
    )
    state.output.table(("policy", "hash"), [(one.name, one.hash[:12]) for one in policies], empty="no policies")
    state.output.data({
        "upto": upto, "pipelines": pipelines, "runs": runs, "policies": policies, "workers": joined,
        "connections": [one.name for one in connections],
    })  # fmt: skip
    state.output.hint(f"penstock events --since {upto}")


def _export(state: State, *, since: str | None, **_options: Any) -> None:
    """Write each record of the control topic up to its end as a line of JSON, as it is on the log."""
    with connected(state.settings, runs=False) as client:
        at, end = offset_at(client, since, "--since") if since else 0, client.log.end(CONTROL, 0)
        for offset, record in records_from(client, at, follow=False):
            if offset >= end:
                return
            click.echo(orjson.dumps({"offset": offset, **record.to_dict()}).decode())


def _seal(state: State, **_options: Any) -> None:
    from dataflows.process.sealing import seal_to_end
    from penstock.records.seals import SEAL_LOCK

    with connected(state.settings, runs=False) as client, client.site.open_log("seals") as log:
        if not log.lock(SEAL_LOCK, wait=False):
            raise Refused("another process seals this log", where="penstock audit seal", hint="it does so each minute")
        last = seal_to_end(log, client.site.settings.seals_file)
    state.output.data({"upto": last and last.upto, "digest": last and last.digest})
    state.output.say(f"sealed up to offset {last.upto}: {last.digest}" if last else "the log is empty")
    state.output.hint("penstock audit verify")


ACTIONS: Final[dict[str, Callable[..., int | None]]] = {
    "messages": _messages,
    "verify": _verify,
    "replay": _replay,
    "state": _state,
    "export": _export,
    "seal": _seal,
}
