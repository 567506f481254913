"""Before a run begins, each side is described once, and the rules are planned and bound once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from dataflows.connectors.postgres.source import PostgresSource
from dataflows.connectors.postgres.target import PostgresTarget
from dataflows.pipeline import FirstError
from dataflows.process.signals import Stopped
from dataflows.runs import survey
from dataflows.runs.job import Job
from dataflows.runs.launcher import launch
from dataflows.runs.prepare import Prepared, prepare
from dataflows.runs.progress import Progress
from dataflows.runs.survey import opened
from dataflows.transforms import mapping
from dataflows.transforms.chain import Chain

if TYPE_CHECKING:
    from tests.dataflows.conftest import Copy, Launchers

COUNTED = (
    (PostgresSource, "describe", "source"),
    (PostgresTarget, "describe", "target"),
    (survey, "plan_rules", "plan"),
    (mapping, "plan_rules", "plan"),
    (survey, "bind", "bind"),
)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count how often each of them is done."""
    found: Counter[str] = Counter()

    def counting(original: Callable[..., Any], what: str) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            found[what] += 1
            return original(*arguments, **named)

        return call

    for owner, name, what in COUNTED:
        monkeypatch.setattr(owner, name, counting(getattr(owner, name), what))
    return found


def prepared(task: dict[str, Any]) -> Prepared:
    job = Job.from_task(task)
    with opened(job) as ends:
        found = prepare(job, ends)
    assert isinstance(found, Prepared)
    return found


@pytest.mark.parametrize("write", ["append", "replace"])
def test_each_side_is_described_once(
    copy: Callable[..., Copy], launchers: Launchers, asked: Counter[str], write: str
) -> None:
    made = copy(write, arrow=True)
    made.session.execute(f"DROP TABLE {made.target}")
    prepared(made.task("r1"))
    assert asked == {"source": 1, "plan": 1, "target": 2, "bind": 2}  # the target again once it is created
    assert launchers.run(made.task("r1"))["status"] == "completed"
    asked.clear()
    prepared(made.task("r2"))
    assert asked == {"source": 1, "plan": 1, "target": 1, "bind": 1}


def test_columns_that_are_added_are_described_and_nothing_else(
    copy: Callable[..., Copy], launchers: Launchers, asked: Counter[str]
) -> None:
    made = copy("append")
    assert launchers.run(made.task("r1"))["status"] == "completed"
    made.session.execute(f"ALTER TABLE {made.target} DROP COLUMN price")
    task = made.task("r2")
    task["pipeline"]["spec"]["schema"] = {"additive": "apply"}
    found = prepared(task)
    assert asked == {"source": 1, "plan": 1, "target": 2, "bind": 2}
    assert found.survey.target.column("price") is not None


def test_masked_columns_do_not_plan_the_steps_before_them_again(copy: Callable[..., Copy], asked: Counter[str]) -> None:
    made = copy("replace")
    made.session.execute(f"DROP TABLE {made.target}")
    task = made.task("r1")
    steps: list[dict[str, Any]] = [{"name": "upper", "set": {"shout": "upper(name)"}}]
    steps += [{"name": f"hide{at}", "mask": {name: "redact"}} for at, name in enumerate(("shout", "price"))]
    task["pipeline"]["spec"]["transforms"] = steps
    bound = prepared(task).survey.mapping
    assert asked["plan"] == 1
    assert isinstance(bound.chain, Chain)
    assert bound.chain.masked == {"name", "price"}


def test_a_run_that_was_asked_to_stop_takes_over_from_nobody(copy: Callable[..., Copy], launchers: Launchers) -> None:
    made = copy("replace")
    task = made.task("r2")
    running = launchers.stopped(task, "commit.before_fence:1")
    first = FirstError()
    first.put(Stopped("the run was asked to stop"))
    stopped = launch(made.task("r1"), first, Progress())
    assert stopped["error"]["what"] == "the run was asked to stop"
    assert launchers.woken(running, task)["status"] == "completed"
    assert made.differences() == {"lost": 0, "doubled": 0}
