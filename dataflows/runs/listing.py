"""A task of kind `list`: the objects of a set's source that its patterns select, and the order of their first loads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dataflows.connectors.contract import Place
from dataflows.connectors.listing import Listed, ListedObject, in_order
from dataflows.connectors.registry import connector
from dataflows.runs.references import references
from penstock.errors import InvalidDocument, Refused
from penstock.models.connection import parse_connection
from penstock.models.pipeline import Pipeline
from penstock.models.sets import FoundObject, Members, selects

__all__ = ["found_objects", "listed_objects", "rule_of"]


def found_objects(task: Mapping[str, Any], check: Callable[[], None]) -> dict[str, Any]:
    """Return the selected objects of a task, and the references between their targets, as its records have them.

    Raises:
        Refused: systems of this type cannot be listed, or a name has characters that no pipeline can have.
        Unavailable: the source or the sink does not answer.
    """
    secrets = Path(task["secrets"]) if task.get("secrets") else None
    document, connections = task["pipeline"], task["connections"]
    found = [one.to_dict() for one in listed_objects(document, connections, secrets, check)]
    objects = [_checked(one) for one in found]
    after = references(rule_of(document, connections), connections, secrets, objects, check)
    return {"objects": found, "after": after}


def rule_of(document: Mapping[str, Any], connections: Mapping[str, Any]) -> Members:
    """Return the rule that makes the members of a set."""
    types = (connections[document["spec"][end]["connection"]]["type"] for end in ("sink", "source"))
    return Members(document, *types)


def _checked(found: dict[str, Any]) -> FoundObject:
    """Return an object; one that is not valid would make its whole page unreadable."""
    try:
        return FoundObject.parse(found)
    except InvalidDocument as error:
        what = f"no pipeline can have this name: {error.issues[0].message}"
        hint = "rename it, or leave it out by a pattern in `source.except`, with `?` for such a character"
        raise Refused(what, where=repr(found["object"]), hint=hint) from error


def listed_objects(
    document: Mapping[str, Any], connections: Mapping[str, Any], secrets: Path | None, check: Callable[[], None]
) -> list[ListedObject]:
    """Return the objects that a set selects. Raises as `found_objects`."""
    spec, name = document["spec"], document["metadata"]["name"]
    connection = spec["source"]["connection"]
    settings = parse_connection(connection, connections[connection])
    form = Pipeline.parse(document).spec.source.format
    place = Place(name, connection, settings, spec["source"]["object"], secrets, form)
    kind: object = connector(settings.type, place.where)
    if not isinstance(kind, Listed):
        what = f"a connection of type {settings.type} cannot list its objects"
        raise Refused(what, where=f"{name}: spec.source.objects", hint="write a pipeline for each `object`")
    exact = {*spec["source"]["objects"]}
    every = kind.objects_of(place, spec["source"]["objects"], check)
    named = (one for one in every if one.nameable and (not one.hidden or one.name in exact))
    return in_order(one for one in named if selects(spec, one.name))
