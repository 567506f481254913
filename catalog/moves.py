"""Objects that were moved: one that is gone and one that is new are the same, as far as names and columns tell."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import psycopg

from penstock.models.domain import Field

__all__ = ["Candidate", "likeliest", "seen_before"]

_OF_COLUMNS: Final = 0.7
_RIVAL: Final = 0.15
"""Taken off the confidence where another object is as like."""
_CLOSE: Final = 0.05


@dataclass(frozen=True, slots=True)
class Candidate:
    """An object that is new, and its columns."""

    name: str
    fields: Sequence[Field]


def likeliest(old: str, before: Sequence[Field], candidates: Iterable[Candidate]) -> tuple[str, float] | None:
    """Return the candidate that is most like the object that is gone, and the confidence; None if there is none.

    The columns count for more than the name; a table of the same name in another schema has the same name.
    """
    scores = sorted(((_likeness(old, before, one), one.name) for one in candidates), reverse=True)
    if not scores:
        return None
    score, name = scores[0]
    rivals = [one for one, _ in scores[1:] if score - one <= _CLOSE]
    return name, round(max(0.0, score - _RIVAL * bool(rivals)), 2)


def _likeness(old: str, before: Sequence[Field], candidate: Candidate) -> float:
    from rapidfuzz import fuzz  # noqa: PLC0415 - only where an object is gone

    was, now = ({(one.name, one.type) for one in fields} for fields in (before, candidate.fields))
    columns = len(was & now) / max(1, len(was | now))
    mine, other = (name.rpartition(".")[2].lower() for name in (old, candidate.name))
    names = max(fuzz.ratio(mine, other), fuzz.ratio(old.lower(), candidate.name.lower())) / 100
    return min(0.99, _OF_COLUMNS * columns + (1 - _OF_COLUMNS) * names)


_SEEN: Final = """
SELECT d.object FROM catalog.datasets d WHERE d.connection = %(connection)s AND (
  EXISTS (SELECT FROM catalog.pipelines p WHERE p.source = d.id AND p.status <> 'deleted')
  OR d.version IS NOT NULL AND d.gone_at IS NULL AND d.first_at < (
    SELECT max(finished_at) FROM catalog.runs WHERE uid = %(uid)s AND status = 'completed'))"""


def seen_before(session: psycopg.Connection[Any], uid: str, connection: str) -> set[str]:
    """Return objects of a connection that pipelines read, or that were there while the pipeline `uid` still ran."""
    return {row[0] for row in session.execute(_SEEN, {"uid": uid, "connection": connection})}
