"""Points in time as people write them in an option: ISO 8601, or how long ago."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from penstock.clock import now
from penstock.errors import UsageError

__all__ = ["moment"]


def moment(text: str, where: str, *, hint: str = "write 2026-01-31T12:00:00Z, or 10m") -> datetime:
    """Return the time that the option `where` names; without a zone it is in UTC. Raises UsageError."""
    units = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
    try:
        if found := re.fullmatch(r"(\d+)([smhd])", text):
            return now() - timedelta(**{units[found[2]]: int(found[1])})
        at = datetime.fromisoformat(text)
    except (ValueError, OverflowError) as error:
        raise UsageError("is not a time or duration", where=where, value=text, hint=hint) from error
    return at if at.tzinfo else at.replace(tzinfo=UTC)
