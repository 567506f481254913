"""The words of a notice: a heading, and lines with what is known of the alert."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from penstock.models.base import duration_text
from penstock.models.notices import TRIAL, Notice

__all__ = ["MOST_CHARACTERS", "body_of", "facts_of", "heading_of"]

MOST_CHARACTERS: Final = 500
"""Characters of a heading or of one fact; what is longer is cut off."""
FACTS: Final = (
    "pipeline",
    "connection",
    "kind",
    "metric",
    "part",
    "value",
    "expected",
    "since",
    "reason",
    "hint",
    "alert",
)
"""What is said of an alert, in this order."""


def heading_of(notice: Notice) -> str:
    """Return one line: how bad it is, and what has happened."""
    if notice.event == TRIAL:
        return f"test: alerts reach the route {notice.route}"
    severity = str(notice.alert.get("severity") or "alert")
    state = {"alert.closed": "resolved", "alert.changed": f"now {severity}"}.get(notice.event, severity)
    return f"{state}: {_line(notice.alert.get('summary') or notice.alert.get('cause') or notice.about)}"


def facts_of(notice: Notice) -> Iterator[tuple[str, str]]:
    """Yield what is known of the alert, each with its name."""
    for name in FACTS:
        if (value := notice.alert.get(name)) not in (None, ""):
            yield name, _line(_shown(name, value))
    if isinstance(lasted := notice.alert.get("lasted_s"), int | float):
        yield "lasted", duration_text(timedelta(seconds=round(lasted)))


def body_of(notice: Notice) -> dict[str, Any]:
    """Return the JSON document that a webhook gets."""
    known = {name: value for name, value in notice.alert.items() if value is not None}
    return {"id": notice.id, "event": notice.event, "at": notice.at.isoformat(), "alert": known}


def _shown(name: str, value: object) -> str:
    if name == "since":
        with suppress(ValueError):
            return f"{datetime.fromisoformat(str(value)).astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _line(text: object) -> str:
    """Return a text as one line of at most `MOST_CHARACTERS`."""
    words = " ".join(str(text).split())
    return words if len(words) <= MOST_CHARACTERS else f"{words[: MOST_CHARACTERS - 2]} …"
