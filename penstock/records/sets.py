"""Sets of pipelines: what a listing found at the source, what its members are, and that their runs are queued.

A listing comes in pages of at most `PAGE` objects, whose records are one append of the worker.
"""

from __future__ import annotations

from typing import Final

from penstock.models.base import Model, Name, PipelineName
from penstock.models.domain import Id
from penstock.models.sets import FoundObject
from penstock.models.transforms import ObjectName
from penstock.records.shapes import Count, Positive

__all__ = ["PAGE", "LeftOut", "ObjectsAccepted", "ObjectsFound", "SetListed", "SetStarted"]

PAGE: Final = 500
"""Objects of a page at most."""


class ObjectsFound(Model):
    """``objects.found``: a page of the objects that a set selects, in the order in which their runs are queued.

    Keyed by the set's name. Objects come after those that their foreign keys refer to; `version` is the set's, as it
    was when they were listed. `after` says which objects' targets those of an object refer to by foreign keys that the
    sink enforces; it is None if that is not known.
    """

    name: Name
    uid: Id
    version: Positive
    task: Id
    page: Count
    last: bool
    objects: tuple[FoundObject, ...] = ()
    after: dict[ObjectName, tuple[ObjectName, ...]] | None = None


class ObjectsAccepted(Model):
    """``objects.accepted``: objects that may become members of a set although they are new; `by` is who let them.

    Keyed by the set's name.
    """

    name: Name
    uid: Id
    objects: tuple[ObjectName, ...]
    by: str


class LeftOut(Model):
    """An object that is not a member, or a member without an object, and the reason."""

    object: str
    reason: str


class SetListed(Model):
    """``set.listed``: the members of a page, after the records that made them; `refused` cannot be members.

    `proposed` are new objects that wait for a person. Only the last page has `vanished` (members whose object is gone)
    and `unmatched` (patterns that match nothing). `after` has the members whose first loads come before that of a
    member; None if they are not known. `identities` are those of members' objects that are not known from before;
    `renamed` has the names of objects whose member does not read them yet, by member.
    """

    name: Name
    uid: Id
    version: Positive
    task: Id
    page: Count
    last: bool
    members: tuple[PipelineName, ...] = ()
    refused: tuple[LeftOut, ...] = ()
    proposed: tuple[str, ...] = ()
    vanished: tuple[str, ...] = ()
    unmatched: tuple[str, ...] = ()
    after: dict[PipelineName, tuple[PipelineName, ...]] | None = None
    identities: dict[PipelineName, str] | None = None
    renamed: dict[PipelineName, ObjectName] | None = None


class SetStarted(Model):
    """``set.started``: the runs of a page of members are queued; `group` is what they share. Keyed by the set's name.

    `skipped` are members that are not active, or have a run already. With the last page all are queued.
    """

    name: Name
    uid: Id
    group: Id
    page: Count
    last: bool
    runs: Count
    skipped: tuple[LeftOut, ...] = ()
