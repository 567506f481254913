"""Identifiers: random ones for what happens once, named ones for what must come out the same when it is repeated."""

from __future__ import annotations

from uuid import UUID, uuid4, uuid5

NAMESPACE = UUID("6f1c2f43-6f0e-5c0a-9d51-70656e73746f")
"""The namespace of all named ids of Penstock."""


def new_id() -> str:
    """A random id (UUID 4)."""
    return str(uuid4())


def named_id(*parts: object) -> str:
    """The id of `parts` (UUID 5): the same parts give the same id, on every machine."""
    return str(uuid5(NAMESPACE, "\x1f".join(str(part) for part in parts)))


def command_id(actor: str, idempotency_key: str) -> str:
    """The id of a command: a repeat with the same key by the same actor is the same command."""
    return named_id("command", actor, idempotency_key)
