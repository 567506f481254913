"""Messages that do not belong on a topic: mutated records of every type, and bytes that are no record at all."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, Final

from penstock.records.families import TYPES
from penstock.topics.log import Message
from tests.agents.control_plane import ERROR, pipeline, policy, postgres

AT: Final = "2026-01-01T00:00:00Z"
RUN: Final = {"id": "r9", "pipeline": "ghost", "version": 1, "status": "queued", "requested_at": AT}
ATTEMPT: Final = {"task": "t9", "run": "r9", "attempt": 1, "worker": "nobody"}
ENDED: Final = {"task": "t9", "kind": "pipeline", "pipeline": "ghost", "attempt": 1, "status": "completed"}
PAGE: Final = {"name": "ghost", "uid": "u9", "version": 1, "task": "t9", "page": 0, "last": True}
DECISION: Final = {"agent": "lifecycle", "rules": 1, "action": "x", "subject": "ghost", "reason": "none"}
PIPELINE: Final = {"name": "ghost", "uid": "u9", "version": 1, "pipeline": pipeline("ghost")}
CHECK: Final = {
    "name": "ghost",
    "uid": "u9",
    "source_rows": 2,
    "target_rows": 1,
    "missing": 1,
    "agree": False,
    "since": "7",
}
KEYS: Final = {"source_keys": 9, "target_keys": 10, "removed": 1, "returned": 0}
LETTERS: Final = {"action": "replay", "choice": {"ids": ["0a1b"]}, "fix": {"set": {"price": "0"}, "where": "price < 0"}}
SETTLED: Final = {"action": "replay", "chosen": 3, "written": 1, "filtered": 1, "refused": 1, "groups": {"0a1b": 2}}
DISCOVERY: Final = {"id": "d9", "connection": "ghost", "tables": ["*"]}
CLASSIFIED: Final = {
    "kind": "transient", "confidence": 0.9, "origin": "sink", "connection": "ghost", "fingerprint": "f9",
    "template": "nothing answers",
}  # fmt: skip
FAILURE: Final = {
    "id": "e9", "pipeline": "ghost", "run": "r9", "task": "t9", "attempt": 1, "error": ERROR, "classified": CLASSIFIED,
}  # fmt: skip
CHOSEN: Final = {
    "raised": "e9", "task": "t9", "pipeline": "ghost", "run": "r9", "attempt": 1, "fingerprint": "f9",
    "action": "retry", "reason": "none", "timer": "m9", "due": AT, "failures": 1,
}  # fmt: skip
DIAGNOSIS: Final = {"cause": "none", "confidence": 0.5, "checks": [{"what": "x", "found": "ok", "evidence": "y"}]}
MEASURED: Final = {"run": "r9", "pipeline": "ghost", "attempt": 1, "phase": "flow", "rows_in": 1, "stages": {"a": 1.0}}

SCORED: Final = {
    "pipeline": "ghost", "metric": "rows_out", "at": AT, "value": 1.0, "expected": 9.0, "spread": 1.0, "score": -8.0,
    "samples": 50, "run": "r9",
}  # fmt: skip
ALERT: Final = {
    "alert": "a9", "cause": "c9", "pipeline": "ghost", "kind": "volume", "metric": "rows_out", "severity": "warning",
    "summary": "x", "value": 1.0, "expected": 9.0, "score": -8.0, "since": AT, "routes": ["log"],
}  # fmt: skip

PAYLOADS: Final[dict[str, dict[str, Any]]] = {
    "connection.put": {"name": "spare", "connection": postgres("spare")},
    "connection.delete": {"name": "spare"},
    "dataset.configure": {"dataset": {"connection": "ghost", "object": "a.b"}, "compatibility": "full"},
    "pipeline.apply": {"pipeline": pipeline("spare"), "expect": None},
    "pipeline.pause": {"name": "spare"},
    "pipeline.resume": {"name": "spare"},
    "pipeline.stop": {"name": "spare"},
    "pipeline.drain": {"name": "spare"},
    "pipeline.delete": {"name": "spare", "drop_table": False},
    "pipeline.rollback": {"name": "spare", "to": 1},
    "run.start": {"pipeline": "spare", "reload": {"rows": "all"}},
    "run.trigger": {"pipeline": "spare"},
    "set.accept": {"name": "spare", "objects": ["public.a"]},
    "change.answer": {"name": "spare", "ids": ["c9"], "approve": True},
    "check.start": {"name": "spare", "since": "7d"},
    "deletes.start": {"name": "spare", "limit": 0.5},
    "letters.start": {"name": "spare", **LETTERS},
    "discovery.start": {"connection": "spare", "tables": ["public.*"], "except": [], "sample_rows": 0},
    "route.try": {"route": "spare"},
    "discovery.started": {"discovery": DISCOVERY},
    "discovery.finished": {"id": "d9", "connection": "ghost", "status": "completed"},
    "dataset.gone": {"dataset": {"connection": "ghost", "object": "a.b"}, "discovery": "d1"},
    "dataset.profiled": {"dataset": {"connection": "ghost", "object": "a.b"}, "profile": {"rows": 7}},
    "files.found": {"name": "ghost", "uid": "u9", "task": "t9", "round": 1, "count": 2, "files": ["in/a.csv"]},
    "trigger.fired": {
        "name": "ghost", "uid": "u9", "fired": {"by": "files", "at": AT, "record": "f9", "count": 1, "files": ["a"]},
    },
    "policy.publish": {"policy": policy("spare"), "origin": "api"},
    "command.applied": {"command": "c9", "result": {"version": 1}},
    "command.refused": {"command": "c9", "code": "refused", "what": "x"},
    "connection.changed": {"name": "shop", "version": 7, "connection": {}},
    "connection.deleted": {"name": "shop"},
    "dataset.configured": {"dataset": {"connection": "ghost", "object": "a.b"}, "compatibility": "backward_transitive"},
    "pipeline.created": PIPELINE,
    "pipeline.updated": PIPELINE,
    "pipeline.status_changed": {"name": "ghost", "uid": "u9", "before": "active", "status": "paused"},
    "change.proposed": {
        "id": "c9", "name": "ghost", "uid": "u9", "run": "r9",
        "proposal": {"rule": "renames", "subject": "a", "to": "b", "confidence": 0.9},
    },
    "change.answered": {"id": "c9", "name": "ghost", "uid": "u9", "answer": "approved", "by": "nobody"},
    "pipeline.drained": {"name": "ghost", "uid": "u9"},
    "pipeline.deleted": {"name": "ghost", "uid": "u9"},
    "check.recorded": {**CHECK, "by": "nobody", "task": "t9", "error": ERROR},
    "deletes.recorded": {"name": "ghost", "uid": "u9", "task": "t9", "by": "nobody", "found": KEYS, "error": ERROR},
    "letters.recorded": {
        "name": "ghost", "uid": "u9", "task": "t9", "by": "nobody", "order": LETTERS, "found": SETTLED, "error": ERROR,
    },
    "policy.accepted": {"name": "p", "hash": "h", "origin": "file", "policy": policy("p")},
    "agent.decided": DECISION,
    "agent.faulted": {"agent": "lifecycle", "fault": "x", "record": "y"},
    "agent.halt": {"agent": "mapping"},
    "agent.resume": {"agent": None},
    "agent.halted": {"agent": "mapping", "by": "nobody"},
    "agent.resumed": {"agent": "mapping", "by": "nobody"},
    "log.sealed": {"begin": 0, "upto": 7, "digest": "0" * 64},
    "brain.started": {"agents": {"lifecycle": 1, "orchestrator": 2}, "release": "9"},
    "clock.set_back": {"seconds": 60.0},
    "worker.joined": {"worker": "nobody", "kinds": ["pipeline", "cleanup"], "slots": 2},
    "worker.lost": {"worker": "nobody", "reason": "x"},
    "task.queued": {"task": {"id": "t9", "kind": "pipeline", "pipeline": "ghost", "run": "r9"}},
    "tasks.aged": {"tasks": {"t9": 3}},
    "task.assigned": {
        **ATTEMPT, "kind": "pipeline", "pipeline": "ghost", "uid": "u9", "version": 1, "spec": pipeline("ghost"),
        "connections": {},
    },
    "task.cancelled": ENDED,
    "task.closed": ENDED,
    "timer.requested": {"timer": "m9", "due": AT, "subject": "t9"},
    "timer.fired": {"timer": "m9", "due": AT},
    "task.started": {**ATTEMPT, "pid": 7},
    "task.completed": {
        **ATTEMPT, "counters": {"rows_in": 2, "rows_out": 2}, "seconds": {"a": 0.1}, "notes": ["n"], "checked": CHECK,
        "deletes": KEYS, "letters": SETTLED,
    },
    "task.halted": ATTEMPT,
    "task.returned": ATTEMPT,
    "task.failed": {**ATTEMPT, "error": ERROR, "raised": "e9", "classified": CLASSIFIED},
    "diagnosis.requested": {"failure": FAILURE},
    "error.diagnosed": {
        "raised": "e9", "task": "t9", "pipeline": "ghost", "fingerprint": "f9", "diagnosis": DIAGNOSIS,
    },
    "strategy.chosen": CHOSEN,
    "strategy.ended": {"fingerprint": "f9", "pipeline": "ghost", "action": "retry", "outcome": "resolved"},
    "incident.opened": {"id": "i9", "pipeline": "ghost", "fingerprint": "f9", "kind": "data", "what": "x"},
    "incident.closed": {"id": "i9", "reason": "none"},
    "breaker.changed": {"connection": "ghost", "status": "open", "failures": 5, "reason": "x", "until": AT},
    "component.failed": {"component": "ghost", "subject": "x", "error": ERROR, "classified": CLASSIFIED},
    "component.recovered": {"component": "ghost", "subject": "x"},
    "error.raised": {"source": "nobody", "error": ERROR, "classified": CLASSIFIED},
    "run.created": {"run": RUN},
    "run.finished": {"run": {**RUN, "status": "completed", "finished_at": AT}},
    "run.progress": MEASURED,
    "schema.observed": {
        "dataset": {"connection": "ghost", "object": "a.b"}, "schema": {"fields": [{"name": "x", "type": "text"}]},
    },
    "objects.found": {
        **PAGE, "objects": [{"object": "public.a", "schema": "public", "table": "a", "key": ["id"], "identity": "1@x"}],
    },
    "objects.accepted": {"name": "ghost", "uid": "u9", "objects": ["public.a"], "by": "nobody"},
    "set.listed": {
        **PAGE, "members": ["ghost/public.a"], "refused": [{"object": "public.b", "reason": "none"}],
        "identities": {"ghost/public.a": "1@x"}, "renamed": {"ghost/public.c": "public.d"},
    },
    "set.started": {"name": "ghost", "uid": "u9", "group": "g9", "page": 0, "last": True, "runs": 1},
    "record.unreadable": {"offset": 1, "reason": "none", "size": 1},
    "alert.snooze": {"alert": "a9", "until": AT},
    "alert.silence": {"pipeline": "spare", "metric": "rows_out", "until": AT, "why": "none"},
    "series.scored": SCORED,
    "alert.opened": ALERT,
    "alert.changed": {**ALERT, "severity": "critical", "reason": "worse"},
    "alert.closed": {"alert": "a9", "cause": "c9", "pipeline": "ghost", "reason": "x", "summary": "y", "lasted_s": 1.5},
    "alert.snoozed": {"alert": "a9", "until": AT, "by": "nobody", "timer": "m9"},
    "alert.silenced": {"pipeline": "ghost", "until": AT, "by": "nobody", "timer": "m9"},
    "alert.delivered": {
        "alert": "a9", "event": "alert.opened", "route": "ghost", "notice": "n9", "status": "failed", "attempts": 1,
        "error": ERROR,
    },
}  # fmt: skip
"""A valid payload of every type, about things that never were."""
assert PAYLOADS.keys() == TYPES.keys()

DEEP: Final = json.loads("[" * 300 + "]" * 300)
NASTY: Final[list[Any]] = [
    None, True, -1, 0, 1.5, 1e308, 2**31, 2**63, 2**64, 10**400, "", " ", "\x00", "a\u202eb\x1b[2J", "x" * 5000,
    "../../x", "9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00+14:00", "1577836800", "2026-01-01T00:00:00", "ghost",
    "No Name", [], {}, [1], {"a": 1}, DEEP, {"x" * 5000: "\x00"},
]  # fmt: skip
BYTES: Final[list[bytes]] = [
    b"", b"{", b"[]", b"null", b"NaN", b"\xff\xfe", b"[" * 100_000, b"\x00" * 1000, b'"' + b"x" * 100_000,
    b'{"type":"worker.lost","key":"k","actor":"x","at":"2026-01-01T00:00:00Z","payload":{"worker":"w","reason":"r"}}',
    b'{"id":"a","type":"worker.lost","key":"\\ud800","actor":"x","at":"2026-01-01T00:00:00Z"}',
    b'{"id":"a","type":"worker.lost","key":"k","actor":"x","at":"2026-01-01T00:00:00Z","payload":{"worker":1e400}}',
    b'{"id":"a","type":"unreadable","key":"k","actor":"log","at":"2026-01-01T00:00:00Z"}',
]  # fmt: skip


def forgeries(seed: int, count: int, brain: int = 0) -> Iterator[Message]:
    """Yield `count` messages; `brain` is the generation that forged decisions claim."""
    chance = random.Random(seed)
    for number in range(count):
        value = chance.choice(BYTES) if chance.random() < 0.05 else _bytes(chance, _record(chance, number, brain, seed))
        at = chance.choice([datetime(2026, 1, 1, tzinfo=UTC), datetime(1, 1, 2, tzinfo=UTC)])
        yield Message(key=chance.choice([b"k", b"", b"\xff\x00", None]), value=value, at=at)


def _record(chance: random.Random, number: int, brain: int, seed: int) -> dict[str, Any]:
    type_ = chance.choice(sorted(TYPES))
    record: dict[str, Any] = {
        "id": f"forged-{seed}-{number}" if chance.random() < 0.9 else "forged",
        "kind": TYPES[type_].kind,
        "type": type_,
        "key": "ghost",
        "at": AT,
        "actor": "tests",
        "version": 1,
        "payload": copy.deepcopy(PAYLOADS[type_]),
    }
    if chance.random() < 0.5:
        agent = chance.choice(["lifecycle", "orchestrator", "unheard-of"])
        cause = [chance.choice([0, brain, brain + number, 2**62]), chance.choice([0, 1, 99, 2**40])]
        record |= {"actor": f"agent:{agent}", "brain": brain, "cause": cause}
    for _ in range(chance.choice([0, 1, 1, 2])):
        chance.choice(MUTATIONS)(chance, record)
    return record


def _nasty(chance: random.Random) -> Any:
    return copy.deepcopy(chance.choice(NASTY))


def _envelope(chance: random.Random, record: dict[str, Any]) -> None:
    name = chance.choice(["id", "kind", "type", "key", "at", "actor", "cause", "correlation", "traceparent", "version"])
    record[name] = chance.choice([*NASTY, 2, 10**12, "command", "event", "timer", *sorted(TYPES)])


def _less(chance: random.Random, record: dict[str, Any]) -> None:
    record.pop(chance.choice(sorted(record)))


def _value(chance: random.Random, record: dict[str, Any]) -> None:
    """Put something else at some place of the payload."""
    at = record.get("payload")
    while isinstance(at, dict) and at:
        name = chance.choice(sorted(at))
        if not isinstance(at[name], dict) or not at[name] or chance.random() < 0.3:
            at[name] = _nasty(chance)
            return
        at = at[name]


def _missing(chance: random.Random, record: dict[str, Any]) -> None:
    payload = record.get("payload")
    if isinstance(payload, dict) and payload:
        payload.pop(chance.choice(sorted(payload)))


def _more(chance: random.Random, record: dict[str, Any]) -> None:
    payload = record.get("payload")
    if isinstance(payload, dict):
        payload[chance.choice(["zz", "", "x\x00" * 500])] = _nasty(chance)


def _other(chance: random.Random, record: dict[str, Any]) -> None:
    record["payload"] = copy.deepcopy(chance.choice([*PAYLOADS.values(), *NASTY]))


MUTATIONS: Final[list[Callable[[random.Random, dict[str, Any]], None]]] = [
    _envelope, _less, _value, _value, _value, _missing, _more, _other,
]  # fmt: skip


def _bytes(chance: random.Random, record: dict[str, Any]) -> bytes:
    value = json.dumps(record).encode()
    match chance.random():
        case luck if luck < 0.03:
            return value[: chance.randrange(len(value))]
        case luck if luck < 0.06:
            place = chance.randrange(len(value))
            return value[:place] + bytes([chance.randrange(256)]) + value[place + 1 :]
    return value
