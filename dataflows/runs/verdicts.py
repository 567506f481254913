"""Verdict on a type that does not fit: what a sample shows, and what would help, once it is approved."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

from dataflows.data.tables import Table
from dataflows.data.types import column_type, parse_type
from dataflows.runs.evolving import propose
from dataflows.runs.job import Job
from dataflows.runs.proofs import Proof
from penstock.errors import SchemaBroken, SchemaMismatch
from penstock.models.proposals import Proposal

__all__ = ["judge"]

_WHOLE: Final = frozenset({"smallint", "integer", "bigint", "boolean", "uuid"})
"""Types to which a text is cast exactly, or not at all; others would be cut or rounded in silence."""


def judge(
    job: Job, error: SchemaMismatch, found: list[dict[str, Any]], table: Table, tried: Callable[[], Proof | None]
) -> None:
    """Add to an error what casting the values of `table`, the source, would do to a sample, and the proposals `found`.

    A cast is proposed where the target's column cannot grow, unless it would change values.
    """
    kinds = {SchemaMismatch, SchemaBroken}
    proof = tried() if not job.streams and type(error) in kinds else None
    if proof is not None:
        error.what = f"{error.what}; {proof}"
        if all(one["rule"] == "additive" for one in found) and _is_castable(job, proof, table):
            sure = 1.0 if not proof.failing else math.floor(100 * (1 - proof.failing / proof.rows)) / 100
            cast = Proposal(
                rule="casts",
                subject=proof.column,
                to=proof.kind,
                confidence=sure,
                rows=proof.rows,
                failed=proof.failing,
            )
            found = [*found, cast.to_dict()]
    propose(job, error, found)


def _is_castable(job: Job, proof: Proof, table: Table) -> bool:
    column, kind = table.column(proof.origin), parse_type(proof.kind)
    if column is None or proof.failing == proof.rows or job.spec.schema_.types == "ignore":
        return False
    return proof.kind == "text" or (column_type(column).text and kind.name in _WHOLE)
