"""The policy as users write it (`kind: AgentPolicy`): what agents may do on their own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator

from penstock.models.base import Duration, Fraction, Model, Name
from penstock.models.pipeline import Labels

__all__ = ["RETENTION", "AgentPolicy", "AgentPolicySpec", "Autonomy", "OrchestratorPolicy", "Resolution", "applying"]

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
    actions: dict[Literal["retry", "skip_record", "adjust_config", "pause"], Autonomy] = {}


class EvolutionPolicy(Model):
    """Changes of schemas that are approved without a person, by the rule of a pipeline that proposes them."""

    approve: tuple[Literal["additive", "types", "lost", "renames", "tables"], ...] = ()
    act_above: Fraction = 0.90


class OrchestratorPolicy(Model):
    """Limits on concurrent runs, and their priorities: label values to a number, higher first."""

    max_running: int = Field(default=4, ge=1, le=10_000)
    per_connection: int = Field(default=4, ge=1, le=10_000)
    priorities: dict[str, Annotated[int, Field(ge=-(2**31), lt=2**31)]] = {}


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


class Constraints(Model):
    """Actions that no agent may take, at any confidence."""

    max_rows_skipped: int = Field(default=1000, ge=0, le=2**53)
    never: tuple[Literal["drop_table", "drop_column"], ...] = ()
    quiet_hours: tuple[Annotated[str, Field(pattern=r"^\d\d:\d\d-\d\d:\d\d$")], ...] = ()


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
