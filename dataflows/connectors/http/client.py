"""GETs of an API: tried again where that may help; neither a request nor an error takes a secret to anybody else."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Final

import httpx

from dataflows.connectors.waiting import run_checked
from penstock.clock import now
from penstock.errors import (
    AccessDenied,
    BadData,
    MissingTable,
    PenstockError,
    Refused,
    SettingsError,
    Unavailable,
    Unreachable,
)
from penstock.models.connection import resolve
from penstock.models.http import HttpConnection

__all__ = ["Answer", "Client", "ends_at"]

ATTEMPTS: Final = 5
BASE: Final = 0.2
"""Seconds before the second attempt, doubled before each further one; where a run fails, it is tried again later."""
LONGEST: Final = 60.0
"""The longest wait that a server may ask for; where it asks for more, the run fails and is tried again later."""
CHECKED: Final = 0.1
REDIRECTS: Final = 5
PAGE_BYTES: Final = 64 << 20
AGAIN: Final = {408, 425, 429, 500, 502, 503, 504}
LEAST_BYTES: Final = 1024
"""What an answer that is not whole yet has to bring in each `timeout`."""
ANSWER_SECONDS: Final = 600.0
"""How long a whole answer may take, or twenty times the `timeout`, if that is longer."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came: the body, and the URL in the ``Link`` header of the next page, if it names one."""

    body: bytes
    url: httpx.URL
    following: str | None


class _Again(Exception):
    """An attempt that failed, and may be repeated after `wait` seconds, where the server says how many."""

    def __init__(self, error: PenstockError, wait: float | None = None) -> None:
        self.error, self.wait = error, wait
        super().__init__()


@dataclass(slots=True)
class Client:
    """One API's host. Each session of a run has its own."""

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
        self._session = httpx.Client(timeout=seconds, transport=_Steady(seconds))
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="http")

    @classmethod
    def of(cls, connection: HttpConnection, where: str, secrets: Path | None, check: Callable[[], None]) -> Client:
        """The client of a connection, its secrets resolved; nothing is asked yet."""
        headers = {"Accept": "application/json"} | _resolved(connection.headers, where, secrets)
        parameters = _resolved(connection.parameters, where, secrets)
        return cls(httpx.URL(connection.url), headers, parameters, connection.timeout, where, check)

    def get(self, url: httpx.URL, ends: frozenset[int] = frozenset()) -> Answer | None:
        """The answer to a GET, tried up to five times; None where its status is among `ends`.

        Raises:
            AccessDenied, MissingTable, Refused: it says so, and would say so again.
            Unreachable, Unavailable: it cannot be had now.
            BadData: it is larger than a page may be.
        """
        for attempt in range(ATTEMPTS):
            try:
                return run_checked(self._pool, self._until(), lambda: self._once(url, ends))
            except _Again as failed:
                wait = BASE * 2**attempt if failed.wait is None else failed.wait
                if attempt + 1 == ATTEMPTS or wait > LONGEST:
                    raise failed.error from None
                self._sleep(wait)
        raise AssertionError

    def _until(self) -> Callable[[], None]:
        """A check that also gives up an answer which takes too long; what hangs in it is left behind."""
        end = time.monotonic() + max(ANSWER_SECONDS, 20 * self.timeout.total_seconds())

        def check() -> None:
            self.check()
            if time.monotonic() > end:
                self.close()
                self._begin()
                raise _Again(self._late())

        return check

    def close(self) -> None:
        """Leave what may still hang in a request behind."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._session.close()

    def _sleep(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.check()
            time.sleep(min(left, CHECKED))

    def _late(self) -> Unavailable:
        hint = "try again, ask for smaller pages, or give it a longer `timeout`"
        return Unavailable("the API did not answer in time", where=self.where, hint=hint)

    def _once(self, url: httpx.URL, ends: frozenset[int]) -> Answer | None:
        try:
            return self._followed(url, ends)
        except (httpx.ConnectError, httpx.ConnectTimeout):
            hint = "look at `url`, and whether the server is up"
            raise _Again(Unreachable("the API cannot be reached", where=self.where, hint=hint)) from None
        except httpx.TimeoutException:
            raise _Again(self._late()) from None
        except (httpx.UnsupportedProtocol, httpx.InvalidURL):
            raise Refused("the API leads to what is no HTTP URL", where=self.where, hint="look at `url`") from None
        except httpx.RequestError:
            what = "the connection broke off before the answer was whole"
            raise _Again(Unavailable(what, where=self.where, hint="try again")) from None

    def _followed(self, url: httpx.URL, ends: frozenset[int]) -> Answer | None:
        for _ in range(REDIRECTS + 1):
            asked = url.copy_merge_params(self.parameters) if self.parameters else url
            with self._session.stream("GET", asked, headers=self.headers) as response:
                if response.next_request is not None:
                    url = self._redirected(response.next_request.url)
                    continue
                if response.status_code in ends:
                    return None
                if response.status_code == httpx.codes.NO_CONTENT:
                    return Answer(b"", response.url, None)
                self._judge(response)
                following = response.links.get("next", {}).get("url")
                return Answer(self._body(response), response.url, following)
        what = f"the API redirects more than {REDIRECTS} times"
        raise Refused(what, where=self.where, hint="write the URL that it leads to in `url`")

    def _redirected(self, url: httpx.URL) -> httpx.URL:
        """The URL that a redirect leads to, if it is on the same host; neither our secrets nor we go to any other."""
        if url.scheme not in {"http", "https"}:
            raise Refused("the API leads to what is no HTTP URL", where=self.where, hint="look at `url`")
        safer = self.base.scheme == "http" and ends_at(url, self.base.copy_with(scheme="https"))
        if not (ends_at(url, self.base) or (safer and self.base.port is None)):
            what = f"the API redirects to another host, {url.host or url.scheme}"
            raise Refused(what, where=self.where, hint="write that host in the connection's `url`, if it is right")
        return url

    def _judge(self, response: httpx.Response) -> None:
        status = response.status_code
        if status in AGAIN:
            hint = "ask less often, or later" if status == httpx.codes.TOO_MANY_REQUESTS else "try again"
            error = Unavailable(f"the API answers {status}", where=self.where, hint=hint)
            raise _Again(error, _wait(response.headers))
        if status == httpx.codes.FORBIDDEN and _limited(response.headers):
            error = Unavailable("the API's rate limit is reached (403)", where=self.where, hint="ask less often")
            raise _Again(error, _wait(response.headers))
        if status in {401, 403}:
            hint = "look at the secrets in `headers`, and at what they may read"
            raise AccessDenied(f"the API refuses access ({status})", where=self.where, hint=hint)
        if status in {404, 410}:
            hint = "look at `url` and the pipeline's `object`"
            raise MissingTable(f"the API has no such path ({status})", where=self.where, hint=hint)
        if status != httpx.codes.OK:
            hint = "look at the path, the parameters and the API's documentation"
            raise Refused(f"the API answers {status}", where=self.where, hint=hint)
        if "," in response.headers.get("Content-Encoding", ""):  # each time may make a thousand bytes of one, unasked
            raise Refused("the answer is compressed more than once", where=self.where, hint="ask for plain gzip")

    def _body(self, response: httpx.Response) -> bytes:
        found = bytearray()
        for part in response.iter_bytes(1 << 16):
            found += part
            if len(found) > PAGE_BYTES:
                hint = "ask for fewer records a page by `pagination.size`"
                raise BadData("a page is larger than 64 MiB", where=self.where, hint=hint)
        return bytes(found)


def ends_at(url: httpx.URL, base: httpx.URL) -> bool:
    """Whether both are of one scheme, host and port."""
    ports = {"http": 80, "https": 443}
    return (url.scheme, url.host, url.port or ports.get(url.scheme)) == (
        base.scheme,
        base.host,
        base.port or ports.get(base.scheme),
    )


class _Steady(httpx.HTTPTransport):
    """Gives up an answer that comes byte by byte: a time-out alone only counts from one to the next."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        found = super().handle_request(request)
        if isinstance(found.stream, httpx.SyncByteStream):
            found.stream = _Stream(found.stream, self._seconds, request)
        return found


class _Stream(httpx.SyncByteStream):
    def __init__(self, inner: httpx.SyncByteStream, seconds: float, request: httpx.Request) -> None:
        self._inner, self._seconds, self._request = inner, seconds, request

    def __iter__(self) -> Iterator[bytes]:
        came, end = 0, time.monotonic() + self._seconds
        for data in self._inner:
            came += len(data)
            if came >= LEAST_BYTES:
                came, end = 0, time.monotonic() + self._seconds
            elif time.monotonic() > end:
                message = "too slow"
                raise httpx.ReadTimeout(message, request=self._request)
            yield data

    def close(self) -> None:
        self._inner.close()


def _limited(headers: httpx.Headers) -> bool:
    """Whether a refusal is for now only."""
    return "Retry-After" in headers or headers.get("X-RateLimit-Remaining") == "0"


def _wait(headers: httpx.Headers) -> float | None:
    """Seconds that the server asks for: in ``Retry-After`` a number of them or a time, or until its limit is reset."""
    text, reset = headers.get("Retry-After"), headers.get("X-RateLimit-Reset", "")
    try:
        if text:
            seconds = float(text) if text.isdigit() else (parsedate_to_datetime(text) - now()).total_seconds()
            return max(0.0, seconds)
        if reset.isdigit() and headers.get("X-RateLimit-Remaining") == "0":
            return max(0.0, int(reset) - now().timestamp())
    except (ValueError, TypeError, OverflowError):
        return None
    return None


def _resolved(values: Mapping[str, str], where: str, secrets: Path | None) -> dict[str, str]:
    found = {name: resolve(value, where=where, secrets=secrets) for name, value in values.items()}
    for name, value in found.items():
        if not (value.isascii() and value.isprintable()):
            what = f"what `{name}` is given holds characters that a header cannot hold"
            raise SettingsError(what, where=where, hint="look for line breaks in the secret")
    return found
