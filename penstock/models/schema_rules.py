"""What a pipeline does about changes of schemas, by the kind of change."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from penstock.models.base import Model

__all__ = ["SchemaAction", "SchemaRules", "as_tuple"]

SchemaAction = Literal["apply", "propose", "ignore", "pause"]
"""Reaction to a change: carry it out, refuse the run and say what to do, go on without it, or pause the pipeline."""


def as_tuple(value: Any) -> Any:
    """Return an array as a tuple.

    After a before-validator, pydantic validates as Python, which takes no list for a tuple.
    """
    return tuple(value) if isinstance(value, list) else value


class SchemaRules(Model):
    """Reactions to a changed schema, by the kind of change.

    New columns (`additive`); types that the target's column cannot store (`types`); columns that are gone (`lost`) or
    have another name (`renames`); a source that is gone, or was moved (`tables`). `breaking` is how earlier releases
    wrote `types` and `lost` together. `approved` names single changes that are carried out whatever their rule says;
    `penstock approve` writes it.
    """

    compatibility: Literal["backward", "forward", "full", "none"] = "backward"
    additive: SchemaAction = "propose"
    types: SchemaAction = "propose"
    lost: SchemaAction = "pause"
    renames: SchemaAction = "propose"
    tables: SchemaAction = "propose"
    approved: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=1100)], ...], BeforeValidator(as_tuple)
    ] = ()
    breaking: Literal["pause", "propose"] | None = None

    @model_validator(mode="before")
    @classmethod
    def _as_two(cls, data: Any) -> Any:
        """Read `breaking` as `types` and `lost`."""
        if not isinstance(data, dict) or data.get("breaking") not in ("pause", "propose"):
            return data
        if {"types", "lost"} & data.keys():
            message = "`breaking` is `types` and `lost` together: leave it out"
            raise ValueError(message)
        both = data["breaking"]
        return {name: value for name, value in data.items() if name != "breaking"} | {"types": both, "lost": both}
