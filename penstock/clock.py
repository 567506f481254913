"""The only reader of the clock. Decisions take their time from a record; only code at the edges calls `now`."""

from datetime import UTC, datetime


def now() -> datetime:
    """Return the current time in UTC, to the microsecond."""
    return datetime.now(UTC)
