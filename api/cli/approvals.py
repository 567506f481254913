"""`penstock approvals`, `approve` and `deny`: changes that are proposed for pipelines, and new objects of sets."""

from __future__ import annotations

from collections.abc import Sequence
from shlex import quote
from typing import TYPE_CHECKING, Final

import click

from api.cli.completion import pipeline_names, tables_option
from api.cli.console import ago, escape
from api.cli.main import State, command
from api.cli.set_accept import accepted
from api.client import Client, connected
from penstock.errors import NotFound
from penstock.models.sets import matches
from penstock.records.commands import ChangeAnswer

if TYPE_CHECKING:
    from catalog.entries import ProposalEntry

__all__ = ["approvals_", "approve_", "deny_"]

SHORT: Final = 8
"""Characters of an id that are shown; four of them are enough to name it."""
LEAST: Final = 4

_words = click.argument("words", metavar="NAME|ID...", nargs=-1, required=True, shell_complete=pipeline_names)


@command(name="approvals")
@click.option("--all", "every", is_flag=True, help="Those that were answered, too.")
def approvals_(state: State, *, every: bool) -> None:
    """List changes that are proposed for pipelines and wait for an answer, with what they change in their files.

    A run proposes a change of a schema if the pipeline's `schema` says `propose` or `pause`; agents propose what the
    policy does not let them do. A change is void once the pipeline, its policy or its source is another one, and
    expires (after seven days, unless the policy says otherwise).
    """
    with connected(state.settings, runs=False) as client:
        found = client.store.proposals(every=every)
    rows = [
        (one.id[:SHORT], one.pipeline, one.text, one.status, ago(one.proposed_at), _expires(one), one.by or "",
         one.reason or "")
        for one in found
    ]  # fmt: skip
    empty = "Nothing waits for an answer."
    columns = ("id", "pipeline", "change", "status", "proposed", "expires", "answered by", "because")
    state.output.table(columns, rows, empty=empty)
    state.output.data(found)
    waiting = [one for one in found if one.status == "open"]
    for one in waiting:
        for line in one.diff:
            state.output.say(f"{one.id[:SHORT]} {escape(line)}")
    if waiting:
        first = waiting[0].pipeline
        state.output.hint(f"penstock approve {quote(first)}, or penstock deny {quote(first)}")


def _expires(one: ProposalEntry) -> str:
    return (one.plan or {}).get("expires", "")[:16].replace("T", " ") if one.status == "open" else ""


@command(name="approve")
@_words
@tables_option("Of a set: only objects that match; may be given again.")
def approve_(state: State, words: tuple[str, ...], tables: tuple[str, ...]) -> None:
    """Approve what is proposed for pipelines: changes of schemas and settings, and new objects of sets.

    NAME is a pipeline, a pattern such as `shop/public.*`, or a set; ID that of one change (`penstock approvals`). The
    pipeline gets a version that carries the changes out, is active again if it was paused, and runs at once. Of a set,
    new objects (`appear: propose`) become members, which run with its next start.
    """
    with connected(state.settings, worker=True) as client:
        chosen, left = _chosen(client, words, answered="approved")
        objects = [one for word in left for one in accepted(state, client, word, tables)]
        _answer(state, client, chosen, approve=True)
    data = [one.id for one in chosen]
    state.output.data({"approved": data, "accepted": objects} if objects else {"approved": data})
    state.output.hint(
        f"penstock run {quote(left[0])} --watch" if left else f"penstock status {quote(chosen[0].pipeline)}"
    )


@command(name="deny")
@_words
def deny_(state: State, words: tuple[str, ...]) -> None:
    """Deny changes that are proposed for pipelines; they are not proposed again.

    NAME is a pipeline or a pattern of names, ID that of one change (`penstock approvals`). `penstock approve ID`
    approves one after all.
    """
    with connected(state.settings, worker=True) as client:
        chosen, left = _chosen(client, words, answered="denied")
        if left:
            raise _none(left[0])
        _answer(state, client, chosen, approve=False)
    state.output.data({"denied": [one.id for one in chosen]})
    state.output.hint("penstock approvals --all")


def _chosen(client: Client, words: Sequence[str], *, answered: str) -> tuple[list[ProposalEntry], list[str]]:
    """Return the changes that words name: those open, by name; those that are not `answered` so, by id; and the sets.

    Raises:
        NotFound: a word names none.
    """
    found, sets = client.store.proposals(every=True), {one.name for one in client.overview() if one.is_set}
    chosen: dict[str, ProposalEntry] = {}
    for word in words:
        named = [one for one in found if one.status == "open" and matches(word, one.pipeline)]
        by_id = [one for one in found if len(word) >= LEAST and one.id.startswith(word) and one.status != answered]
        chosen |= {one.id: one for one in (*named, *by_id)}
        if not named and not by_id and word not in sets:
            raise _none(word)
    return list(chosen.values()), [word for word in words if word in sets]


def _none(word: str) -> NotFound:
    return NotFound("proposes nothing that waits for an answer", value=word, hint="penstock approvals lists what does")


def _answer(state: State, client: Client, chosen: Sequence[ProposalEntry], *, approve: bool) -> None:
    """Answer changes, those of a pipeline at once."""
    by_name: dict[str, list[ProposalEntry]] = {}
    for one in chosen:
        by_name.setdefault(one.pipeline, []).append(one)
    for name, changes in by_name.items():
        plans = {one.id: one.plan["hash"] for one in changes if one.plan} if approve else None
        order = ChangeAnswer(name=name, ids=tuple(one.id for one in changes), approve=approve, plans=plans)
        client.ask("change.answer", name, order.to_dict())
        word = "approved" if approve else "denied"
        for one in changes:
            state.output.say(f"{escape(name)}: {word}: {escape(one.text)}")
