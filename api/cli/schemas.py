"""`penstock catalog history`, `diff` and `compatibility`: a dataset's schemas, and the rule for the next one."""

from __future__ import annotations

from collections.abc import Iterator
from shlex import quote
from typing import TYPE_CHECKING, Any, Final, get_args

from api.cli.console import ago, escape
from api.cli.main import State
from api.client import Client, connected
from catalog.compatibility import Judged, conflict, judged, overall
from catalog.evolution import Change, compare, path_text
from catalog.impact import Uses, touched, uses
from catalog.pages import MAX_LIMIT
from penstock.errors import InvalidDocument, NotFound, UsageError, did_you_mean
from penstock.models import DatasetRef, Pipeline
from penstock.models.domain import Compatibility, Field
from penstock.records.commands import DatasetConfigure

if TYPE_CHECKING:
    from catalog.entries import Dataset, SchemaVersion

__all__ = ["compatibility", "dataset", "diff", "history", "one_word"]

RULES: Final = get_args(Compatibility)


def history(state: State, words: tuple[str, ...]) -> None:
    """Show every schema of a dataset: when, by whom, and what changed."""
    with connected(state.settings, runs=False) as client:
        found = dataset(client, one_word(words, "history"))
        versions = client.store.schema_history(found.id)
    shown = [_version(found, versions[: at + 1]) for at in range(len(versions))]
    rows = [
        (one["version"], ago(version.at), one["actor"], one["compatibility"], _summary(one["changes"], one["columns"]))
        for one, version in zip(shown, versions, strict=True)
    ]
    state.output.table(("#version", "when", "by", "keeps", "changes"), rows, empty="No schema was observed yet.")
    for one in shown:
        if one["conflict"] is not None:
            state.output.say(escape(f"version {one['version']}: {one['conflict']['text']}"))
    state.output.data(shown)
    named = f"{found.connection}:{found.object}"
    state.output.hint(
        f"penstock catalog diff {quote(named)}" if len(versions) > 1 else f"penstock catalog show {quote(named)}"
    )


def diff(state: State, words: tuple[str, ...]) -> None:
    """Show the changes between two schemas of a dataset, and the pipelines that they touch."""
    name, numbers = one_word(words[:1], "diff"), [_number(word) for word in words[1:]]
    if len(numbers) > 2:  # noqa: PLR2004 - two ends
        raise UsageError("`catalog diff` takes at most two versions", where="penstock catalog diff")
    with connected(state.settings, runs=False) as client:
        found = dataset(client, name)
        old, new = _ends(found, client.store.schema_history(found.id), numbers)
        pipelines = list(_uses(client))
    ref = DatasetRef(connection=found.connection, object=found.object)
    changes = [judged(one) for one in compare(old.schema, new.schema)]
    users = [touched(ref, one.change, pipelines) for one in changes]
    rows = [
        (path_text(one.change.path), one.change.kind, _change(one.change), one.level, ", ".join(u.pipeline for u in by))
        for one, by in zip(changes, users, strict=True)
    ]
    level = overall(one.level for one in changes)
    state.output.say(f"{escape(str(ref))}: version {old.version} -> {new.version}: {_kept(level, len(changes))}")
    state.output.table(("column", "change", "", "keeps", "pipelines touched"), rows, empty="They are the same.")
    for one in changes:
        if one.level == "breaking":
            state.output.say(escape(f"{path_text(one.change.path) or 'the table'}: {one.reason}"))
    document = [{**one.to_dict(), "pipelines": by} for one, by in zip(changes, users, strict=True)]
    ends = {"from": old.version, "to": new.version}
    state.output.data({"dataset": str(ref), **ends, "compatibility": level, "changes": document})
    state.output.hint(f"penstock catalog history {quote(str(ref))}")


def compatibility(state: State, words: tuple[str, ...]) -> None:
    """Show the rule for the next schema of a dataset, or set it."""
    name, rule = one_word(words[:1], "compatibility"), words[1] if len(words) > 1 else None
    if rule is not None and (rule not in RULES or len(words) > 2):  # noqa: PLR2004 - a dataset and its rule
        hint = did_you_mean(rule, RULES) or f"one of {', '.join(RULES)}"
        raise UsageError(f"there is no rule {rule!r}", where="penstock catalog compatibility", hint=hint)
    with connected(state.settings, runs=False) as client:
        found = dataset(client, name)
        ref = DatasetRef(connection=found.connection, object=found.object)
        now = found.compatibility or "none"
        if rule is not None:
            command = DatasetConfigure.parse({"dataset": ref.to_dict(), "compatibility": rule})
            client.ask("dataset.configure", str(ref), command.to_dict())
            now = command.compatibility
    state.output.say(f"{escape(str(ref))}: {now}")
    state.output.data({"dataset": str(ref), "compatibility": now})
    state.output.hint(f"penstock catalog history {quote(str(ref))}")


def one_word(words: tuple[str, ...], action: str) -> str:
    """Return the only one of `words`, which names a dataset. Raises UsageError."""
    if len(words) != 1:
        hint = "write CONNECTION:OBJECT"
        raise UsageError(f"`catalog {action}` takes a dataset", where="penstock catalog", hint=hint)
    return words[0]


def _number(word: str) -> int:
    if not word.isdigit():
        hint = "write its number: penstock catalog history DATASET"
        raise UsageError("is not a version", where="penstock catalog diff", value=word, hint=hint)
    return int(word)


def dataset(client: Client, named: str) -> Dataset:
    """Return a dataset by CONNECTION:OBJECT, or by its id. Raises NotFound."""
    connection, colon, object_ = named.partition(":")
    if not colon:
        return client.store.dataset(named)
    ref = DatasetRef.parse({"connection": connection, "object": object_})
    try:
        return client.store.dataset_of(ref)
    except NotFound as error:
        raise _unknown(client, connection, named) from error


def _unknown(client: Client, connection: str, named: str) -> NotFound:
    """Return the error of a name that no dataset has: of its connection, or with the name most similar."""
    connections = [one.name for one in client.store.connections()]
    if connection not in connections:
        hint = did_you_mean(connection, connections) or f"there are {', '.join(connections) or 'none'}"
        return NotFound(f"there is no connection {connection!r}", where=named, hint=hint)
    near = client.store.datasets(connection=connection, limit=MAX_LIMIT).items
    similar = did_you_mean(named, [f"{one.connection}:{one.object}" for one in near])
    hint = similar or "search for it: penstock catalog search WORDS"
    return NotFound("there is no such dataset", value=named, hint=hint)


def _ends(
    found: Dataset, versions: tuple[SchemaVersion, ...], numbers: list[int]
) -> tuple[SchemaVersion, SchemaVersion]:
    """Return the two versions to compare: those named, else the last one and the one before it."""
    where = f"dataset {found.connection}:{found.object}"
    known = {one.version: one for one in versions}
    wanted = [*numbers, *(number for number in [len(versions)] if len(numbers) == 1)] or [
        len(versions) - 1,
        len(versions),
    ]
    if len(versions) < 2 and not numbers:  # noqa: PLR2004 - two ends
        raise NotFound("has no two schemas yet", where=where, hint="it has not changed since it was first seen")
    if missing := [number for number in wanted if number not in known]:
        hint = f"there are 1 to {len(versions)}" if versions else "none was observed yet"
        raise NotFound("has no such version", where=where, value=missing[0], hint=hint)
    return known[wanted[0]], known[wanted[1]]


def _uses(client: Client) -> Iterator[Uses]:
    """Yield what each pipeline reads and writes; of an older release's pipeline nothing is known."""
    after = None
    while True:
        page = client.store.pipelines(limit=200, after=after)
        for one in page.items:
            try:
                yield uses(Pipeline.parse(dict(one.pipeline)))
            except InvalidDocument:
                continue
        if (after := page.after) is None:
            return


def _version(found: Dataset, versions: tuple[SchemaVersion, ...]) -> dict[str, Any]:
    """Return the last of `versions`, what changed in it, and whether the dataset's rule allows that."""
    last, before = versions[-1], [(one.version, one.schema) for one in versions[:-1]]
    changes = [judged(one) for one in compare(before[-1][1], last.schema)] if before else list[Judged]()
    verdict = conflict(found.compatibility or "none", before, last.schema)
    against = verdict and {"path": verdict.path, "reason": verdict.reason, "version": verdict.version}
    return {
        "version": last.version,
        "at": last.at,
        "actor": last.actor,
        "cause": last.cause,
        "offset": last.offset,
        "fingerprint": last.fingerprint,
        "columns": len(last.schema.fields),
        "compatibility": overall(one.level for one in changes) if before else None,
        "changes": [one.to_dict() for one in changes],
        "conflict": against and {**against, "text": str(verdict)},
    }


_SHOWN: Final = 4
_VERBS: Final = {"added": "+", "removed": "-", "renamed": "renamed ", "reordered": "order of columns", "key": "key"}


def _summary(changes: list[dict[str, Any]], columns: int) -> str:
    if not changes:
        return f"{columns} columns"
    words = [f"{_VERBS.get(one['kind'], one['kind'] + ' of ')}{one['path']}" for one in changes]
    more = f" and {len(words) - _SHOWN} more" if len(words) > _SHOWN else ""
    return ", ".join(words[:_SHOWN]) + more


def _kept(level: str, count: int) -> str:
    return f"{count} change{'s' if count != 1 else ''}, {'breaking' if level == 'breaking' else f'{level} compatible'}"


def _change(change: Change) -> str:
    if change.kind == "renamed":
        return f"{change.before} -> {change.after} ({change.confidence:.0%} sure)"
    before, after = _value(change.before), _value(change.after)
    return after if change.before is None else before if change.after is None else f"{before} -> {after}"


def _value(value: Any) -> str:
    if isinstance(value, Field):
        return f"{value.type}{'' if value.nullable else ' not null'}"
    if isinstance(value, bool):
        return "null" if value else "not null"
    return f"({', '.join(map(str, value))})" if isinstance(value, tuple) else str(value)
