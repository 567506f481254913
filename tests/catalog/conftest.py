"""A catalog, a store and a projector on a fresh database, and records to fold."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from catalog.database import engine
from catalog.projection import Projector
from catalog.store import MetadataStore
from penstock.records import Reading, Record
from penstock.records.families import TYPES

START = datetime(2026, 1, 1, tzinfo=UTC)
Fact = Callable[..., Record]


@pytest.fixture
def store(catalog: str) -> Iterator[MetadataStore]:
    with MetadataStore(engine(catalog, pool_size=2)) as found:
        yield found


@pytest.fixture
def projector(catalog: str) -> Iterator[Projector]:
    with Projector(catalog) as found:
        yield found


@pytest.fixture
def fold(projector: Projector) -> Callable[..., int]:
    """Fold records as the next ones of the log; return the offset of the first."""

    def apply(*records: Record) -> int:
        start, reading = projector.position()
        for offset, record in enumerate(records, start):
            reading.keep(offset, record)
        projector.apply(list(enumerate(records, start)), start + len(records), reading)
        return start

    return apply


@pytest.fixture(scope="session")
def fact() -> Fact:
    """Make a record of a type; `minute` is its time after the start of 2026."""

    def make(type_: str, payload: dict[str, Any], *, key: str = "k", minute: int = 0, **more: Any) -> Record:
        at = START + timedelta(minutes=minute)
        return Record(type=type_, kind=TYPES[type_].kind, key=key, at=at, actor="user:ann", payload=payload, **more)

    return make


def folded(dsn: str, records: Sequence[Record], cuts: Sequence[int]) -> None:
    """Fold `records` into the catalog at `dsn` in batches that end at `cuts` and at the end."""
    with Projector(dsn) as projector:
        _, reading = projector.position()
        for start, end in zip([0, *cuts], [*cuts, len(records)], strict=True):
            batch = [(offset, records[offset]) for offset in range(start, end)]
            projector.apply([item for item in batch if reading.keep(*item)], end, reading)


__all__ = ["Fact", "Reading", "folded"]
