"""Checks of what a pipeline says of its ends, before anything is connected."""

from __future__ import annotations

import re
from typing import Any

from penstock.errors import Refused
from penstock.models.pipeline import Pipeline, all_topics
from penstock.models.pipeline import Source as SourceSpec
from penstock.models.traits import traits

__all__ = ["check_clean", "check_topics"]


def check_topics(name: str, source: SourceSpec, settings: Any) -> None:
    """Refuse several topics where there are none, and more than one way to name them.

    Raises:
        Refused: by name.
    """
    named = all_topics({"topics": source.topics, "pattern": source.pattern})
    if named is None:
        return
    where, kind = f"{name}: spec.source.{'topics' if source.topics else 'pattern'}", settings.type
    if not traits(settings).many_topics:
        raise Refused(f"a connection of type {kind} has one `object`", where=where, hint="name it in `object`")
    if source.object != named or (source.topics and source.pattern is not None):
        raise Refused("topics are named twice", where=where, hint="write one of `object`, `topics` and `pattern`")
    if len(set(source.topics)) < len(source.topics):
        raise Refused("a topic is named twice", where=where, hint="name each once")
    try:
        re.compile(source.pattern or "")
    except re.error as error:
        what = f"the pattern is no regular expression: {error}"
        raise Refused(what, where=where, value=source.pattern, hint="such as orders-.*") from None


def check_clean(pipeline: Pipeline, settings: Any) -> None:
    """Refuse a `clean` of values that this type of source cannot have.

    Raises:
        Refused: by name.
    """
    clean, system = pipeline.spec.clean, traits(settings)
    for name, means, holds in (
        ("nul", "characters with code 0", system.holds_nul),
        ("zero_dates", "zero dates", system.holds_zero_dates),
    ):
        if getattr(clean, name) is not None and not holds:
            what = f"a source of type {settings.type} has no {means}"
            raise Refused(what, where=f"{pipeline.name}: spec.clean.{name}", hint="leave it out")
