"""The store: catalog entries, the history of schemas, mappings, pipelines, decisions, commands, snapshots."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from catalog.dataset_folds import dataset_id
from catalog.entries import Dataset, Decision, Snapshot
from catalog.store import MetadataStore
from penstock.errors import NotFound, UsageError
from penstock.models import AgentDecision, DatasetRef, Field, FieldMapping, Schema, SchemaMapping
from penstock.models.domain import ForeignKey
from penstock.records import Record
from penstock.records.execution import SchemaObserved
from tests.agents.control_plane import pipeline
from tests.catalog.conftest import START, Fact

ORDERS = DatasetRef(connection="shop", object="public.orders")
V1 = Schema(
    fields=(Field(name="id", type="bigint", nullable=False), Field(name="total", type="numeric(15,2)")), key=("id",)
)
V2 = Schema(fields=(*V1.fields, Field(name="placed_at", type="timestamptz")), key=("id",))
Fold = Callable[..., int]


def document(name: str, **labels: str) -> dict[str, Any]:
    return {
        "apiVersion": "penstock/v1",
        "kind": "Pipeline",
        "metadata": {"name": name, "owner": "ann", "labels": labels},
        "spec": {
            "source": {"connection": "shop", "object": f"public.{name}"},
            "sink": {"connection": "lake", "object": name},
        },
    }


def minutes(count: int) -> Any:
    return START + timedelta(minutes=count)


# --- datasets and schemas


def test_an_entry_round_trips(store: MetadataStore) -> None:
    observed = SchemaObserved(dataset=ORDERS, schema_=V1, description="what people bought", tags=("gold", "pii"))
    put = store.put_dataset(observed, at=START, offset=5)
    assert store.dataset(put.id) == store.dataset_of(ORDERS) == put
    assert (put.connection, put.object, put.kind, put.description) == (
        "shop",
        "public.orders",
        "table",
        "what people bought",
    )
    assert (put.tags, put.version, put.fingerprint) == (("gold", "pii"), 1, V1.fingerprint)
    assert (put.first_offset, put.first_at, put.changed) == (5, START, 5)


def test_a_changed_entry_keeps_its_first_time(store: MetadataStore) -> None:
    store.put_dataset(SchemaObserved(dataset=ORDERS, schema_=V1), at=START, offset=5)
    later = store.put_dataset(SchemaObserved(dataset=ORDERS, schema_=V1, kind="view"), at=minutes(9), offset=8)
    assert (later.first_offset, later.last_offset, later.first_at, later.last_at) == (5, 8, START, minutes(9))
    assert (later.kind, later.version) == ("view", 1)


def test_a_deleted_entry_is_gone_with_its_history(store: MetadataStore) -> None:
    put = store.put_dataset(SchemaObserved(dataset=ORDERS, schema_=V1), at=START, offset=5)
    store.delete_dataset(ORDERS)
    with pytest.raises(NotFound):
        store.dataset(put.id)
    with pytest.raises(NotFound):
        store.schema_history(put.id)
    with pytest.raises(NotFound):
        store.delete_dataset(ORDERS)
    assert store.put_dataset(SchemaObserved(dataset=ORDERS, schema_=V2), at=START, offset=6).version == 1


def observed(store: MetadataStore, schema: Schema, minute: int) -> Dataset:
    return store.put_dataset(SchemaObserved(dataset=ORDERS, schema_=schema), at=minutes(minute), offset=minute)


def test_schema_versions_count_changes_only(store: MetadataStore) -> None:
    versions = [observed(store, schema, at).version for at, schema in enumerate([V1, V1, V2, V2, V1])]
    assert versions == [1, 1, 2, 2, 3]
    history = store.schema_history(dataset_id("shop", "public.orders"))
    assert [(v.version, v.schema, v.at, v.offset) for v in history] == [
        (1, V1, START, 0),
        (2, V2, minutes(2), 2),
        (3, V1, minutes(4), 4),
    ]
    assert history[0].fingerprint == history[2].fingerprint == store.known([ORDERS])[ORDERS].fingerprint


def test_a_schema_is_found_by_version_and_by_time(store: MetadataStore) -> None:
    id_ = dataset_id("shop", "public.orders")
    observed(store, V1, 10)
    observed(store, V2, 20)
    assert store.schema_at(id_).schema == store.schema_at(id_, version=2).schema == V2
    assert store.schema_at(id_, version=1).schema == store.schema_at(id_, at=minutes(19)).schema == V1
    assert store.schema_at(id_, at=minutes(20)).schema == V2
    for nowhere in ({"version": 3}, {"at": minutes(9)}):
        with pytest.raises(NotFound):
            store.schema_at(id_, **nowhere)


def test_lists_of_datasets_are_filtered_and_paged(store: MetadataStore) -> None:
    for number in range(7):
        ref = DatasetRef(connection="lake" if number % 2 else "shop", object=f"t{number}")
        tags = ("even",) if number % 4 == 0 else ()
        store.put_dataset(
            SchemaObserved(dataset=ref, schema_=V1, tags=tags, kind="view" if number > 4 else "table"),
            at=START,
            offset=number,
        )
    everything = [f"{d.connection}:{d.object}" for d in store.datasets().items]
    assert everything == ["lake:t1", "lake:t3", "lake:t5", "shop:t0", "shop:t2", "shop:t4", "shop:t6"]
    first = store.datasets(limit=4)
    second = store.datasets(limit=4, after=first.after)
    assert [f"{d.connection}:{d.object}" for d in first.items + second.items] == everything
    assert second.after is None
    assert [d.object for d in store.datasets(tag="even").items] == ["t0", "t4"]
    assert [d.object for d in store.datasets(connection="shop", kind="view").items] == ["t6"]


@pytest.mark.parametrize("limit", [0, -1, 1001])
def test_the_limit_of_a_page_is_checked(store: MetadataStore, limit: int) -> None:
    with pytest.raises(UsageError, match="must be 1 to 1000"):
        store.datasets(limit=limit)


def test_a_wrong_cursor_is_refused(store: MetadataStore) -> None:
    with pytest.raises(UsageError, match="is not a cursor"):
        store.runs(after="x")


# --- mappings


def test_mappings_are_versioned(store: MetadataStore) -> None:
    target = DatasetRef(connection="lake", object="orders")
    mapping = SchemaMapping(
        name="orders", source=ORDERS, target=target, fields=(FieldMapping(target="id", sources=("id",)),)
    )
    assert store.put_mapping(mapping, at=START, actor="ann", offset=1).version == 1
    second = mapping.model_copy(update={"fields": ()})
    assert store.put_mapping(second, at=minutes(1), actor="bob", offset=2).version == 2
    assert SchemaMapping.parse(store.mapping("orders", 1).mapping) == mapping
    assert store.mapping("orders").actor == "bob"
    assert [(m.name, m.version) for m in store.mappings().items] == [("orders", 2)]


# --- pipelines


def change(name: str, uid: str, version: int, doc: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "uid": uid, "version": version, "pipeline": doc}


def test_pipelines_and_their_versions(store: MetadataStore, fold: Fold, fact: Fact) -> None:
    fold(
        fact("pipeline.created", change("orders", "u1", 1, document("orders", tier="gold"))),
        fact("pipeline.created", change("users", "u2", 1, document("users")), minute=1),
        fact("pipeline.updated", change("orders", "u1", 2, document("orders", tier="silver")) | {"by": "bo"}, minute=2),
        fact(
            "pipeline.status_changed", {"name": "orders", "uid": "u1", "before": "active", "status": "paused"}, minute=3
        ),
    )
    orders = store.pipeline("orders")
    assert (orders.version, orders.status, orders.owner, orders.labels) == (2, "paused", "ann", {"tier": "silver"})
    assert (orders.created_at, orders.updated_at) == (START, minutes(3))
    assert [(v.version, v.actor) for v in store.pipeline_versions("orders")] == [(1, "user:ann"), (2, "bo")]
    assert [p.name for p in store.pipelines().items] == ["orders", "users"]
    assert [p.name for p in store.pipelines(status="active").items] == ["users"]
    assert [p.name for p in store.pipelines(label=("tier", "silver")).items] == ["orders"]
    assert not store.pipelines(label=("tier", "gold")).items
    assert {str(DatasetRef(connection=d.connection, object=d.object)) for d in store.datasets().items} == {
        "shop:public.orders",
        "lake:orders",
        "shop:public.users",
        "lake:users",
    }
    assert orders.source == dataset_id("shop", "public.orders")


def test_a_deleted_pipeline_leaves_the_list_and_keeps_its_history(
    catalog: str, store: MetadataStore, fold: Fold, fact: Fact
) -> None:
    fold(
        fact("pipeline.created", change("orders", "u1", 1, document("orders"))),
        fact("pipeline.deleted", {"name": "orders", "uid": "u1"}),
        fact("pipeline.created", change("orders", "u2", 1, document("orders"))),
    )
    assert store.pipeline("orders").uid == "u2"
    assert len(store.pipelines().items) == 1
    with psycopg.connect(catalog) as session:
        assert session.execute("SELECT uid FROM catalog.pipeline_versions ORDER BY uid").fetchall() == [
            ("u1",),
            ("u2",),
        ]
    fold(fact("pipeline.deleted", {"name": "orders", "uid": "u2"}))
    with pytest.raises(NotFound):
        store.pipeline("orders")


def test_an_unknown_pipeline_is_reported_with_the_nearest_name(store: MetadataStore, fold: Fold, fact: Fact) -> None:
    fold(fact("pipeline.created", change("orders", "u1", 1, document("orders"))))
    with pytest.raises(NotFound, match="did you mean `orders`"):
        store.pipeline("order")


# --- history


def decision(agent: str, subject: str, **more: Any) -> AgentDecision:
    return AgentDecision(agent=agent, rules=1, action="assign", subject=subject, reason="it has room", **more)


def logged(store: MetadataStore, made: AgentDecision, offset: int) -> Decision:
    payload = made.to_dict()
    record = Record(type="agent.decided", key=made.subject, at=minutes(offset), actor="agent", payload=payload)
    store.write([(offset, record)])
    return store.decision(record.id)


def test_decisions_are_logged_and_found(store: MetadataStore) -> None:
    full = decision(
        "orchestrator", "orders", confidence=0.93, threshold=0.9, policy="abc", outcome="proposed", inputs={"n": 1}
    )
    found = logged(store, full, 11)
    assert AgentDecision.parse(found.decision) == full
    assert (found.agent, found.at, found.offset, found.outcome) == ("orchestrator", minutes(11), 11, "proposed")
    assert (found.confidence, found.threshold, found.policy) == (0.93, 0.9, "abc")


def test_decisions_are_listed_by_agent_subject_and_pipeline(store: MetadataStore, fold: Fold, fact: Fact) -> None:
    run = {"id": "r1", "pipeline": "orders", "version": 1, "status": "queued", "requested_at": START.isoformat()}
    fold(fact("run.created", {"run": run}))
    for offset, (agent, subject) in enumerate([("a", "orders"), ("b", "r1"), ("a", "users"), ("a", "orders")], 1):
        logged(store, decision(agent, subject), offset)
    assert [d.offset for d in store.decisions().items] == [4, 3, 2, 1]
    assert [d.offset for d in store.decisions(agent="a").items] == [4, 3, 1]
    assert [d.offset for d in store.decisions(subject="users").items] == [3]
    assert [d.offset for d in store.decisions(pipeline="orders").items] == [4, 2, 1]
    page = store.decisions(limit=2)
    assert [d.offset for d in store.decisions(limit=2, after=page.after).items] == [2, 1]


def test_runs_tasks_and_errors(store: MetadataStore, fold: Fold, fact: Fact) -> None:
    run = {"id": "r1", "pipeline": "orders", "version": 3, "status": "queued", "requested_at": START.isoformat()}
    counters = {"rows_in": 5, "rows_out": 4, "dead": 1}
    oops = {"code": "unavailable", "what": "gone", "transient": True}
    assigned = {
        "task": "t1",
        "worker": "w",
        "attempt": 1,
        "kind": "pipeline",
        "pipeline": "orders",
        "uid": "u1",
        "run": "r1",
        "version": 3,
        "spec": pipeline("orders"),
        "connections": {},
    }
    fold(
        fact("run.created", {"run": run}),
        fact("task.queued", {"task": {"id": "t1", "kind": "pipeline", "pipeline": "orders", "run": "r1"}}),
        fact("task.assigned", assigned, minute=1),
        fact("task.started", {"task": "t1", "run": "r1", "attempt": 1, "worker": "w"}, minute=2),
        fact("task.failed", {"task": "t1", "attempt": 1, "worker": "w", "error": oops}, minute=3),
        fact("error.raised", {"source": "worker:w", "pipeline": "orders", "run": "r1", "error": oops}, minute=3),
        fact("task.completed", {"task": "t1", "attempt": 1, "worker": "w", "counters": counters}, minute=3),
        fact("task.assigned", assigned | {"attempt": 2}, minute=4),
        fact("task.completed", {"task": "t1", "attempt": 2, "worker": "w", "counters": counters}, minute=5),
        fact("run.finished", {"run": run | {"status": "completed", "counters": counters}}, minute=6),
    )
    found = store.run("r1")
    assert (found.status, found.attempts, found.uid, found.started_at) == ("completed", 2, "u1", minutes(2))
    assert found.counters == {"rows_in": 5, "rows_out": 4, "filtered": 0, "dead": 1, "bytes": 0}
    (task,) = store.tasks(run="r1").items
    assert (task.attempt, task.status, task.counters, task.error) == (2, "assigned", found.counters, None)
    assert [e.code for e in store.errors(pipeline="orders").items] == ["unavailable"]
    assert not store.errors(run="r2").items
    assert [r.id for r in store.runs(status="completed").items] == ["r1"]
    with pytest.raises(NotFound):
        store.run("r2")


def test_an_outcome_of_a_closed_attempt_changes_nothing(store: MetadataStore, fold: Fold, fact: Fact) -> None:
    assigned = {
        "task": "t1",
        "worker": "w",
        "attempt": 1,
        "kind": "pipeline",
        "pipeline": "orders",
        "uid": "u1",
        "version": 3,
        "spec": pipeline("orders"),
        "connections": {},
    }
    closed = {
        "task": "t1",
        "kind": "pipeline",
        "pipeline": "orders",
        "attempt": 1,
        "worker": "w",
        "status": "cancelled",
    }
    fold(
        fact("task.queued", {"task": {"id": "t1", "kind": "pipeline", "pipeline": "orders"}}),
        fact("task.assigned", assigned),
        fact("task.closed", closed),
        fact("task.completed", {"task": "t1", "attempt": 1, "worker": "w", "seconds": {"read": 1.0}}),
    )
    (task,) = store.tasks().items
    assert (task.status, task.seconds) == ("cancelled", None)


def test_policies_workers_and_connections(store: MetadataStore, fold: Fold, fact: Fact) -> None:
    policy = {"name": "default", "hash": "h1", "origin": "file", "policy": {"metadata": {"name": "default"}}}
    fold(
        fact("policy.accepted", policy),
        fact("policy.accepted", policy | {"hash": "h2"}, minute=1),
        fact("worker.joined", {"worker": "w1", "kinds": ["pipeline"], "slots": 2}),
        fact("worker.joined", {"worker": "w2", "kinds": ["pipeline"], "slots": 1}),
        fact("worker.lost", {"worker": "w1", "reason": "its lock is free"}, minute=2),
        fact("connection.changed", {"name": "shop", "version": 1, "connection": {"type": "postgres"}}),
        fact("connection.changed", {"name": "lake", "version": 1, "connection": {"type": "s3", "url": "s3://a"}}),
        fact("connection.deleted", {"name": "shop"}),
    )
    assert [(p.name, p.hash) for p in store.policies()] == [("default", "h2")]
    old = store.policy_by_hash("h1")
    assert old is not None
    assert old.at == START
    assert store.policy_by_hash("h3") is None
    assert [(w.worker, w.status, w.lost_at) for w in store.workers()] == [
        ("w1", "lost", minutes(2)),
        ("w2", "joined", None),
    ]
    assert [(c.name, c.type) for c in store.connections()] == [("lake", "s3")]


# --- commands


def test_a_command_is_pending_then_answered(store: MetadataStore, fold: Fold, fact: Fact) -> None:
    with pytest.raises(NotFound):
        store.command("c1")
    fold(fact("pipeline.pause", {"name": "orders"}, id="c1"), fact("pipeline.pause", {"name": "x"}, id="c2"))
    assert store.command("c1").status == "pending"
    fold(
        fact("command.applied", {"command": "c1", "result": {"version": 2}}, minute=1),
        fact("command.refused", {"command": "c2", "code": "not_found", "what": "no such pipeline", "exit_code": 3}),
    )
    applied, refused = store.command("c1"), store.command("c2")
    assert (applied.status, applied.result, applied.answered_at, applied.answer) == (
        "applied",
        {"version": 2},
        minutes(1),
        2,
    )
    assert (refused.status, refused.result) == ("refused", None)
    assert refused.refusal == {"code": "not_found", "what": "no such pipeline", "issues": [], "exit_code": 3}


def test_a_repeated_command_keeps_its_answer_for_a_day(store: MetadataStore, fold: Fold, fact: Fact) -> None:
    fold(fact("run.start", {"pipeline": "orders"}, id="c1"), fact("command.applied", {"command": "c1"}))
    fold(fact("run.start", {"pipeline": "orders"}, id="c1", minute=24 * 60))
    assert (store.command("c1").status, store.command("c1").offset) == ("applied", 0)
    fold(fact("run.start", {"pipeline": "orders"}, id="c1", minute=24 * 60 + 1))
    assert (store.command("c1").status, store.command("c1").offset) == ("pending", 3)


# --- snapshots


def test_snapshots_round_trip(store: MetadataStore) -> None:
    state = {"z": 1, "a": [1.5, None, "\x00 ü"], "deep": {"n": 2**60}}
    store.save_snapshots([Snapshot("lifecycle", 7, 2, state), Snapshot("monitor", 8, 1, {})])
    store.save_snapshots([Snapshot("monitor", 9, 1, {"seen": 3})])
    found = store.load_snapshots()
    assert found == {"lifecycle": Snapshot("lifecycle", 7, 2, state), "monitor": Snapshot("monitor", 9, 1, {"seen": 3})}
    assert list(found["lifecycle"].state) == ["z", "a", "deep"]


# --- invalid records


def test_unreadable_records_are_reported_and_skipped(store: MetadataStore, fold: Fold, fact: Fact) -> None:
    good = {"worker": "w1", "kinds": ["pipeline"], "slots": 2}
    fold(
        fact("worker.joined", good | {"slots": "two"}),
        fact("worker.joined", good),
        fact("worker.joined", good | {"worker": "w2"}, version=99),
        Record(type="later.invented", key="k", at=START, actor="x", payload={}),
    )
    assert [w.worker for w in store.workers()] == ["w1"]
    (problem,) = store.errors().items
    assert (problem.code, problem.source, problem.offset) == ("record.unreadable", "log", 0)


def test_the_character_nul_does_not_stop_the_projection(store: MetadataStore, fold: Fold, fact: Fact) -> None:
    fold(
        fact("error.raised", {"source": "w", "error": {"code": "a\x00b", "what": "\\u0000 stays, \x00 goes"}}, id="e1")
    )
    (found,) = store.errors().items
    assert found.code == "a\ufffdb"
    assert found.error["what"] == "\\u0000 stays, \ufffd goes"


def test_a_snapshot_keeps_numbers_of_any_size(store: MetadataStore) -> None:
    state = {"agent": {"small": 1, "large": 2**80, "text": "ä"}}
    store.save_snapshots([Snapshot("a", 5, 1, state)])
    assert store.load_snapshots()["a"].state == state


def test_a_run_shows_the_notes_of_its_task(store: MetadataStore, fold: Callable[..., int], fact: Fact) -> None:
    run = {"id": "r1", "pipeline": "orders", "version": 1, "status": "queued", "requested_at": START}
    assigned = {
        "task": "t1", "kind": "pipeline", "pipeline": "orders", "uid": "u1", "run": "r1", "attempt": 1, "worker": "w",
        "version": 1, "spec": pipeline("orders"), "connections": {},
    }  # fmt: skip
    fold(fact("run.created", {"run": run}), fact("task.assigned", assigned))
    assert store.run("r1").notes is None
    note = "12 rows have a cursor later than now (`at`)"
    fold(fact("task.completed", {"task": "t1", "run": "r1", "attempt": 1, "worker": "w", "notes": [note]}))
    assert store.run("r1").notes == [note]


def test_a_stopped_run_reports_its_committed_rows(store: MetadataStore, fold: Callable[..., int], fact: Fact) -> None:
    run = {"id": "r1", "pipeline": "orders", "version": 1, "status": "queued", "requested_at": START}
    halted = {"task": "t1", "run": "r1", "attempt": 1, "worker": "w", "counters": {"rows_in": 7, "rows_out": 7}}
    fold(fact("run.created", {"run": run}))
    fold(fact("run.finished", {"run": {**run, "status": "stopped"}}), fact("task.halted", halted))
    assert store.run("r1").counters["rows_out"] == 7
    done = {**run, "status": "completed", "resumed": True, "counters": {"rows_in": 9, "rows_out": 9}}
    fold(fact("run.finished", {"run": done}), fact("task.halted", halted))
    assert (store.run("r1").counters["rows_out"], store.run("r1").resumed) == (9, True)


def by_discovery(store: MetadataStore, schema: Schema, minute: int) -> Dataset:
    return store.put_dataset(
        SchemaObserved(dataset=ORDERS, schema_=schema, discovered=True), at=minutes(minute), offset=minute
    )


FULL = Schema(
    fields=(
        Field(name="id", type="bigint", nullable=False, default="nextval('s')", description="number of the order"),
        Field(name="customer", type="integer"),
        Field(name="address", type="jsonb", fields=(Field(name="city", type="text"),)),
    ),
    key=("id",),
    unique=(("customer",),),
    foreign=(ForeignKey(columns=("customer",), object="public.customers", references=("id",)),),
)


def bare(schema: Schema) -> Schema:
    """What a run sees of a schema."""
    return Schema(fields=tuple(Field(name=f.name, type=f.type, nullable=f.nullable) for f in schema.fields))


def test_what_a_run_does_not_see_of_a_schema_stays_known(store: MetadataStore) -> None:
    assert by_discovery(store, FULL, 1).version == 1
    assert observed(store, bare(FULL), 2).version == 1
    more = Schema(fields=(*bare(FULL).fields, Field(name="note", type="text")))
    assert observed(store, more, 3).version == 2
    assert store.schema_at(dataset_id("shop", "public.orders")).schema == FULL.model_copy(
        update={"fields": (*FULL.fields, Field(name="note", type="text"))}
    )
    less = Schema(fields=tuple(f for f in bare(FULL).fields if f.name != "customer"))
    assert observed(store, less, 4).version == 3
    now = store.schema_at(dataset_id("shop", "public.orders")).schema
    assert (now.key, now.unique, now.foreign) == (("id",), None, None)
    assert by_discovery(store, bare(FULL), 5).version == 4
    assert store.schema_at(dataset_id("shop", "public.orders")).schema == bare(FULL)


def test_what_a_discovery_sees_besides_is_no_change_of_what_a_run_has_seen(store: MetadataStore) -> None:
    without = Schema(fields=tuple(one.model_copy(update={"fields": None}) for one in FULL.fields), key=FULL.key)
    assert observed(store, bare(FULL), 1).version == 1
    assert by_discovery(store, without, 2).version == 1
    looked_into = without.model_copy(update={"fields": FULL.fields})
    assert by_discovery(store, looked_into, 3).version == 1, "nobody had looked into the document"
    (only,) = store.schema_history(dataset_id("shop", "public.orders"))
    assert (only.schema, only.at, only.offset) == (looked_into, minutes(1), 1)
    assert by_discovery(store, FULL, 4).version == 2, "the key is described, so a new one is a change"
    assert observed(store, Schema(fields=(*bare(FULL).fields, Field(name="note", type="text"))), 5).version == 3
    last = Schema(fields=(*FULL.fields, Field(name="note", type="text", default="'x'")), key=FULL.key)
    assert by_discovery(store, last, 6).version == 3
    assert [one.offset for one in store.schema_history(dataset_id("shop", "public.orders"))] == [1, 4, 5]


def test_a_version_says_who_has_seen_it_and_after_what(store: MetadataStore, fold: Fold, fact: Fact) -> None:
    payload = SchemaObserved(dataset=ORDERS, schema_=V1).to_dict()
    fold(fact("worker.joined", {"worker": "w", "kinds": ["pipeline"], "slots": 2}))
    offset = fold(fact("schema.observed", payload).replaced(actor="worker:w", cause=(0, 1)))
    found = store.schema_history(dataset_id("shop", "public.orders"))
    assert [(one.version, one.actor, one.cause, one.offset) for one in found] == [(1, "worker:w", 0, offset)]


def test_a_rule_is_kept_with_its_dataset(store: MetadataStore, fold: Fold, fact: Fact) -> None:
    rule = {"dataset": ORDERS.to_dict(), "compatibility": "full_transitive"}
    fold(fact("dataset.configured", rule))
    assert (store.dataset_of(ORDERS).compatibility, store.dataset_of(ORDERS).version) == ("full_transitive", None)
    fold(fact("schema.observed", SchemaObserved(dataset=ORDERS, schema_=V1).to_dict()))
    fold(fact("dataset.configured", rule | {"compatibility": "none"}))
    assert (store.dataset_of(ORDERS).compatibility, store.dataset_of(ORDERS).version) == ("none", 1)


def test_an_entry_shows_what_was_seen_last_and_keeps_what_nobody_denies(
    store: MetadataStore, fold: Fold, fact: Fact, catalog: str
) -> None:
    here, id_ = {"dataset": ORDERS.to_dict()}, dataset_id("shop", "public.orders")
    gone, seen = here | {"discovery": "d1"}, SchemaObserved(dataset=ORDERS, schema_=V1).to_dict()

    def after(type_: str, payload: dict[str, Any], minute: int) -> dict[str, Any]:
        fold(fact(type_, payload, minute=minute))
        with psycopg.connect(catalog, row_factory=psycopg.rows.dict_row) as session:
            found = session.execute("SELECT * FROM catalog.datasets WHERE id = %s", (id_,)).fetchone()
            hit = session.execute("SELECT gone FROM catalog.search_entries WHERE id = %s", (id_,)).fetchone()
        assert found is not None
        assert hit == {"gone": found["gone_at"] is not None}
        assert (found["first_at"], found["last_at"]) == (minutes(1), minutes(minute))
        return found

    row = after("dataset.gone", gone, 1)
    assert (row["kind"], row["version"], row["gone_at"]) == ("table", None, minutes(1))
    assert after("dataset.gone", gone, 2)["gone_at"] == minutes(1)
    row = after("schema.observed", seen | {"kind": "view", "description": "of \0 shops"}, 3)
    assert (row["kind"], row["description"], row["gone_at"]) == ("view", "of \ufffd shops", None)
    row = after("schema.observed", seen, 4)
    assert (row["kind"], row["description"], row["tags"]) == ("view", "of \ufffd shops", [])
    assert after("dataset.configured", here | {"compatibility": "full"}, 5)["kind"] == "view"
    row = after("schema.observed", seen | {"discovered": True, "tags": ["a", "b"]}, 6)
    assert (row["kind"], row["description"], row["tags"], row["version"]) == ("table", None, ["a", "b"], 1)
    assert after("schema.observed", seen, 7)["tags"] == ["a", "b"]
    row = after("dataset.profiled", here | {"profile": {"rows": 7, "bytes": 9}}, 8)
    assert (row["rows"], row["bytes"], row["tags"], row["profiled_at"]) == (7, 9, [], minutes(8))
    assert after("dataset.gone", gone, 9)["profiled_at"] == minutes(8)
    assert store.dataset_of(ORDERS).compatibility == "full"
