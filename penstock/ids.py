"""Identifiers: random ones for what happens once, named ones for what must be the same when it is repeated."""

from __future__ import annotations

from hashlib import sha1
from uuid import UUID, uuid4

NAMESPACE = UUID("6f1c2f43-6f0e-5c0a-9d51-70656e73746f")
"""The namespace of all named ids of Penstock."""


def new_id() -> str:
    """Return a random id (UUID 4)."""
    return str(uuid4())


def named_id(*parts: object) -> str:
    """Return the id of `parts` (UUID 5, RFC 9562): the same parts give the same id on every machine.

    Written out here because each record of a decision needs one, and `uuid.uuid5` takes four times as long.
    """
    digest = sha1(NAMESPACE.bytes + "\x1f".join(map(str, parts)).encode(), usedforsecurity=False).hexdigest()
    variant = "89ab"[int(digest[16], 16) & 3]
    return f"{digest[:8]}-{digest[8:12]}-5{digest[13:16]}-{variant}{digest[17:20]}-{digest[20:32]}"


def command_id(actor: str, idempotency_key: str) -> str:
    """Return the id of a command: a repeat with the same key by the same actor is the same command."""
    return named_id("command", actor, idempotency_key)
