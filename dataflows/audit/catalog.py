"""The catalog compared with the log: it is folded again into a spare one, and both have the same digests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from catalog.compare import Digest, digest_at
from dataflows.process.site import Site
from dataflows.projector import project
from penstock.topics.log import TopicLog

__all__ = ["CatalogComparison", "compared"]


@dataclass(frozen=True, slots=True)
class CatalogComparison:
    """Tables whose rows are not what the records before `upto` make of them: theirs, and those that they should be."""

    upto: int
    tables: int
    differing: dict[str, tuple[Digest, Digest]]


def compared(site: Site, log: TopicLog, told: Callable[[int], None] = lambda _: None) -> CatalogComparison:
    """Compare the catalog of `site`, as it is now, with the fold of `log` up to its position.

    `told` learns the offset up to which the log is folded.

    Raises:
        Refused: another process does it.
    """
    upto, there = digest_at(site.catalog_dsn)
    with site.spare_catalog() as spare:
        project(log, spare, upto, told)
        _, folded = digest_at(spare)
    return CatalogComparison(
        upto, len(there), {name: (one, folded[name]) for name, one in there.items() if folded[name] != one}
    )
