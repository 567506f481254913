"""What the catalog keeps of comparisons of both sides, and the wait for one."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from typing import Any

import pytest

from catalog.differences import KEEP, Differences
from catalog.overview import overview
from catalog.store import MetadataStore
from catalog.task_ends import wait_for
from penstock.clock import now
from penstock.errors import Unavailable
from penstock.postgres import connect
from tests.agents.control_plane import pipeline
from tests.catalog.conftest import Fact

Fold = Callable[..., int]
SHOWN = {"kind": "missing", "key": {"id": 7}, "columns": []}


def version(fact: Fact, number: int, **spec: Any) -> Any:
    document = pipeline("orders")
    document["spec"] |= spec
    type_ = "pipeline.updated" if number > 1 else "pipeline.created"
    return fact(type_, {"name": "orders", "uid": "u1", "version": number, "pipeline": document})


def result(fact: Fact, missing: int, since: str | None = None, **more: Any) -> Any:
    found = {"name": "orders", "uid": "u1", "source_rows": 9, "target_rows": 9, "missing": missing, "by": "w"}
    found |= {"agree": not missing} | ({"since": since} if since else {}) | more
    return fact("check.recorded", found)


def test_a_check_of_some_rows_hides_no_difference_of_all(
    catalog: str, fold: Fold, store: MetadataStore, fact: Fact
) -> None:
    fold(version(fact, 1))
    with closing(Differences(catalog)) as kept:
        for missing, since, stays in (
            (0, "5", 0),
            (2, None, 2),
            (1, "6", 2),
            (0, "7", 2),
            (0, None, 0),
            (3, "8", 3),
            (0, "9", 0),
        ):
            fold(result(fact, missing, since))
            found = {"since": since, "agree": not missing, "differences": [SHOWN] * missing}
            kept.put("u1", found)
            checked, shown = store.pipeline("orders").checked, kept.get("u1")
            assert checked is not None
            assert shown is not None
            assert (checked["missing"], len(shown["differences"]), "later" in shown) == (stays, stays, False), (
                missing,
                since,
            )
            assert "error" not in checked
            assert kept.last("u1") == found, "who asked for it sees it"
        fold(result(fact, 1, error={"code": "x", "what": "y"}), result(fact, 0, "10"))
        assert (store.pipeline("orders").checked or {})["agree"], "an error is no difference"


def test_keys_that_differ_are_kept_for_a_time(catalog: str) -> None:
    with closing(Differences(catalog)) as kept, closing(connect(catalog, "tests", autocommit=True)) as session:
        for name in ("u1", "u2"):
            kept.put(name, {"agree": False, "differences": [SHOWN]})
        kept.drop("u2")
        kept.expire()
        assert (kept.get("u1") or {})["differences"] == [SHOWN]
        assert kept.get("u2") is None
        session.execute("UPDATE ops.differences SET at = %s", (now() - KEEP - timedelta(seconds=1),))
        assert kept.get("u1") is kept.last("u1") is None
        kept.expire()
        assert session.execute("SELECT count(*) FROM ops.differences").fetchone() == (0,)
        session.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name = 'penstock:differences'"
        )
        with pytest.raises(Unavailable):
            kept.get("u1")


def test_a_comparison_of_keys_counts_while_the_file_has_it(
    catalog: str, fold: Fold, store: MetadataStore, fact: Fact
) -> None:
    error = {"code": "refused", "what": "too many are gone"}
    timer = {"timer": "deletes:u1:x", "due": "2026-02-01T00:00:00+00:00", "subject": "deletes orders"}
    fold(
        version(fact, 1, deletes={"mark": "remove", "every": "1d"}),
        fact("deletes.recorded", {"name": "orders", "uid": "u1", "task": "t1", "by": "w", "error": error}),
        fact("timer.requested", timer),
    )

    def seen() -> tuple[bool, bool, list[str]]:
        with closing(connect(catalog, "tests")) as session:
            (one,) = overview(session)
        return one.differs, bool(one.deletes), [*store.next_comparisons("orders")]

    assert seen() == (True, True, ["deletes"])
    fold(version(fact, 2, deletes={"mark": "remove"}))
    assert seen() == (True, True, []), "nothing is due without `every`"
    fold(version(fact, 3))
    assert seen() == (False, False, [])


def test_the_last_receipt_of_dead_letters_and_the_last_comparison_of_keys_stay(
    catalog: str, fold: Fold, fact: Fact
) -> None:
    fold(version(fact, 1))
    order, keys = (
        {"action": "discard", "reason": "old"},
        {"source_keys": 8, "target_keys": 9, "removed": 1, "returned": 0},
    )
    with closing(connect(catalog, "tests", autocommit=True)) as session:
        for number in (1, 2):
            task = {"name": "orders", "uid": "u1", "task": f"t{number}", "by": "w"}
            fold(
                fact("letters.recorded", {**task, "order": order, "found": {"action": "discard", "chosen": number}}),
                fact("deletes.recorded", {**task, "found": keys | {"removed": number}}),
            )
            found = session.execute("SELECT letters, deletes FROM catalog.pipelines WHERE uid = 'u1'").fetchone()
            assert found is not None
            assert [one["task"] for one in found] == [f"t{number}"] * 2
            assert (found[0]["found"]["chosen"], found[1]["found"]["removed"]) == (number, number)


def test_the_wait_for_a_task_looks_after_its_worker(catalog: str, fold: Fold, fact: Fact) -> None:
    task = {"id": "t1", "kind": "deletes", "pipeline": "orders"}
    ended = {
        "task": "t1",
        "kind": "deletes",
        "pipeline": "orders",
        "attempt": 1,
        "status": "cancelled",
        "reason": "its worker was lost",
    }
    fold(version(fact, 1), fact("task.queued", {"task": task}))

    def look_after() -> None:
        fold(fact("task.closed", ended))

    with pytest.raises(Unavailable, match="cancelled: its worker was lost"):
        wait_for(catalog, "t1", "pipeline orders", look_after)
