"""Changes of pipelines that somebody has to approve before they are carried out."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field as Constraint

from penstock.models.base import Model

__all__ = ["Proposal", "Rule"]

Rule = Literal["additive", "types", "lost", "renames", "tables", "casts", "defaults"]
"""Kinds of changes of a schema."""


class Proposal(Model):
    """A change that is carried out once somebody approves it.

    `subject` is a column, for `tables` the source's object, for `settings` a path below `spec`; `to` is its new type or
    name, `value` that of the setting. `casts` gives a column the type that the target has: of `rows` rows of a sample,
    `failed` would be refused. `defaults` puts the expression `to` in the place of a column that is gone.
    """

    rule: Rule | Literal["settings"]
    subject: Annotated[str, Constraint(min_length=1, max_length=512)]
    to: Annotated[str, Constraint(min_length=1, max_length=512)] | None = None
    value: int | float | str | None = None
    confidence: Annotated[float, Constraint(ge=0, le=1)] = 1.0
    rows: Annotated[int, Constraint(ge=0)] | None = None
    failed: Annotated[int, Constraint(ge=0)] | None = None

    @property
    def key(self) -> str:
        """The text by which `schema.approved` names it: another type or name is another change."""
        return " ".join(str(one) for one in (self.rule, self.subject, self.to, self.value) if one is not None)

    def __str__(self) -> str:
        refused = f"{self.failed or 0:,} of {self.rows or 0:,} rows would be refused"
        plans = {
            "additive": f"add `{self.subject}` {self.to} to the target",
            "types": f"let `{self.subject}` be {self.to} in the target",
            "lost": f"go on without `{self.subject}`: new rows have no value there",
            "renames": f"read `{self.to}` in place of `{self.subject}`",
            "tables": f"read {self.to} in place of {self.subject}, from its position on",
            "casts": f"cast `{self.subject}` to {self.to}: {refused}",
            "defaults": f"put {self.to} in place of `{self.subject}`",
            "settings": f"set `{self.subject}` to {self.value}",
        }
        sure = f", {self.confidence:.0%} sure" if self.confidence < 1 and self.rule != "casts" else ""
        return f"{plans[self.rule]}{sure}"
