"""Rooms of an agent's state: a mapping of names to values, changed by a copy. Pure."""

from __future__ import annotations

from typing import Any

from agents.protocol import State

__all__ = ["put", "without"]


def put(state: State, room: str, key: str, value: Any) -> State:
    """Return the state with a value in a room."""
    return {**state, room: {**state[room], key: value}}


def without(state: State, room: str, key: str) -> State:
    """Return the state without a value in a room; the state itself if it is not there."""
    if key not in state[room]:
        return state
    left = dict(state[room])
    del left[key]
    return {**state, room: left}
