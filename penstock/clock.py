"""The only reader of the clock. What decides takes its time from a record; only the edges call `now`."""

from datetime import UTC, datetime


def now() -> datetime:
    """Return the current time in UTC, to the microsecond."""
    return datetime.now(UTC)
