"""Commands: what people and other systems request. Each is answered by `command.applied` or `command.refused`."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import Field

from penstock.models.base import Fraction, Model, Name, PipelineName
from penstock.models.domain import Beginning, Compatibility, DatasetRef, Id, Pattern, Reload
from penstock.models.letters import LettersOrder
from penstock.models.transforms import ObjectName

__all__ = [
    "MAX_POSITION",
    "AgentSwitch",
    "ChangeAnswer",
    "CheckRecord",
    "CheckStart",
    "ConnectionDelete",
    "ConnectionPut",
    "DatasetConfigure",
    "DeletesStart",
    "DiscoveryStart",
    "LettersStart",
    "PipelineApply",
    "PipelineDelete",
    "PipelineRollback",
    "PipelineTransition",
    "PolicyPublish",
    "RouteTry",
    "RunStart",
    "RunTrigger",
    "SetAccept",
]

MAX_POSITION: Final = 2000
"""Characters of a position on the log."""
Count = Annotated[int, Field(ge=0, lt=2**63)]
Version = Annotated[int, Field(ge=0)]


class ConnectionPut(Model):
    """``connection.put``: create or replace a connection. It contains secrets as references only."""

    name: Name
    connection: dict[str, Any]


class ConnectionDelete(Model):
    """``connection.delete``: refused while a pipeline uses it."""

    name: Name


class DatasetConfigure(Model):
    """``dataset.configure``: set the rule that the next schema of a dataset has to meet."""

    dataset: DatasetRef
    compatibility: Compatibility


class PipelineApply(Model):
    """``pipeline.apply``: create or update. `expect` is the version the caller saw: 0 = none yet, None = any."""

    pipeline: dict[str, Any]
    expect: Version | None = None


class PipelineTransition(Model):
    """``pipeline.pause``, ``pipeline.resume``, ``pipeline.drain``, ``pipeline.stop``."""

    name: PipelineName
    expect: Version | None = None


class PipelineDelete(Model):
    """``pipeline.delete``: its state is deleted too; the target table only with `drop_table`."""

    name: PipelineName
    expect: Version | None = None
    drop_table: bool = False


class PipelineRollback(Model):
    """``pipeline.rollback``: a new version that equals version `to`."""

    name: PipelineName
    to: Annotated[int, Field(ge=1)]
    expect: Version | None = None


class RunStart(Model):
    """``run.start``: start one run; with `reload` it reads rows again, with `begin` a stream begins elsewhere."""

    pipeline: PipelineName
    reload: Reload | None = None
    begin: Beginning | None = None


class RunTrigger(Model):
    """``run.trigger``: a request to the webhook of a pipeline; what it contained is not kept."""

    pipeline: PipelineName


class SetAccept(Model):
    """``set.accept``: let these objects, which a set proposes (``appear: propose``), become members."""

    name: Name
    objects: Annotated[tuple[ObjectName, ...], Field(min_length=1)]


class ChangeAnswer(Model):
    """``change.answer``: approve or deny changes that are proposed for a pipeline, by their ids.

    `plans` are the hashes of the plans that were shown: if one is another now, nothing is approved.
    """

    name: PipelineName
    ids: Annotated[tuple[Id, ...], Field(min_length=1)]
    approve: bool
    plans: dict[Id, str] | None = None


class CheckRecord(Model):
    """What a check has found.

    `run` is the last one that the target has all of. Keys and values of rows that differ are not in it.
    """

    name: PipelineName
    uid: Id
    run: Id | None = None
    position: Annotated[str, Field(max_length=MAX_POSITION)] | None = None
    """Of the cursor: up to it both sides were compared; None if there is none, or it is longer."""
    since: Annotated[str, Field(max_length=100)] | None = None
    """Value of the cursor from which on they were compared; None = all rows."""
    source_rows: Count
    target_rows: Count
    missing: Count = 0
    extra: Count = 0
    changed: Count = 0
    in_flight: Count = 0
    refused: Count = 0
    partly: bool = False
    """True if so much differs that these are the numbers of a part of it."""
    agree: bool


class CheckStart(Model):
    """``check.start``: compare both sides now; with `since` only rows whose cursor is at or after this value."""

    name: PipelineName
    since: Annotated[str, Field(max_length=100)] | None = None


class DeletesStart(Model):
    """``deletes.start``: compare the keys of both sides now; with `limit`, up to that share of keys may be gone."""

    name: PipelineName
    limit: Fraction | None = None


class LettersStart(LettersOrder):
    """``letters.start``: redrive dead letters of a pipeline, or delete them; never with values of rows."""

    name: PipelineName


class DiscoveryStart(Model):
    """``discovery.start``: look at the objects of a connection; what is not given is as the policy says."""

    connection: Name
    tables: tuple[Pattern, ...] | None = None
    except_: tuple[Pattern, ...] = Field(default=(), alias="except")
    sample_rows: Annotated[int, Field(ge=0, le=10_000_000)] | None = None


class RouteTry(Model):
    """``route.try``: send a notice that is about no alert, to show whether this connection takes any."""

    route: Name


class AgentSwitch(Model):
    """``agent.halt`` and ``agent.resume``: whether an agent may act on its own; without a name, all of them."""

    agent: Name | None = None


class PolicyPublish(Model):
    """``policy.publish``: a policy from a file or the API; an invalid one is refused and the old one stays."""

    policy: dict[str, Any]
    origin: Literal["file", "api"] = "api"
