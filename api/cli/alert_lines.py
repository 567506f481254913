"""Alerts as lines, for the pages of their pipelines. Loads no model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from api.cli.console import escape
from catalog.alerts import Alert
from penstock.clock import now

__all__ = ["alert_lines", "quiet_words"]

COLORS: Final = {"critical": "red", "warning": "yellow"}


def alert_lines(found: Sequence[Alert]) -> Iterator[str]:
    """Yield a line for each alert, for the page of its pipeline."""
    for one in found:
        color, more = COLORS[one.severity], quiet_words(one)
        text = f"since {one.since:%Y-%m-%d %H:%M} UTC: {one.summary}" + (f"; {more}" if more else "")
        yield f"[{color}]{one.severity} alert {one.id[:8]}[/{color}] {escape(text)}"


def quiet_words(one: Alert) -> str:
    """Return until when an alert is snoozed, and by whom; empty if it is not."""
    until = one.snoozed_until(now())
    return f"snoozed until {until:%Y-%m-%d %H:%M} UTC" if until is not None else ""
