"""Made-up tables of a large catalog: names of common words and of rare ones, by Zipf's law, as real names are."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from penstock.models.domain import Field, Schema

__all__ = ["Table", "tables"]

_COMMON: Final = """
order customer item product price payment invoice shipment address account user event session click page visit campaign
lead contact company employee salary department project task ticket comment message file image video device sensor
reading alert metric log audit change version release build test deploy cluster node service request response error
trace cost budget forecast plan target region country city store branch warehouse stock supplier contract policy claim
premium risk score rating review return refund discount coupon cart wish list category brand season size color weight
volume currency rate tax fee balance ledger journal entry transfer deposit loan credit debit card bank check statement
"""
SYLLABLES: Final = [consonant + vowel for consonant in "bdfgklmnprstv" for vowel in "aeiou"]
RARE: Final = 30_000
TYPES: Final = ("bigint", "integer", "text", "numeric(15,2)", "timestamptz", "boolean", "date", "uuid", "jsonb")
TAGS: Final = ("email", "phone", "country", "currency", "money", "identifier", "person", "iban", "personal", "url")
COLUMNS: Final = 8


@dataclass(frozen=True, slots=True)
class Table:
    """A table as a discovery finds it."""

    object: str
    kind: str
    tags: tuple[str, ...]
    description: str | None
    schema: Schema


def tables(count: int, seed: int = 1) -> Iterator[Table]:
    """Yield tables with different names; the same ones for the same seed."""
    rnd = random.Random(seed)
    rare = {"".join(rnd.choices(SYLLABLES, k=rnd.randint(2, 4))) for _ in range(RARE)}
    vocabulary = [*_COMMON.split(), *sorted(rare)]
    weights = list(accumulate(1 / (rank + 3) for rank in range(len(vocabulary))))

    def name(most: int) -> str:
        return "_".join(rnd.choices(vocabulary, cum_weights=weights, k=rnd.randint(1, most)))

    for n in range(count):
        columns = dict.fromkeys(["id", *(name(2) for _ in range(COLUMNS - 1))])
        yield Table(
            object=f"{name(1)}.{name(3)}_{n}" if n % 2 else f"public.{name(2)}_{name(2)}{n:x}",
            kind=rnd.choices(("table", "view", "topic"), (8, 2, 1))[0],
            tags=tuple(sorted(rnd.sample(TAGS, rnd.choice((0, 0, 1, 2))))),
            description=name(8).replace("_", " ") if n % 3 == 0 else None,
            schema=Schema(fields=tuple(Field(name=one, type=rnd.choice(TYPES)) for one in columns)),
        )
