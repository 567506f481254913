"""Dead letters as commands name them: which ones, how they are fixed, and what became of them."""

from __future__ import annotations

from typing import Annotated, Literal, Self
from uuid import NAMESPACE_OID, uuid5

from pydantic import AwareDatetime, Field, model_validator

from penstock.models.base import Model, Sql
from penstock.models.columns import ColumnName

__all__ = ["MAX_IDS", "LetterChoice", "LetterFix", "LettersOrder", "LettersSettled", "redrive_uid"]

MAX_IDS = 1000
"""Letters that a command names one by one, at most."""
Count = Annotated[int, Field(ge=0, lt=2**63)]
LetterId = Annotated[str, Field(pattern=r"^[0-9a-f-]{4,36}$")]


def redrive_uid(uid: str) -> str:
    """Return the id under which redrives of the pipeline with that id keep their state at the sink."""
    return str(uuid5(NAMESPACE_OID, f"penstock:redrives:{uid}"))


class LetterChoice(Model):
    """Choice of dead letters of one pipeline: those that meet each condition that is given."""

    run: Annotated[str, Field(min_length=1, max_length=640)] | None = None
    step: Annotated[str, Field(max_length=255)] | None = None
    group: Annotated[str, Field(pattern=r"^[0-9a-f]{4,12}$")] | None = None
    """How the fingerprint of their step, code and reason begins."""
    column: ColumnName | None = None
    """A column that their reason names."""
    since: AwareDatetime | None = None
    ids: Annotated[tuple[LetterId, ...], Field(max_length=MAX_IDS)] = ()
    """How their ids begin."""


class LetterFix(Model):
    """New values for columns of the source's rows, by expressions over them; `where` it is not true, a row is left."""

    set: dict[ColumnName, Sql] = Field(min_length=1)
    where: Sql | None = None


class LettersOrder(Model):
    """What a worker does with dead letters: redrive them, fixed or as they are, or delete them for a reason."""

    action: Literal["replay", "discard", "erase"]
    choice: LetterChoice = LetterChoice()
    fix: LetterFix | None = None
    reason: Annotated[str, Field(min_length=1, max_length=500)] | None = None

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if (self.action == "replay") == (self.reason is not None):
            message = "a reason goes with discard and erase, and with these only"
            raise ValueError(message)
        if self.fix is not None and self.action != "replay":
            message = "only what is redriven is fixed"
            raise ValueError(message)
        return self


class LettersSettled(Model):
    """What became of the chosen letters, in numbers; `groups` are those of the settled ones by fingerprint.

    Written and filtered rows are letters no more. `refused` ones stay letters: they were refused again, or left.
    """

    action: Literal["replay", "discard", "erase"]
    chosen: Count
    written: Count = 0
    filtered: Count = 0
    refused: Count = 0
    deleted: Count = 0
    held_back: Count = 0
    """Letters that match but were not taken: of splits that are not committed, or from before a reload."""
    overtaken: Count = 0
    """Changes of rows that were not written, since a later one of the same key is; they are letters no more."""
    groups: dict[str, Count] = {}
