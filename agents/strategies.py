"""Strategies against a failure: which ones there are, and how likely each is to help.

A strategy's confidence is its prior, moved by what was learned about errors of the same fingerprint.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from agents.retries import is_worth_retrying
from penstock.models.pipeline import Limits

__all__ = ["Strategy", "learned", "proposal_of", "strategies"]

WEIGHT: Final = 20
"""So many outcomes count as much as the prior."""
REMEMBERED: Final = 500
"""Fingerprints whose outcomes are remembered: those that were seen last."""
REPEATS_TO_PAUSE: Final = 4
"""A pipeline that was refused so often before, run after run, is paused: systems lock accounts."""
LEAST_ROWS: Final = 1024
LONGEST_STALL: Final = 1800
"""Bounds of what is adjusted: rows of a chunk, and seconds without movement."""


@dataclass(frozen=True, slots=True)
class Strategy:
    """One strategy, its confidence, why it may help, and the values that it sets, by their path below `spec`."""

    action: str
    confidence: float
    what: str
    set: Mapping[str, Any] = field(default_factory=dict)


def proposal_of(one: Strategy) -> dict[str, Any]:
    """Return a strategy as it is proposed to a person."""
    values = {"set": dict(one.set)} if one.set else {}
    return {"action": one.action, "confidence": one.confidence, "what": one.what} | values


def strategies(
    failed: Mapping[str, Any], spec: Mapping[str, Any], outcomes: Mapping[str, Any], *, left: bool, repeats: int
) -> list[Strategy]:
    """Return the strategies against a failure, the most promising first.

    `failed` is its ``task.failed``, `spec` that of the pipeline, `outcomes` what was learned of each strategy;
    `left` is True while the budget of attempts lasts, `repeats` the failures before it that its incident has.
    """
    found = _possible(failed, spec, left=left, repeats=repeats)
    moved = (Strategy(one.action, _confidence(one, outcomes), one.what, one.set) for one in found)
    return sorted(moved, key=lambda one: -one.confidence)


def _possible(failed: Mapping[str, Any], spec: Mapping[str, Any], *, left: bool, repeats: int) -> Iterator[Strategy]:
    error, found = failed["error"], failed["classified"]
    if is_worth_retrying(error) and left:
        yield Strategy("retry", 0.95, "the cause may pass: a new attempt opens new sessions and reads secrets again")
    if found["kind"] == "permission" and repeats >= REPEATS_TO_PAUSE:
        what = f"the login was refused {repeats + 1} times in a row; systems lock accounts after more"
        yield Strategy("pause", 0.85, what)
    yield from _adjustments(error, found, Limits.parse(spec.get("limits") or {}))
    yield from _skipping(error, failed.get("counters") or {}, (spec.get("errors") or {}).get("dead_letter") or {})


def _adjustments(error: Mapping[str, Any], found: Mapping[str, Any], limits: Limits) -> Iterator[Strategy]:
    rows, workers, seconds = limits.batch_rows, limits.workers, int(limits.stalled.total_seconds())
    if error["code"] == "memory.exceeded" and rows > LEAST_ROWS:
        less = max(LEAST_ROWS, rows // 4)
        yield Strategy("adjust_config", 0.75, f"chunks of {less} rows need less memory", {"limits.batch_rows": less})
    elif error["code"] == "unavailable.stalled":
        if seconds < LONGEST_STALL:
            longer = min(LONGEST_STALL, 2 * seconds)
            what = f"the other side may need longer than {seconds} s"
            yield Strategy("adjust_config", 0.6, what, {"limits.stalled": f"{longer}s"})
    elif workers > 1 and found["kind"] == "resource" and "connection" in error["what"]:
        yield Strategy("adjust_config", 0.75, "fewer processes need fewer sessions", {"limits.workers": workers // 2})


def _skipping(error: Mapping[str, Any], counters: Mapping[str, Any], letters: Mapping[str, Any]) -> Iterator[Strategy]:
    dead, rows = counters.get("dead", 0), counters.get("rows_in", 0)
    if error["code"] == "data.too_many_refused" and dead and rows and letters.get("fail_above") != 1.0:
        share = min(1.0, -(-dead * 100 // rows) / 100)
        what = f"{dead} of {rows} rows are in the dead letters; a higher `fail_above` lets the others pass"
        yield Strategy("skip_record", 0.6, what, {"errors.dead_letter.fail_above": share})


def _confidence(one: Strategy, outcomes: Mapping[str, Any]) -> float:
    resolved, failed = outcomes.get(one.action, (0, 0))
    return float(round((one.confidence * WEIGHT + resolved) / (WEIGHT + resolved + failed), 4))


def learned(known: Mapping[str, Any], fingerprint: str, action: str, *, resolved: bool) -> dict[str, Any]:
    """Return what is known of fingerprints with one more outcome of a strategy; the oldest one is forgotten."""
    others = {key: one for key, one in known.items() if key != fingerprint}
    before = known.get(fingerprint, {})
    good, bad = before.get(action, (0, 0))
    if good + bad >= WEIGHT:  # what was long ago counts less
        good, bad = good // 2, bad // 2
    after = {**before, action: [good + resolved, bad + (not resolved)]}
    while len(others) >= REMEMBERED:
        del others[next(iter(others))]
    return {**others, fingerprint: after}
