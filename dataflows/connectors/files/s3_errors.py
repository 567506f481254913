"""Translation of an object store's errors; their messages are left out, as they quote requests."""

from __future__ import annotations

import re
from typing import Final

from obstore.exceptions import NotSupportedError, PermissionDeniedError, UnauthenticatedError

from dataflows.connectors.files.store import Gone
from penstock.errors import UNKNOWN_HOST, AccessDenied, NotFound, PenstockError, Refused, Unavailable, Unreachable

__all__ = ["translation"]

Meaning = tuple[type[PenstockError], str, str]
_REGION: Final[Meaning] = (
    Refused,
    "the bucket is in another region",
    "set its `region`, or the endpoint of that region, in the connection",
)
_KEY: Final[Meaning] = (
    AccessDenied,
    "the object store does not know the access key",
    "check `access_key` and `session_token`",
)
_DENIED: Final[Meaning] = (
    AccessDenied,
    "the object store refuses access",
    "check the keys and their permissions in this bucket",
)
_CODES: Final[dict[str, Meaning]] = {
    "NoSuchBucket": (Refused, "there is no such bucket", "check `url`, `endpoint` and `region`, or create the bucket"),
    "InvalidBucketName": (Refused, "the bucket's name is not valid", "check `url`"),
    "InvalidAccessKeyId": _KEY,
    "XAdminUserNotFound": _KEY,
    "ExpiredToken": _KEY,
    "InvalidToken": _KEY,
    "SignatureDoesNotMatch": (AccessDenied, "the secret key does not belong to the access key", "check `secret_key`"),
    "RequestTimeTooSkewed": (AccessDenied, "the object store's clock and this machine's differ", "set this clock"),
    "PermanentRedirect": _REGION,
    "AuthorizationHeaderMalformed": _REGION,
    "IllegalLocationConstraintException": _REGION,
}
"""Permanent errors, by the server's code."""
_KINDS: Final[tuple[tuple[tuple[type[Exception], ...], Meaning], ...]] = (
    ((FileNotFoundError,), (Gone, "the object is gone", "run it again")),
    ((PermissionDeniedError, UnauthenticatedError, PermissionError), _DENIED),
    (
        (NotSupportedError, NotImplementedError),
        (Refused, "the object store cannot do this", "sinks need PUT with If-None-Match"),
    ),
)
_TEXTS: Final[tuple[tuple[str, Meaning], ...]] = (
    (r"status code: 40[13]", _DENIED),  # the client has a type for it only in requests for one path
    (
        "parse path",
        (Refused, "an object's name is not valid", "names have no empty parts, `.` or `..` between their slashes"),
    ),
    (
        "|".join(UNKNOWN_HOST),
        (NotFound, "there is no such host", "correct the host in `endpoint`, or `region`"),
    ),
    (
        "InvalidCertificate",
        (
            Refused,
            "the object store's certificate is not accepted",
            "renew it there, or let this machine trust its authority",
        ),
    ),
    (
        "sending request",
        (Unreachable, "the object store cannot be reached", "check the endpoint, and that the server is up"),
    ),
    (
        "400 Bad Request|301 Moved",
        (Refused, "the object store refuses the request", "check `region`, `endpoint` and the keys"),
    ),
)
_FAILED: Final[Meaning] = (Unavailable, "the object store failed", "try again")


def translation(error: Exception, where: str, path: str | None = None) -> PenstockError:
    """Return the error to raise for an error of the client."""
    text = str(error)
    code = match[1] if (match := re.search(r"<Code>(\w+)</Code>", text)) else ""
    by_kind = (one for kinds, one in _KINDS if isinstance(error, kinds))
    by_text = (one for pattern, one in _TEXTS if re.search(pattern, text))
    kind, what, hint = _CODES.get(code) or next(by_kind, None) or next(by_text, _FAILED)
    return kind(what, where=where, value=path, hint=hint)
