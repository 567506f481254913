"""The only reader of the time. Everything that decides gets its time from a record; only edges call `now`."""

from datetime import UTC, datetime


def now() -> datetime:
    """The present in UTC, to the microsecond."""
    return datetime.now(UTC)
