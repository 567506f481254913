"""Waiting for the answers to commands."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import psycopg
import pytest

from catalog.answers import Answers
from catalog.projection import Projector
from penstock.errors import Unavailable
from penstock.records import Record
from tests.catalog.conftest import Fact

Fold = Callable[..., int]


@pytest.fixture
def answers(catalog: str) -> Iterator[Answers]:
    with Answers(catalog) as found:
        yield found


def test_a_wait_ends_as_soon_as_the_command_is_answered(answers: Answers, projector: Projector, fact: Fact) -> None:
    took = []
    for number in range(20):
        asked, answer = (
            fact("run.start", {"pipeline": "a"}, id=f"c{number}"),
            fact("command.applied", {"command": f"c{number}"}),
        )
        took.append(_answered_after(answers, projector, asked, answer))
    assert sorted(took)[10] < 0.1  # a poll takes 0.25 s: it was the notification


def _answered_after(answers: Answers, projector: Projector, asked: Record, answer: Record) -> float:
    waiting = threading.Thread(target=answers.wait, args=([asked.id], 20))
    waiting.start()
    time.sleep(0.02)
    offset, reading = projector.position()
    start = time.perf_counter()
    projector.apply([(offset, asked)], offset + 1, reading)
    projector.apply([(offset + 1, answer)], offset + 2, reading)
    waiting.join()
    return time.perf_counter() - start


def test_a_wait_sees_an_earlier_answer(answers: Answers, fold: Fold, fact: Fact) -> None:
    fold(fact("run.start", {"pipeline": "a"}, id="c1"), fact("command.applied", {"command": "c1"}))
    assert answers.wait(["c1"], 0)["c1"].status == "applied"


def test_a_wait_without_an_answer_ends_in_time(answers: Answers, fold: Fold, fact: Fact) -> None:
    fold(fact("run.start", {"pipeline": "a"}, id="c1"))
    for id_ in ("c1", "nowhere"):
        start = time.perf_counter()
        with pytest.raises(Unavailable, match=r"no answer within 0\.3 s"):
            answers.wait([id_], 0.3)
        assert 0.25 < time.perf_counter() - start < 5


def test_an_answer_without_its_command_does_not_count(answers: Answers, fold: Fold, fact: Fact) -> None:
    fold(fact("command.applied", {"command": "c1"}))
    with pytest.raises(Unavailable, match="no answer"):
        answers.wait(["c1"], 0.1)


def test_a_wait_outlives_its_session(answers: Answers, catalog: str, fold: Fold, fact: Fact) -> None:
    with psycopg.connect(catalog, autocommit=True) as other:
        other.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'penstock:answers'"
            " AND datname = current_database()"
        )
    fold(fact("run.start", {"pipeline": "a"}, id="c1"), fact("command.applied", {"command": "c1"}))
    assert answers.wait(["c1"], 5)["c1"].status == "applied"
