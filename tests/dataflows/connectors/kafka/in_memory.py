"""A topic of states and its transactions in memory: what a sink of topics keeps, without a broker."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from dataflows.connectors.contract import Place
from dataflows.connectors.kafka import state as module
from dataflows.connectors.kafka.transactions import Transactions
from penstock.errors import Unavailable

__all__ = ["StateTopic"]


class StateTopic:
    """What was committed, by pipeline and key, and who has taken over each transactional id last."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.id: str | None = None
        self.committed: dict[tuple[str, Any], str] = {}
        self.newest: dict[str, int] = {}
        self.done: list[Any] = []
        monkeypatch.setattr(module, "Ledger", self.ledger)
        monkeypatch.setattr(Transactions, "begun", self.begun)

    def ledger(self, _place: Place, uid: str, _where: str, _check: Callable[[], None]) -> Ledger:
        return Ledger(self, uid)

    def begun(self, _place: Place, name: str, _where: str, _check: Callable[[], None], **_: int) -> Transaction:
        self.done.append(("begun", name))
        self.newest[name] = self.newest.get(name, 0) + 1
        return Transaction(self, name)


class Ledger:
    """The records of one pipeline."""

    partition = 0

    def __init__(self, topic: StateTopic, uid: str) -> None:
        self.topic, self.uid, self.records = topic, uid, dict[Any, Any]()
        self.needed = False

    def refresh(self) -> None:
        assert self.topic.id is not None or not self.needed
        self.records.clear()
        self.records.update(
            {key: json.loads(text) for (of, key), text in self.topic.committed.items() if of == self.uid}
        )

    def key(self, key: Any) -> tuple[str, Any]:
        return self.uid, key

    def make(self) -> None:
        self.topic.id = self.topic.id or "made"

    def exists(self) -> bool:
        return self.topic.id is not None

    def identity(self) -> str | None:
        return self.topic.id

    def forget(self) -> None:
        self.records.clear()

    def close(self) -> None:
        self.topic.done.append("closed")


class Transaction:
    """A session of one transactional id: what it has sent is there once it has committed, unless a newer one began."""

    def __init__(self, topic: StateTopic, name: str) -> None:
        self.topic, self.name, self.number = topic, name, topic.newest[name]
        self.sent: dict[Any, bytes | None] = {}

    def send(self, _topic: str, value: bytes | None, key: Any, _partition: int) -> None:
        self.sent[key] = value

    def commit(self) -> None:
        if self.topic.newest[self.name] != self.number:
            raise Unavailable("another producer has its id", where="here")
        for key, value in self.sent.items():
            if value is None:
                self.topic.committed.pop(key, None)
            else:
                self.topic.committed[key] = value.decode()
        self.topic.done.append(("committed", self.name))

    def close(self) -> None:
        self.topic.done.append(("closed", self.name))
