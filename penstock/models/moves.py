"""Pipelines whose source's object has another name than before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["moved", "name_is_taken", "object_of", "readers"]


def object_of(pipeline: Mapping[str, Any]) -> str:
    """Return the name of the object that a pipeline reads."""
    return str(pipeline["spec"]["source"]["object"])


def readers(members: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return the member of a set that reads each object, of all pipelines by name; of two, the one of that name."""
    own = {object_of(one): name for name, one in members.items() if name.partition("/")[2] == object_of(one)}
    return {object_of(one): name for name, one in members.items()} | own


def name_is_taken(member: str, reads: str) -> str:
    """Return why a new object cannot become a member: the one of its name goes on with a table that was renamed."""
    way = "`schema: {tables: ignore}` for it in `tables` lets names count"
    return f"{member} reads {reads}, which had this name before; {way}"


def moved(pipeline: Mapping[str, Any], to: str) -> dict[str, Any]:
    """Return a pipeline that reads its object under its new name, and keeps its position under the first one."""
    source = pipeline["spec"]["source"]
    known = source.get("known_as", source["object"])
    after = {key: value for key, value in source.items() if key != "known_as"} | {"object": to}
    after |= {} if known == to else {"known_as": known}
    return {**pipeline, "spec": {**pipeline["spec"], "source": after}}
