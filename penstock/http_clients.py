"""What all clients of HTTP need: how long a server asks them to wait, and whether its certificate was not accepted."""

from __future__ import annotations

import ssl
from email.utils import parsedate_to_datetime

from penstock.clock import now

__all__ = ["certificate_error", "retry_after"]


def retry_after(text: str) -> float | None:
    """Return the seconds that the header ``Retry-After`` asks for, a number or a time; None if it is neither."""
    try:
        seconds = float(text) if text.isdigit() else (parsedate_to_datetime(text) - now()).total_seconds()
    except (ValueError, TypeError, OverflowError):
        return None
    return max(0.0, seconds)


def certificate_error(error: BaseException | None) -> ssl.SSLCertVerificationError | None:
    """Return the refusal of a certificate that has led to an error; None if nothing of that kind has."""
    while error is not None and not isinstance(error, ssl.SSLCertVerificationError):
        error = error.__cause__ or error.__context__
    return error
