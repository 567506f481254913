"""New objects, which a set proposes, become its members: a part of `penstock approve`."""

from __future__ import annotations

from collections.abc import Sequence
from shlex import quote

from api.cli.choice import object_matches
from api.cli.console import escape
from api.cli.main import State
from api.cli.set_runs import listing_line, wait_for_next_listing
from api.client import Client
from penstock.errors import NotFound
from penstock.models.sets import member_name
from penstock.records.commands import SetAccept

__all__ = ["accepted"]


def accepted(state: State, client: Client, name: str, tables: Sequence[str]) -> list[str]:
    """Let the new objects that a set proposes (`appear: propose`) become members; return them.

    Raises:
        NotFound: none of them matches.
    """
    before = client.store.set_entry(name)
    chosen = [one for one in before.proposed if not tables or object_matches(member_name(name, one), tables)]
    if not chosen:
        hint = f"`penstock status {quote(name)}` shows what it proposes"
        raise NotFound("proposes no such object", where=f"pipeline {name}", hint=hint)
    client.ask("set.accept", name, SetAccept(name=name, objects=tuple(chosen)).to_dict())
    found = wait_for_next_listing(client, name, before)
    state.output.say(f"{len(chosen)} accepted: {escape(', '.join(chosen))}")
    state.output.say(listing_line(name, found))
    return chosen
