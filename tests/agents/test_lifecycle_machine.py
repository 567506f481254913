"""The lifecycle against a plain model: commands that the model does not allow are refused and change nothing."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tests.agents.control_plane import ControlPlane, pipeline

NAMES = st.sampled_from(["orders", "visits"])
TIERS = st.sampled_from(["gold", "silver", "bronze"])
ALLOWED = {
    ("active", "pause"): "paused",
    ("paused", "resume"): "active",
    ("stopped", "resume"): "active",
    ("active", "stop"): "stopped",
    ("paused", "stop"): "stopped",
    ("active", "delete"): "deleting",
    ("paused", "delete"): "deleting",
    ("stopped", "delete"): "deleting",
    ("deleting", "delete"): "deleting",
}


class Lifecycles(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.plane = ControlPlane()
        self.plane.connect("shop", "house")
        self.model: dict[str, tuple[str, list[dict[str, Any]]]] = {}
        self.uids: list[str] = []

    @rule(name=NAMES, tier=TIERS, expect=st.none() | st.integers(0, 3))
    def apply(self, name: str, tier: str, expect: int | None) -> None:
        document = pipeline(name, tier=tier)
        status, versions = self.model.get(name, ("active", []))
        if status == "deleting" or expect not in {None, len(versions)}:
            self.plane.refused("pipeline.apply", pipeline=document, expect=expect)
            return
        result = self.plane.apply(document, expect=expect)
        if versions and versions[-1] == document:
            assert result == {"version": len(versions), "changed": False}
            return
        self.model[name] = (status, [*versions, document])
        assert (result["version"], result["changed"]) == (len(versions) + 1, True)
        if not versions:
            self.uids.append(result["uid"])

    @rule(name=NAMES, verb=st.sampled_from(["pause", "resume", "stop", "delete"]))
    def command(self, name: str, verb: str) -> None:
        status, versions = self.model.get(name, ("absent", []))
        after = ALLOWED.get((status, verb))
        if after is None:
            self.plane.refused(f"pipeline.{verb}", name=name)
        else:
            assert self.plane.done(f"pipeline.{verb}", name=name)["status"] == after
            self.model[name] = (after, versions)

    @rule(name=NAMES, to=st.integers(1, 4))
    def roll_back(self, name: str, to: int) -> None:
        status, versions = self.model.get(name, ("absent", []))
        if status in {"absent", "deleting"} or to > len(versions):
            self.plane.refused("pipeline.rollback", name=name, to=to)
            return
        result = self.plane.done("pipeline.rollback", name=name, to=to)
        if versions[to - 1] != versions[-1]:
            versions = [*versions, versions[to - 1]]
        self.model[name] = (status, versions)
        assert result["version"] == len(versions)

    @rule(name=NAMES)
    def clean_up(self, name: str) -> None:
        if self.model.get(name, ("absent", []))[0] == "deleting":
            self.plane.join("cleaner", kinds=["cleanup"], slots=9)  # room for every clean-up that waits
            self.plane.end(self.plane.task_of(name))
            self.plane.lose("cleaner")
            del self.model[name]

    @rule()
    def restart(self) -> None:
        before = self.plane.states()
        self.plane.restart()
        assert self.plane.states() == before, "the log is all there is"

    @invariant()
    def the_state_is_the_models(self) -> None:
        found = self.plane.state("lifecycle")["pipelines"]
        assert {name: (one["status"], one["versions"]) for name, one in found.items()} == self.model
        assert len(set(self.uids)) == len(self.uids), "a name may come again, a uid never"
        assert not self.plane.of("agent.faulted")


Lifecycles.TestCase.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
TestLifecycles = Lifecycles.TestCase
