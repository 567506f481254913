"""What a run has to know of a system before it connects to it."""

from __future__ import annotations

from typing import ClassVar

from penstock.models.base import Model

__all__ = ["ConnectionModel", "traits"]


class ConnectionModel(Model):
    """The base of the models of connections, with what holds for most systems; a model overrides what does not."""

    only_streams: ClassVar[bool] = False
    """Its rows can only be read as a stream, by `mode: stream`."""
    sends_changes: ClassVar[bool] = False
    """A stream from it is of changes of rows: inserts, updates and deletions."""
    many_topics: ClassVar[bool] = False
    """A source may name several topics, or a pattern of them."""
    holds_nul: ClassVar[bool] = True
    """Its texts may contain a character with code 0."""
    holds_zero_dates: ClassVar[bool] = False
    """Its dates may be 0000-00-00, or have a month or a day of 0."""
    drops_repeats: ClassVar[bool] = False
    """Its JSON keeps only the last of several equal keys of an object."""
    receives: ClassVar[bool] = False
    """It takes alerts, and has no rows: no pipeline can read or write it."""
    at_least_once: ClassVar[str | None] = None
    """Why a sink of this type may have rows more than once; None if it has each exactly once."""


def traits(settings: object) -> type[ConnectionModel]:
    """Return what is known of the system that a connection's settings, or their class, are for.

    The model of another package may be any `Model`: what holds for most systems holds for its system then.
    """
    kind = settings if isinstance(settings, type) else type(settings)
    return kind if issubclass(kind, ConnectionModel) else ConnectionModel
