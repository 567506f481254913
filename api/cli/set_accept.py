"""`penstock approve`: let new objects, which a set proposes, become its members."""

from __future__ import annotations

from shlex import quote

import click

from api.cli.choice import object_matches
from api.cli.completion import pipeline_names
from api.cli.console import escape
from api.cli.main import State, command
from api.cli.set_runs import listing_line, wait_for_next_listing
from api.client import connected
from penstock.errors import NotFound
from penstock.models.sets import member_name
from penstock.records.commands import SetAccept

__all__ = ["approve_"]


@command(name="approve")
@click.argument("name", metavar="SET", shell_complete=pipeline_names)
@click.option(
    "--table", "tables", multiple=True, metavar="PATTERN", help="Only objects that match; may be given again."
)
def approve_(state: State, name: str, tables: tuple[str, ...]) -> None:
    """Let the new objects that SET proposes (`appear: propose`) become members.

    They run with the next start of the set.
    """
    with connected(state.settings, worker=True) as client:
        before = client.store.set_entry(name)
        chosen = [one for one in before.proposed if not tables or object_matches(member_name(name, one), tables)]
        if not chosen:
            hint = f"`penstock status {quote(name)}` shows what it proposes"
            raise NotFound("proposes no such object", where=f"pipeline {name}", hint=hint)
        client.ask("set.accept", name, SetAccept(name=name, objects=tuple(chosen)).to_dict())
        found = wait_for_next_listing(client, name, before)
    state.output.say(f"{len(chosen)} accepted: {escape(', '.join(chosen))}")
    state.output.say(listing_line(name, found))
    state.output.data({"name": name, "accepted": chosen})
    state.output.hint(f"penstock run {name} --watch")
