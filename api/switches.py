"""Which agents are halted, as the catalog has it."""

from __future__ import annotations

from shlex import quote
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from catalog.store import MetadataStore

__all__ = ["is_halted", "resume_hint"]

ALL: Final = "*"
"""In place of an agent's name: all of them."""


def is_halted(store: MetadataStore, agent: str) -> bool:
    """True if the agent, or all of them, may not act on its own."""
    return max(_last(store, agent), _last(store, ALL))[1]


def resume_hint(store: MetadataStore, agent: str) -> str:
    """Return the command that lets a halted agent act again."""
    return "penstock agents resume" if _last(store, ALL)[1] else f"penstock agents resume {quote(agent)}"


def _last(store: MetadataStore, agent: str) -> tuple[int, bool]:
    """Return offset and effect of the last switch of an agent; (-1, False) before the first one."""
    found = store.decisions(agent="lifecycle", subject=f"agent {agent}", outcome="acted", limit=1).items
    return (found[0].offset, found[0].action == "halt") if found else (-1, False)
