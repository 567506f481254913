"""The cause of a failure, by what was seen: pure rules, the most telling observation first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from penstock.models.failures import MOST_CHARACTERS, Check, Diagnosis, Failure, FailureKind

__all__ = ["diagnosed"]

_TELLING: Final[tuple[tuple[str, str, frozenset[FailureKind], str], ...]] = (
    ("secrets of", "", frozenset({"config", "permission", "transient", "bug"}), "set the secret that is named"),
    ("server of", "cannot be resolved", frozenset(), "correct the host in connections.yaml, or the name server"),
    ("server of", "", frozenset({"transient", "config"}), "start the server, or correct its address"),
    (
        "room",
        "",
        frozenset({"resource", "transient"}),
        "free some space, then run again: nothing was lost",
    ),
    ("login to", "", frozenset(), "correct user and password of the connection, or grant the privilege"),
    ("object ", "", frozenset({"schema", "config", "data", "permission"}), "create it, or correct its name"),
    ("columns of", "", frozenset({"schema"}), "look at what changed: penstock catalog diff"),
    ("columns of", " now (it was ", frozenset({"data"}), "look at what changed: penstock catalog diff"),
    ("locks on", "", frozenset({"transient"}), "let that session end its transaction, or end the session"),
    ("opening ", "", frozenset(), ""),
)
"""A part of what was checked, of what was seen, the kinds of errors that it explains (none: all), and what to do."""
_BOTH: Final = ("server of ", "login to ", "opening ")
"""What is checked of a side to know if it answers."""
SEEN: Final = 0.95
SAID: Final = 0.8
UNSURE: Final = 0.5
"""Confidence in a cause that was seen, that the system has said, and that it has said in words of no known kind."""


def diagnosed(failure: Failure, checks: Sequence[Check], seconds: float) -> Diagnosis:
    """Return the cause: what was seen to be wrong and explains the error, or else what the system itself has said."""
    wrong = [one for one in checks if one.found == "wrong"]
    error, kind = failure.error, failure.classified.kind
    for part, said, kinds, hint in _TELLING:
        for one in wrong:
            if one.what.startswith(part) and said in one.evidence and (not kinds or kind in kinds):
                cause = f"{one.what}: {one.evidence}"
                own = error.what.partition(", got ")[0]
                if own not in cause:
                    cause += f"; the run ended with: {error.what}"
                closer = error.hint if own in one.evidence else None  # the same was seen again
                return _of(cause, SEEN, closer or hint or error.hint, checks, seconds)
    place = (error.where or "").removeprefix(f"{failure.pipeline}: ")
    cause = f"{place}: {error.what}" if place else error.what
    confidence = SAID if failure.classified.confidence >= SAID else UNSURE
    return _of(cause + _over(checks, kind), confidence, error.hint, checks, seconds)


def _over(checks: Sequence[Check], kind: FailureKind) -> str:
    """Say that both sides answer, if they do after an error that passes."""
    both = [one for one in checks if one.what.startswith(_BOTH)]
    if kind == "transient" and both and all(one.found == "ok" for one in both):
        return "; when it was looked at, a moment later, both sides answered"
    return ""


def _of(cause: str, confidence: float, hint: str | None, checks: Sequence[Check], seconds: float) -> Diagnosis:
    clipped = hint[:MOST_CHARACTERS] if hint else None
    return Diagnosis(
        cause=cause[:MOST_CHARACTERS], confidence=confidence, hint=clipped, checks=tuple(checks), seconds=seconds
    )
