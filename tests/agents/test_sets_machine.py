"""Sets against a plain model: tables come and go, the file changes, and the members are what the model says."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tests.agents.control_plane import ControlPlane, pipeline_set

TABLES = st.sets(st.sampled_from(["a.x", "a.y", "a.tmp_1", "b.x", "b.O d{d}"]))
EXCEPT = st.sets(st.sampled_from(["*.tmp_*", "b.*", "a.x"])).map(sorted)
KINDS = ("pipeline", "cleanup", "list")


class Sets(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.plane = ControlPlane()
        self.plane.connect("shop", "house")
        self.plane.join("w", slots=99, kinds=KINDS)
        self.excluded: list[str] = []
        self.vanish = "keep"
        self.members: dict[str, str] = {}
        self.plane.apply(self.document)
        self.found(set())

    @property
    def document(self) -> dict[str, object]:
        return pipeline_set("shop", "*", source={"except": self.excluded}, vanish=self.vanish)

    def selected(self, table: str) -> bool:
        rules = {"*.tmp_*": ".tmp_" in table, "b.*": table.startswith("b."), "a.x": table == "a.x"}
        return not any(rules[one] for one in self.excluded)

    def found(self, tables: set[str]) -> None:
        """List the tables, as a worker that selects by the set's patterns does, and follow in the model."""
        self.plane.find("shop", *sorted(filter(self.selected, tables)), page=2)
        for table in tables:
            if self.selected(table):
                self.members[table] = "active"
        for table in self.members:
            if not self.selected(table):
                self.members[table] = "stopped"
            elif table not in tables and self.vanish == "pause" and self.members[table] == "active":
                self.members[table] = "paused"

    @rule(tables=TABLES)
    def start(self, tables: set[str]) -> None:
        before = len(self.plane.of("run.created"))
        running = {run["pipeline"] for run in self.plane.state("orchestrator")["runs"].values()}
        self.plane.done("run.start", pipeline="shop")
        self.found(tables)
        begun = {one.payload["run"]["pipeline"] for one in self.plane.of("run.created")[before:]}
        assert begun == {f"shop/{one}" for one in tables if self.selected(one)} - running

    @rule(tables=TABLES, excluded=EXCEPT, vanish=st.sampled_from(["keep", "pause"]))
    def change(self, tables: set[str], excluded: list[str], vanish: str) -> None:
        self.excluded, self.vanish = excluded, vanish
        if self.plane.apply(self.document)["changed"]:
            self.found(tables)

    @rule()
    def restart(self) -> None:
        before = self.plane.states()
        self.plane.restart()
        assert self.plane.states() == before, "the log is all there is"

    @invariant()
    def the_members_are_the_models(self) -> None:
        pipelines = self.plane.state("lifecycle")["pipelines"]
        found = {name.removeprefix("shop/"): one["status"] for name, one in pipelines.items() if name != "shop"}
        assert found == self.members
        assert all(len(one["versions"]) == 1 for name, one in pipelines.items() if name != "shop")
        assert not self.plane.of("agent.faulted")


Sets.TestCase.settings = settings(max_examples=15, stateful_step_count=12, deadline=None)
TestSets = Sets.TestCase
