"""Clients of Amazon Kinesis: the settings of a connection as botocore takes them, and its errors as Penstock's.

Requests over Amazon's limits (five reads a second of each shard, for all its readers together) are answered by an error
that only says to wait; such requests are made again, and no run fails by them alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from email.utils import parsedate_to_datetime
from functools import cache
from typing import Any, Final

from dataflows.connectors.contract import Place
from penstock.clock import now
from penstock.errors import (
    AccessDenied,
    MissingTable,
    PenstockError,
    Refused,
    Unavailable,
    Unreachable,
    did_you_mean,
)
from penstock.models.connection import KinesisConnection
from penstock.models.secrets import resolve

__all__ = [
    "DENIED",
    "MAY_NOT",
    "PARALLEL",
    "THROTTLED",
    "Kinesis",
    "client_of",
    "code_of",
    "milliseconds",
    "refused_user",
    "stream_names",
    "unanswered",
]

CONNECT_SECONDS: Final = 5
READ_SECONDS: Final = 15
PATIENCE_SECONDS: Final = 60.0
"""Longest wait for an answer to a request that is over the limits."""
PAUSE_SECONDS: Final = 0.5
LONGEST_PAUSE_SECONDS: Final = 5.0
PARALLEL: Final = 8
"""Requests at once, at most."""
THROTTLED: Final = frozenset({
    "ProvisionedThroughputExceededException", "LimitExceededException", "ThrottlingException", "Throttling",
    "RequestLimitExceeded", "KMSThrottlingException", "TooManyRequestsException",
})  # fmt: skip
"""Answers that only say to wait."""
MAY_NOT: Final = "this user may not "
_UNKNOWN_USER: Final = {
    "UnrecognizedClientException", "InvalidClientTokenId", "InvalidSignatureException", "SignatureDoesNotMatch",
    "IncompleteSignatureException", "MissingAuthenticationTokenException", "ExpiredTokenException", "InvalidToken",
}  # fmt: skip
DENIED: Final = {"AccessDeniedException", "AccessDenied", "KMSAccessDeniedException"}


def milliseconds(answer: Mapping[str, Any]) -> int:
    """Return the server's time of an answer in milliseconds of Unix time, which is cut to seconds."""
    date = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
    moment = now() if date is None else parsedate_to_datetime(date)
    return int(moment.timestamp()) * 1000


def code_of(error: Exception) -> str:
    """Return the code of an answer that is an error; empty if it is something else."""
    answer = getattr(error, "response", None)
    return str(answer.get("Error", {}).get("Code", "")) if isinstance(answer, dict) else ""


class Kinesis:
    """Client of one stream; its methods may be called from several threads at once."""

    def __init__(self, place: Place) -> None:
        self.place, self.stream = place, place.object
        self.where = f"{place.where}: stream {place.object}"
        self._client = client_of(place, "kinesis", place.settings.endpoint)

    def ask(self, action: str, **parameters: Any) -> dict[str, Any]:
        """Return the answer to one request.

        Raises:
            botocore.exceptions.ClientError: the answer is an error.
            botocore.exceptions.BotoCoreError: there is no answer.
        """
        answer: dict[str, Any] = getattr(self._client, action)(**parameters)
        return answer

    def call(
        self, action: str, parameters: Mapping[str, Any], check: Callable[[], None] = lambda: None
    ) -> dict[str, Any]:
        """Return the answer to one request, which is made again while it is over the limits.

        Raises:
            MissingTable, AccessDenied, Unreachable, Unavailable: by name.
        """
        end, pause = time.monotonic() + PATIENCE_SECONDS, PAUSE_SECONDS
        while True:
            check()
            with self.translated():
                try:
                    return self.ask(action, **parameters)
                except Exception as error:
                    if code_of(error) not in THROTTLED or time.monotonic() > end:
                        raise
            time.sleep(pause)
            pause = min(LONGEST_PAUSE_SECONDS, 2 * pause)

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Raise the client's errors as Penstock's."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except (ClientError, BotoCoreError) as error:
            raise self.error_of(error) from None

    def error_of(self, error: Exception) -> PenstockError:
        """Return the error for one of the client's."""
        from botocore.exceptions import ClientError

        if isinstance(error, ClientError):
            return self._answered(code_of(error), str(error.response["Error"].get("Message", "")), error.operation_name)
        return unanswered(error, self.place, self.where, self.place.settings.endpoint, "kinesis")

    def _answered(self, code: str, message: str, action: str) -> PenstockError:
        where, region = self.where, self.place.settings.region
        if code == "ResourceNotFoundException":
            hint = did_you_mean(self.stream, self._names()) or "create it, or name another one, or another `region`"
            return MissingTable(f"there is no such stream in {region}", where=where, value=self.stream, hint=hint)
        if code in DENIED:
            right = "kms:Decrypt on the stream's key" if code.startswith("KMS") else f"kinesis:{action}"
            hint = f"allow it {right}; docs/kinesis.md has the whole policy"
            return AccessDenied(f"{MAY_NOT}{right}", where=where, hint=hint)
        if (refused := refused_user(code, where)) is not None:
            return refused
        if code in THROTTLED:
            hint = "give the stream more shards, or use it less often; others may use it, too"
            return Unavailable(f"the stream's limits did not let {action} pass for a minute", where=where, hint=hint)
        if code == "InvalidArgumentException":
            return Refused(f"Kinesis refuses {action}: {message}", where=where)
        return Unavailable(f"Kinesis answered {code} to {action}: {message}", where=where, hint="try again")

    def _names(self) -> list[str]:
        """Return the names of the streams, if this user may list them."""
        try:
            return list(self.ask("list_streams").get("StreamNames", ()))
        except Exception:  # noqa: BLE001 - it only makes an error better
            return []

    def close(self) -> None:
        """End the connections."""
        self._client.close()


def stream_names(place: Place, check: Callable[[], None]) -> Iterator[str]:
    """Yield the names of all data streams in the region of a connection. Raises as `Kinesis.call`."""
    with closing(Kinesis(place)) as one:
        answer = one.call("list_streams", {}, check)
        while names := answer["StreamNames"]:
            yield from names
            if not answer["HasMoreStreams"]:
                return
            answer = one.call("list_streams", {"ExclusiveStartStreamName": names[-1]}, check)


@cache
def _session() -> Any:
    """Return the session of this process: it has read the service's description, and knows the machine's role."""
    from botocore.session import Session

    return Session()


def refused_user(code: str, where: str) -> AccessDenied | None:
    """Return the error of credentials that Amazon does not know; None if the code says something else."""
    if code not in _UNKNOWN_USER:
        return None
    hint = "check `access_key`, `secret_key` and `session_token`, and this machine's clock"
    return AccessDenied(f"Amazon does not accept these credentials ({code})", where=where, hint=hint)


def unanswered(error: Exception, place: Place, where: str, endpoint: str | None, service: str) -> PenstockError:
    """Return the error of a request to a service without an answer."""
    from botocore.exceptions import NoCredentialsError, PartialCredentialsError

    if isinstance(error, NoCredentialsError | PartialCredentialsError):
        hint = "set `access_key` and `secret_key`, or give this machine a role"
        return AccessDenied("there are no credentials", where=where, hint=hint)
    host = endpoint or f"{service}.{place.settings.region}.amazonaws.com"
    return Unreachable(f"nothing answers at {host}", where=where, hint="check `region` and `endpoint`")


def client_of(place: Place, service: str, endpoint: str | None) -> Any:
    """Return a client of botocore for one of Amazon's services.

    Raises:
        Refused: botocore is not installed.
        Unreachable: there is no such region.
    """
    try:
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError
    except ImportError as error:
        hint = "install it: pip install 'penstock[kinesis]'"
        raise Refused("connections of type kinesis need botocore", where=place.where, hint=hint) from error
    settings: KinesisConnection = place.settings
    given = {
        "aws_access_key_id": settings.access_key,
        "aws_secret_access_key": settings.secret_key,
        "aws_session_token": settings.session_token,
    }
    keys = {
        name: resolve(value, where=place.where, secrets=place.secrets)
        for name, value in given.items()
        if value is not None
    }
    config = Config(
        connect_timeout=CONNECT_SECONDS,
        read_timeout=READ_SECONDS,
        retries={"total_max_attempts": 3, "mode": "standard"},
        max_pool_connections=PARALLEL,
        ignore_configured_endpoint_urls=True,  # a connection is what its file says
    )
    try:
        return _session().create_client(
            service, region_name=settings.region, endpoint_url=endpoint, config=config, **keys
        )
    except (BotoCoreError, ValueError) as error:
        raise Unreachable(f"no client can be made: {error}", where=place.where, hint="check `region`") from None
