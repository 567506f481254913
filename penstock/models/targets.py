"""Targets that several pipelines write: which names mean one table, and which pipelines cannot share one. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from penstock.models.sets import CASELESS
from penstock.models.triggers import dataset_of

__all__ = ["replaced_by", "target_of"]

SCHEMAS: Final = {"postgres": "public", "duckdb": "main"}
"""The schema of a name that has none."""

Spec = Mapping[str, Any]
Connections = Mapping[str, Mapping[str, Any]]


def target_of(spec: Spec, connections: Connections) -> str:
    """Return the text that all names of the table share that a pipeline of this specification writes."""
    name, object_ = spec["sink"]["connection"], str(spec["sink"]["object"])
    connection = connections.get(name, {})
    kind = connection.get("type", "")
    schema = SCHEMAS.get(kind) or connection.get("database")
    if schema and "." not in object_:
        object_ = f"{schema}.{object_}"
    return dataset_of(name, object_.casefold() if kind in CASELESS else object_)


def replaced_by(name: str, spec: Spec, other: str, others: Spec) -> str | None:
    """Return why two pipelines cannot write the same table; None if they can: neither replaces its rows."""
    by = [one for one, its in ((name, spec), (other, others)) if its["sink"].get("write") == "replace"]
    if not by:
        return None
    target = spec["sink"]["object"]
    return f"{other} writes to {target!r} already, and each `write: replace` of {by[0]} would drop the other's rows"
