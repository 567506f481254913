"""GET requests to an API, with retries; secrets go only to the connection's host, and never into an error."""

from __future__ import annotations

import codecs
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Final

import httpx

from dataflows.connectors.http.signs import next_links
from dataflows.connectors.waiting import run_checked
from penstock.clock import now
from penstock.errors import (
    UNKNOWN_HOST,
    AccessDenied,
    BadData,
    MissingTable,
    NotFound,
    PenstockError,
    Refused,
    Unavailable,
    Unreachable,
)
from penstock.http_clients import certificate_error, retry_after
from penstock.models.http import HttpConnection
from penstock.models.secrets import resolve_headers

__all__ = ["Answer", "Client", "same_origin"]

ATTEMPTS: Final = 5
BASE_WAIT: Final = 0.2
"""Seconds before the second attempt, doubled before each further one; a failed run is retried later."""
MAX_WAIT: Final = 60.0
"""Longest wait in seconds that a server may ask for; if it asks for more, the run fails and is retried later."""
CHECK_SECONDS: Final = 0.1
REDIRECTS: Final = 5
PAGE_BYTES: Final = 64 << 20
RETRYABLE: Final = {408, 425, 429, 500, 502, 503, 504}
MIN_BYTES: Final = 1024
"""Bytes that an incomplete response must deliver in each `timeout`."""
ANSWER_SECONDS: Final = 600.0
"""Longest time for a whole response; or twenty times the `timeout`, if that is longer."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A response: the body, its URL, and the URL of the next page in the ``Link`` header, if there is one."""

    body: bytes
    url: httpx.URL
    following: str | None


class _Retryable(Exception):
    """A failed attempt that may be retried; after `wait` seconds, if the server says so."""

    def __init__(self, error: PenstockError, wait: float | None = None) -> None:
        self.error, self.wait = error, wait
        super().__init__()


@dataclass(slots=True)
class Client:
    """Client of one API; each session of a run has its own."""

    base: httpx.URL
    headers: Mapping[str, str] = field(repr=False)
    parameters: Mapping[str, str] = field(repr=False)
    timeout: timedelta
    where: str
    check: Callable[[], None]
    _session: httpx.Client = field(init=False, repr=False)
    _pool: ThreadPoolExecutor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        seconds = self.timeout.total_seconds()
        self._session = httpx.Client(timeout=seconds, transport=_MinimumRateTransport(seconds))
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="http")

    @classmethod
    def of(cls, connection: HttpConnection, where: str, secrets: Path | None, check: Callable[[], None]) -> Client:
        """Return the client of a connection, its secrets resolved; does not send a request yet."""
        headers = {"Accept": "application/json"} | resolve_headers(connection.headers, where=where, secrets=secrets)
        parameters = resolve_headers(connection.parameters, where=where, secrets=secrets)
        return cls(httpx.URL(connection.url), headers, parameters, connection.timeout, where, check)

    def get(self, url: httpx.URL, ends: frozenset[int] = frozenset()) -> Answer | None:
        """Return the response to a GET, tried up to five times; None if its status is among `ends`.

        Raises:
            AccessDenied, MissingTable, Refused: the status says so, and a retry would not help.
            Unreachable, Unavailable: all attempts failed.
            BadData: the response is larger than a page may be.
        """
        for attempt in range(ATTEMPTS):
            try:
                return run_checked(self._pool, self._deadline_check(), lambda: self._attempt(url, ends))
            except _Retryable as failed:
                wait = BASE_WAIT * 2**attempt if failed.wait is None else failed.wait
                if attempt + 1 == ATTEMPTS or wait > MAX_WAIT:
                    raise failed.error from None
                self._sleep(wait)
        raise AssertionError

    def _deadline_check(self) -> Callable[[], None]:
        """Return a check that also abandons a response which takes too long."""
        end = time.monotonic() + max(ANSWER_SECONDS, 20 * self.timeout.total_seconds())

        def check() -> None:
            self.check()
            if time.monotonic() > end:
                self.close()
                self._begin()
                raise _Retryable(self._timeout_error())

        return check

    def close(self) -> None:
        """Close the session without waiting for a pending request."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._session.close()

    def _sleep(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.check()
            time.sleep(min(left, CHECK_SECONDS))

    def _timeout_error(self) -> Unavailable:
        hint = "try again, ask for smaller pages, or give it a longer `timeout`"
        return Unavailable("the API did not answer in time", where=self.where, hint=hint)

    def _attempt(self, url: httpx.URL, ends: frozenset[int]) -> Answer | None:
        try:
            return self._follow(url, ends)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            if (found := certificate_error(error)) is not None:
                reason, _, _ = found.verify_message.partition(" for '")
                what = f"the API's certificate is not accepted: {reason}"
                hint = "renew it at the server, or let this machine trust its authority (`SSL_CERT_FILE`)"
                raise Refused(what, where=self.where, hint=hint) from None
            if any(text in str(error) for text in UNKNOWN_HOST):
                raise NotFound("there is no such host", where=self.where, hint="correct the host in `url`") from None
            hint = "check `url`, and that the server is up"
            raise _Retryable(Unreachable("the API cannot be reached", where=self.where, hint=hint)) from None
        except httpx.TimeoutException:
            raise _Retryable(self._timeout_error()) from None
        except (httpx.UnsupportedProtocol, httpx.InvalidURL):
            raise Refused("the API leads to a URL that is not HTTP", where=self.where, hint="check `url`") from None
        except httpx.RequestError:
            what = "the connection was lost before the response was complete"
            raise _Retryable(Unavailable(what, where=self.where, hint="try again")) from None

    def _follow(self, url: httpx.URL, ends: frozenset[int]) -> Answer | None:
        """Send the request, following redirects on the same host."""
        for _ in range(REDIRECTS + 1):
            requested = url.copy_merge_params(self.parameters) if self.parameters else url
            with self._session.stream("GET", requested, headers=self.headers) as response:
                if response.next_request is not None:
                    url = self._redirected(response.next_request.url)
                    continue
                if response.status_code in ends:
                    return None
                if response.status_code == httpx.codes.NO_CONTENT:
                    return Answer(b"", response.url, None)
                self._check_status(response)
                following = next(iter(next_links(response.headers.get("Link", ""))), None)
                return Answer(self._body(response), response.url, following)
        what = f"the API redirects more than {REDIRECTS} times"
        raise Refused(what, where=self.where, hint="write the URL that it leads to in `url`")

    def _redirected(self, url: httpx.URL) -> httpx.URL:
        """Return the URL of a redirect if it is on the same host; requests and secrets never go to another."""
        if url.scheme not in {"http", "https"}:
            raise Refused("the API leads to a URL that is not HTTP", where=self.where, hint="check `url`")
        safer = self.base.scheme == "http" and same_origin(url, self.base.copy_with(scheme="https"))
        if not (same_origin(url, self.base) or (safer and self.base.port is None)):
            what = f"the API redirects to another host, {url.host or url.scheme}"
            raise Refused(what, where=self.where, hint="write that host in the connection's `url`, if it is right")
        return url

    def _check_status(self, response: httpx.Response) -> None:
        """Raise for any status but 200; `_Retryable` if a retry may help."""
        status = response.status_code
        if status in RETRYABLE:
            hint = "ask less often, or later" if status == httpx.codes.TOO_MANY_REQUESTS else "try again"
            error = Unavailable(f"the API answers {status}", where=self.where, hint=hint)
            raise _Retryable(error, _wait(response.headers))
        if status == httpx.codes.FORBIDDEN and _is_rate_limited(response.headers):
            error = Unavailable("the API's rate limit is reached (403)", where=self.where, hint="ask less often")
            raise _Retryable(error, _wait(response.headers))
        if status in {401, 403}:
            hint = "check the secrets in `headers`, and their permissions"
            raise AccessDenied(f"the API refuses access ({status})", where=self.where, hint=hint)
        if status in {404, 410}:
            hint = "check `url` and the pipeline's `object`"
            raise MissingTable(f"the API has no such path ({status})", where=self.where, hint=hint)
        if status != httpx.codes.OK:
            hint = "check the path and the parameters against the API's documentation"
            raise Refused(f"the API answers {status}", where=self.where, hint=hint)
        if "," in response.headers.get("Content-Encoding", ""):  # each layer may expand a byte to a thousand
            raise Refused("the response is compressed more than once", where=self.where, hint="ask for plain gzip")

    def _body(self, response: httpx.Response) -> bytes:
        body = bytearray()
        for part in response.iter_bytes(1 << 16):
            body += part
            if len(body) > PAGE_BYTES:
                hint = "ask for fewer records a page by `pagination.size`"
                raise BadData("a page is larger than 64 MiB", where=self.where, hint=hint)
        if not body:
            error = Unavailable("the API answers 200 without a body", where=self.where, hint="try again")
            raise _Retryable(error)
        return bytes(body).removeprefix(codecs.BOM_UTF8)


def same_origin(url: httpx.URL, base: httpx.URL) -> bool:
    """True if both have the same scheme, host and port."""
    ports = {"http": 80, "https": 443}
    return (url.scheme, url.host, url.port or ports.get(url.scheme)) == (
        base.scheme,
        base.host,
        base.port or ports.get(base.scheme),
    )


@cache
def _tls() -> ssl.SSLContext:
    """TLS of all sessions of this process: its certificates take 50 ms to load."""
    return httpx.create_ssl_context()


class _MinimumRateTransport(httpx.HTTPTransport):
    """Transport that abandons a response which arrives byte by byte: a plain time-out only limits each gap."""

    def __init__(self, seconds: float) -> None:
        super().__init__(verify=_tls())
        self._seconds = seconds

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        response = super().handle_request(request)
        if isinstance(response.stream, httpx.SyncByteStream):
            response.stream = _MinimumRateStream(response.stream, self._seconds, request)
        return response


class _MinimumRateStream(httpx.SyncByteStream):
    """Stream that times out if fewer than `MIN_BYTES` arrive within `seconds`."""

    def __init__(self, inner: httpx.SyncByteStream, seconds: float, request: httpx.Request) -> None:
        self._inner, self._seconds, self._request = inner, seconds, request

    def __iter__(self) -> Iterator[bytes]:
        received, end = 0, time.monotonic() + self._seconds
        for data in self._inner:
            received += len(data)
            if received >= MIN_BYTES:
                received, end = 0, time.monotonic() + self._seconds
            elif time.monotonic() > end:
                message = "too slow"
                raise httpx.ReadTimeout(message, request=self._request)
            yield data

    def close(self) -> None:
        self._inner.close()


def _is_rate_limited(headers: httpx.Headers) -> bool:
    """True if a refusal is only a rate limit."""
    return "Retry-After" in headers or headers.get("X-RateLimit-Remaining") == "0"


def _wait(headers: httpx.Headers) -> float | None:
    """Return the seconds to wait, from ``Retry-After`` (a number or a time) or the reset of the rate limit."""
    text, reset = headers.get("Retry-After"), headers.get("X-RateLimit-Reset", "")
    try:
        if text:
            return retry_after(text)
        if reset.isdigit() and headers.get("X-RateLimit-Remaining") == "0":
            return max(0.0, int(reset) - now().timestamp())
    except (ValueError, OverflowError):
        return None
    return None
