"""Rules that people have set for datasets, as runs keep to them: may a dataset look like this now?

Versions that were there when the rule was set are accepted, and later ones that it allows. One that breaks it is never
what the next one is compared with, however often it was seen.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

from catalog.compatibility import Conflict, conflict
from catalog.dataset_folds import dataset_id
from catalog.evolution import detailed
from penstock.models.domain import Compatibility, DatasetRef, Schema

__all__ = ["Ruled", "accepted", "ruled"]


@dataclass(frozen=True, slots=True)
class Ruled:
    """The rule of a dataset, its versions with their numbers, oldest first, and those among them that it accepts."""

    rule: Compatibility
    versions: Sequence[tuple[int, Schema]]
    accepted: Sequence[tuple[int, Schema]]

    def conflict(self, seen: Schema) -> Conflict | None:
        """Return why the rule does not allow the schema that a run has seen; None if it does."""
        if not self.accepted:
            return None
        return conflict(self.rule, self.accepted, detailed(seen, self.versions[-1][1]))


def accepted(
    rule: Compatibility, before: Iterable[tuple[int, Schema]], since: Iterable[tuple[int, Schema]]
) -> tuple[tuple[int, Schema], ...]:
    """Return the versions of `before` the rule was set, and those `since` that it allows."""
    found = list(before)
    for number, schema in since:
        if not found or conflict(rule, found, schema) is None:
            found.append((number, schema))
    return tuple(found)


_RULES = """
SELECT id, connection, object, compatibility FROM catalog.datasets WHERE id = ANY (%s) AND compatibility <> 'none'"""
_SET = """
SELECT coalesce(max(answer), 0) FROM catalog.commands WHERE type = 'dataset.configure' AND key = %s
AND status = 'applied' AND result @> '{"changed": true}'"""
_VERSIONS = 'SELECT version, schema, "offset" FROM catalog.schema_versions WHERE dataset = %s ORDER BY version'


def ruled(session: psycopg.Connection[Any], refs: Collection[DatasetRef]) -> dict[DatasetRef, Ruled]:
    """Return those of `refs` that have a rule. One query, if none has."""
    ids = [dataset_id(ref.connection, ref.object) for ref in refs]
    return {
        DatasetRef(connection=connection, object=object_): _ruled(session, id_, f"{connection}:{object_}", rule)
        for id_, connection, object_, rule in session.execute(_RULES, (ids,)).fetchall()
    }


def _ruled(session: psycopg.Connection[Any], id_: str, name: str, rule: Compatibility) -> Ruled:
    row = session.execute(_SET, (name,)).fetchone()
    begin = row[0] if row else 0
    rows = session.execute(_VERSIONS, (id_,)).fetchall()
    found = [(number, Schema.parse(schema), offset) for number, schema, offset in rows]
    before = [(number, schema) for number, schema, offset in found if offset < begin]
    since = [(number, schema) for number, schema, offset in found if offset >= begin]
    return Ruled(rule, [(number, schema) for number, schema, _ in found], accepted(rule, before, since))
