"""Which members of a set refer to which at the sink, by foreign keys that it enforces."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from dataflows.connectors.contract import Place
from dataflows.connectors.listing import Enforcing
from dataflows.connectors.registry import connector
from penstock.errors import Refused
from penstock.models.connection import parse_connection
from penstock.models.sets import FoundObject, Members

__all__ = ["references"]


def references(
    rule: Members,
    connections: Mapping[str, Any],
    secrets: Path | None,
    objects: Iterable[FoundObject],
    check: Callable[[], None],
) -> dict[str, list[str]] | None:
    """Return the objects to whose targets that of an object refers, also to its own; None if it is not known now.

    Raises:
        Unavailable: the sink does not answer.
    """
    end = rule.document["spec"]["sink"]
    settings = parse_connection(end["connection"], connections[end["connection"]])
    place = Place(rule.name, end["connection"], settings, end["object"], secrets)
    kind = connector(settings.type, place.where)
    enforcing: object = kind
    if not isinstance(enforcing, Enforcing):
        return {}
    targets = ((one.object, rule.load_target(one)) for one in objects)
    named: dict[str, str] = {}
    for object_, target in targets:
        with suppress(Refused):  # the member's own run says so
            named |= {kind.named(replace(place, object=target)): object_} if target else {}
    pairs = enforcing.references_of(place, named, check) if named else []
    if pairs is None:
        return None
    members = {rule.same(target): one for target, one in named.items()}
    found: dict[str, list[str]] = {}
    for table, other in sorted(pairs):
        one, of = members.get(rule.same(table)), members.get(rule.same(other))
        if one is not None and of is not None and of not in found.setdefault(one, []):
            found[one].append(of)
    return {one: before for one, before in found.items() if before}
