"""The queues against a plain model, while workers join, die and come back, and tasks fail, wait, age and depend."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.agents.control_plane import ERROR, FATAL, ControlPlane, policy
from tests.agents.queue_model import PIPELINES, STEP, TIERS, Queues, assert_indexed

NAMES = st.sampled_from(sorted(PIPELINES))
WORKERS = st.sampled_from(["w0", "w1", "w2", "w3"])
KINDS = st.sampled_from([("pipeline", "cleanup", "check"), ("pipeline",), ("pipeline",), ("cleanup",), ("check",)])
NUMBERS = st.integers(0, 30)
RUNNING, PER_CONNECTION = st.integers(1, 4), st.integers(1, 3)


class Assignment(RuleBasedStateMachine):
    """Random histories; the model follows the log after each step."""

    @initialize(running=RUNNING, per_connection=PER_CONNECTION)
    def begin(self, running: int, per_connection: int) -> None:
        self.plane, self.queues, self.read = ControlPlane(), Queues(running, per_connection), 0
        self.plane.connect(*(f"c{number}" for number in range(5)))
        for document in PIPELINES.values():
            self.plane.apply(document)
        self.limit(running, per_connection)
        self.plane.join("w0", slots=2, kinds=("pipeline", "cleanup", "check"))
        self.run(["a", "b", "d", "e"])

    # --- what people do

    @rule(names=st.lists(NAMES, min_size=1, max_size=4))
    def run(self, names: list[str]) -> None:
        for name in names:
            self.plane.command("run.start", pipeline=name)

    @rule(name=NAMES)
    def check(self, name: str) -> None:
        self.plane.command("check.start", name=name)

    @rule(name=NAMES, verb=st.sampled_from(["pause", "stop", "resume", "resume"]))
    def command(self, name: str, verb: str) -> None:
        self.plane.command(f"pipeline.{verb}", name=name)

    @rule(name=st.sampled_from(["d", "e"]))
    def delete(self, name: str) -> None:
        self.plane.command("pipeline.delete", name=name)

    @rule(name=NAMES)
    def apply(self, name: str) -> None:
        self.plane.command("pipeline.apply", pipeline=PIPELINES[name])

    @rule(running=RUNNING, per_connection=PER_CONNECTION)
    def limit(self, running: int, per_connection: int) -> None:
        self.queues.max_running, self.queues.per_connection = running, per_connection
        limits: dict[str, Any] = {"max_running": running, "per_connection": per_connection}
        limits |= {"priorities": TIERS, "ageing": {"step": STEP}}
        self.plane.done("policy.publish", policy=policy("p", orchestrator=limits))

    # --- what workers do

    @rule(worker=WORKERS, kinds=KINDS, slots=st.integers(1, 2))
    def join(self, worker: str, kinds: tuple[str, ...], slots: int) -> None:
        """Let a worker join, or come back under its name."""
        if worker not in self.queues.workers:
            self.plane.join(worker, slots=slots, kinds=kinds)

    @precondition(lambda self: self.queues.workers)
    @rule(number=NUMBERS, back=st.booleans())
    def lose(self, number: int, back: bool) -> None:
        """Lose a worker, which may come back at once, and get again what was taken from it."""
        busy = sorted({task["worker"] for task in self.queues.running.values()})
        workers = busy or sorted(self.queues.workers)
        worker = self.queues.workers[workers[number % len(workers)]]
        self.plane.lose(worker["worker"])
        if back:
            self.plane.join(worker["worker"], slots=worker["slots"], kinds=worker["kinds"])

    @precondition(lambda self: self.queues.running)
    @rule(number=NUMBERS, error=st.sampled_from([None, None, ERROR, FATAL]), classified=st.booleans())
    def end(self, number: int, error: dict[str, Any] | None, classified: bool) -> None:
        task = self.assigned()[number % len(self.queues.running)]
        if error is not None and classified and task["kind"] == "pipeline":
            self.plane.fail(task, error)
        else:
            self.plane.end(task, error)

    @precondition(lambda self: self.queues.over)
    @rule(number=NUMBERS, error=st.sampled_from([None, ERROR, FATAL]))
    def end_late(self, number: int, error: dict[str, Any] | None) -> None:
        """Report the end of an attempt that was taken away: it counts for nothing, whoever has the task now."""
        open_ones = [one for one in self.queues.over if one["id"] not in self.queues.closed]
        attempts, before = open_ones or self.queues.over, self.plane.state("orchestrator")
        task = attempts[-1 - number % len(attempts)]
        self.plane.end(task, error)
        assert self.plane.state("orchestrator") == before, "what was taken from a worker it cannot end"

    # --- what time does

    @precondition(lambda self: self.queues.timers)
    @rule(number=NUMBERS)
    def wait(self, number: int) -> None:
        timers = sorted(self.queues.timers)
        self.plane.fire(timers[number % len(timers)])

    @precondition(lambda self: self.plane.state("orchestrator")["ageing"])
    @rule()
    def age(self) -> None:
        self.plane.fire(self.plane.state("orchestrator")["ageing"]["timer"])

    # --- what holds after each step

    @invariant()
    def agrees(self) -> None:
        self.queues.follow(list(enumerate(self.plane.log))[self.read :])
        self.read = len(self.plane.log)
        idle = [task for task in self.queues.waiting.values() if self.queues.could_run(task)]
        assert idle == [], "none waits that could run, whatever else cannot"
        state = self.plane.state("orchestrator")
        rooms = self.queues.waiting, self.queues.running, self.queues.sleeping
        assert sorted(state["tasks"]) == sorted(id_ for room in rooms for id_ in room), "none is lost"
        assert set(state["runs"]) == set(self.queues.runs)
        assert self.queues.due() == [], "what runs after others runs once they have ended"
        assert_indexed(state)

    def assigned(self) -> list[dict[str, Any]]:
        return [task for task in self.plane.state("orchestrator")["tasks"].values() if task["status"] == "assigned"]

    # --- what holds in the end

    def teardown(self) -> None:
        """Let one worker do all that is left, while more urgent runs keep coming: none of it starves, and all ends."""
        if not hasattr(self, "plane"):
            return
        for worker in sorted(self.queues.workers):
            self.plane.lose(worker)
        for name in PIPELINES:
            self.plane.command("pipeline.resume", name=name)
        self.agrees()
        for timer in list(self.queues.timers):
            self.plane.fire(timer)
        self.agrees()
        kinds = {"pipeline", "cleanup", "check"}
        left = {id_ for id_, task in self.queues.waiting.items() if task["kind"] in kinds and not self.is_behind(task)}
        self.plane.join("last", kinds=("pipeline", "cleanup", "check"))
        self.agrees()
        rounds = 2 + max(TIERS.values()) // STEP + len(left)
        while left - self.queues.closed:
            assert rounds > 0, "what waits overtakes what is more urgent and came later"
            rounds -= 1
            self.step()
            self.plane.command("run.start", pipeline="a")
        while self.queues.running:
            self.step()
        assert {task["kind"] for task in self.queues.waiting.values()} <= {"diagnose"}, "nobody does these here"
        assert self.queues.runs == {}
        assert self.plane.of("agent.faulted") == []

    def is_behind(self, task: dict[str, Any]) -> bool:
        """True for a comparison of the pipeline whose runs keep coming: it comes after those."""
        return bool(task["kind"] == "check" and task["pipeline"] == "a")

    def step(self) -> None:
        """Let time pass, and end what is at work."""
        if self.plane.state("orchestrator")["ageing"]:
            self.age()
        for task in self.assigned():
            self.plane.end(task)
        self.agrees()


def test_property_03_assignment_keeps_queue_order() -> None:
    """Property 3: Task assignment preserves queue ordering.

    Whatever is queued, completed, failed, lost, paused and joined in whatever order: a task is never assigned while an
    earlier one of its kind and priority (or one of a higher priority) that could run waits; and none waits that could.
    None is at two workers at once or lost, what was taken from a worker it cannot end, and nothing starves: what waits
    ages by records only, up to the priority of the most urgent.

    Validates: Requirements 6.4
    """
    run_state_machine_as_test(Assignment, settings=settings(max_examples=10, stateful_step_count=30, deadline=None))
