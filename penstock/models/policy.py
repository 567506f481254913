"""The policy as users write it (`kind: AgentPolicy`): what agents may do on their own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Annotated, Final, Literal, Self, get_args

from pydantic import Field, model_validator

from penstock.models.base import Duration, Fraction, Model, Name
from penstock.models.pipeline import Labels
from penstock.models.proposals import Rule
from penstock.models.quiet import HOURS

__all__ = [
    "CAPABILITIES",
    "DEFAULT_ZONE",
    "RETENTION",
    "AgentPolicy",
    "AgentPolicySpec",
    "Autonomy",
    "OrchestratorPolicy",
    "Resolution",
    "applying",
]

Resolution = Literal["1s", "1m", "1h"]
"""Length of time that one point of a metric stands for."""

RETENTION: Final[Mapping[Resolution, timedelta]] = {
    "1s": timedelta(days=2),
    "1m": timedelta(days=30),
    "1h": timedelta(days=730),
}
"""How long points of each resolution are kept, unless the policy says otherwise."""

Autonomy = Literal["observe", "propose", "act"]
"""observe: record only; propose: ask a person; act: do it if the confidence is ABOVE the threshold."""


Resolving = Literal["retry", "skip_record", "adjust_config", "pause"]
Evolving = Literal["approve", "follow_rename", "follow_move"]
OwnAction = Literal[Resolving, Evolving, "discover"]

CAPABILITIES: Final[Mapping[str, tuple[str, ...]]] = {
    "discovery": ("discover",),
    "error_resolution": get_args(Resolving),
    "evolution": get_args(Evolving),
}
"""What each agent can do on its own; `evolution` is the part of the lifecycle agent that follows changes of schemas."""

DEFAULT_ZONE: Final = "UTC"


class DiscoveryPolicy(Model):
    """Rules for discovery."""

    autonomy: Autonomy = "act"
    every: Duration | None = None
    """Time between two discoveries of a connection; None = only when asked."""
    sample_rows: int = Field(default=10_000, ge=0, le=10_000_000)
    tables: tuple[str, ...] = ("*",)


class MappingPolicy(Model):
    """Rules for the mapping agent."""

    autonomy: Autonomy = "propose"
    act_above: Fraction = 0.90


class ErrorResolutionPolicy(Model):
    """Rules for error resolution, by action."""

    autonomy: Autonomy = "act"
    act_above: Fraction = 0.80
    actions: dict[Resolving, Autonomy] = {}


class EvolutionPolicy(Model):
    """Changes of schemas that are approved without a person, by the rule of a pipeline that proposes them."""

    approve: tuple[Rule, ...] = ()
    act_above: Fraction = 0.90


class Ageing(Model):
    """A task that waits gains `step` of priority each time that it has waited for `every`; 0 = none."""

    every: Annotated[Duration, Field(ge=timedelta(seconds=1), le=timedelta(days=366))] = timedelta(minutes=10)
    step: int = Field(default=1, ge=0, lt=2**31)


class OrchestratorPolicy(Model):
    """Limits on concurrent runs, and their priorities: label values to a number, higher first."""

    max_running: int = Field(default=4, ge=1, le=10_000)
    per_connection: int = Field(default=4, ge=1, le=10_000)
    priorities: dict[str, Annotated[int, Field(ge=-(2**31), lt=2**31)]] = {}
    ageing: Ageing = Ageing()


class MonitorPolicy(Model):
    """Sensitivity of the monitor, routes of alerts, and retention of metrics by resolution."""

    sensitivity: float = Field(default=4.0, gt=0, le=100)
    warm_up: int = Field(default=20, ge=1, le=100_000)
    routes: tuple[Name, ...] = ("log",)
    retention: dict[Resolution, Duration] = {}

    @property
    def kept(self) -> dict[Resolution, timedelta]:
        """How long points of each resolution are kept."""
        return {**RETENTION, **self.retention}


class Rate(Model):
    """How often agents may take an action on their own: in any hour, and in any hour for one pipeline."""

    per_hour: Annotated[int, Field(ge=0, le=10_000)] | None = None
    per_pipeline: Annotated[int, Field(ge=0, le=10_000)] | None = None


class BlastRadius(Model):
    """The most that each agent may touch on its own within a time: pipelines, tables that they write, rows skipped."""

    pipelines: Annotated[int, Field(ge=0, le=10_000)] | None = None
    tables: Annotated[int, Field(ge=0, le=10_000)] | None = None
    rows: Annotated[int, Field(ge=0, le=2**53)] | None = None
    within: Annotated[Duration, Field(gt=timedelta(0), le=timedelta(days=1))] = timedelta(hours=1)


class Approvals(Model):
    """How long a proposed change waits for an answer, and then: is it asked again when it is met again, or denied?"""

    expire: Annotated[Duration, Field(gt=timedelta(0), le=timedelta(days=365))] = timedelta(days=7)
    then: Literal["ask", "deny"] = "ask"


class Constraints(Model):
    """Limits of what agents do on their own, at any confidence.

    What is not set has no value, so that a policy of an older release keeps its hash.
    """

    max_rows_skipped: int = Field(default=1000, ge=0, le=2**53)
    never: tuple[Literal["drop_table", "drop_column", OwnAction], ...] = ()
    quiet_hours: tuple[Annotated[str, Field(pattern=HOURS)], ...] = ()
    timezone: Annotated[str, Field(max_length=64)] | None = None
    """The zone of the quiet hours; UTC if there is none."""
    limits: dict[OwnAction, Rate] | None = None
    blast_radius: BlastRadius | None = None
    approvals: Approvals | None = None


class AgentPolicySpec(Model):
    """Rules for the pipelines that have all the labels of `applies`."""

    applies: Labels = {}
    discovery: DiscoveryPolicy = DiscoveryPolicy()
    mapping: MappingPolicy = MappingPolicy()
    error_resolution: ErrorResolutionPolicy = ErrorResolutionPolicy()
    evolution: EvolutionPolicy = EvolutionPolicy()
    orchestrator: OrchestratorPolicy = OrchestratorPolicy()
    monitor: MonitorPolicy = MonitorPolicy()
    constraints: Constraints = Constraints()

    @model_validator(mode="after")
    def _capacity_is_global(self) -> Self:
        if self.applies and self.orchestrator != OrchestratorPolicy():
            message = "`orchestrator` is for all pipelines together: set it in the policy without `applies`"
            raise ValueError(message)
        return self


class AgentPolicy(Model):
    """A policy file: ``apiVersion: penstock/v1``, ``kind: AgentPolicy``."""

    apiVersion: Literal["penstock/v1"] = "penstock/v1"  # noqa: N815 - the key in the file
    kind: Literal["AgentPolicy"] = "AgentPolicy"
    metadata: PolicyMetadata
    spec: AgentPolicySpec = AgentPolicySpec()

    @property
    def name(self) -> str:
        """The name in its metadata."""
        return self.metadata.name

    @property
    def hash(self) -> str:
        """SHA-256 of its canonical JSON: the same rules have the same hash, regardless of the file's form."""
        text = json.dumps(self.to_dict(), ensure_ascii=False, separators=(",", ":"), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Return True if it applies to a pipeline with `labels`."""
        return all(labels.get(key) == value for key, value in self.spec.applies.items())


def applying(policies: Iterable[AgentPolicy], labels: Mapping[str, str]) -> AgentPolicy | None:
    """Return the most specific of `policies` that applies to a pipeline with `labels`; None if none does."""
    fitting = (policy for policy in policies if policy.matches(labels))
    return max(fitting, key=lambda policy: len(policy.spec.applies), default=None)


class PolicyMetadata(Model):
    """Name and description."""

    name: Name
    description: str | None = Field(default=None, max_length=2000)


AgentPolicy.model_rebuild()
