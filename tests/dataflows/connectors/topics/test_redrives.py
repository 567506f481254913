"""Dead letters of a stream are redriven while it runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import psycopg

if TYPE_CHECKING:
    from tests.dataflows.connectors.topics.conftest import Stream

CHECKS = {"checks": {"named": "name <> 'event 2' AND name <> 'event 4' AND name <> 'event 9'"}}
ERRORS = {"dead_letter": {"fail_above": "100%"}}


def test_letters_of_a_stream_are_redriven_while_it_runs(stream: Callable[..., Stream]) -> None:
    made = stream()
    made.send(1, 2, 3, 4, 5)
    task = made.task(validate=CHECKS, errors=ERRORS)
    pid = made.launchers.start(task)
    made.until(3)

    def redriven(run: str, order: dict[str, Any], cut: str | None = None) -> dict[str, Any]:
        again = made.task(run, validate=CHECKS, errors=ERRORS)
        return made.launchers.run(again | {"kind": "letters", "redrive": order}, cut)

    order = {"action": "replay", "fix": {"set": {"name": "'fixed'"}, "where": "id > 2"}}
    assert "killed" in redriven("d1", order, "commit.done:0=kill")
    made.send(6, 7)
    made.until(6)
    done = redriven("d1", order)
    assert done["status"] == "completed", done["error"]
    assert (done["letters"]["written"], done["letters"]["refused"]) == (1, 1)
    made.send(8, 9, 10)
    made.until(8)
    done = redriven("d2", {"action": "replay", "fix": {"set": {"name": "'fixed'"}}})
    assert done["letters"]["written"] == 2
    assert made.stop(pid, task)["status"] == "failed"
    assert sorted(made.ids()) == list(range(1, 11))
    assert [id_ for id_ in made.ids() if id_ in {2, 4, 9}] == [4, 2, 9]
    with psycopg.connect(made.letters) as session:
        query = "SELECT count(*) FROM ops.dead_letters WHERE pipeline = %s"
        assert session.execute(query, (made.uid,)).fetchone() == (0,)
