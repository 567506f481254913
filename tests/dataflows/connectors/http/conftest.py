"""A local HTTP API with every kind of paging, rate limits and broken responses; and pipelines from it."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest

from dataflows.connectors.contract import Place
from dataflows.connectors.http.connector import HttpConnector
from dataflows.connectors.http.source import HttpSource
from penstock.models.connection import parse_connection

if TYPE_CHECKING:
    from tests.dataflows.conftest import Launchers

SECRET = "s3cr3t-of-the-api"
MOST = 50
_numbers = count(1)
Answer = tuple[int, dict[str, str], bytes]


@dataclass
class Api:
    """An API of records, paged in any of `WAYS`, such as ``/v1/page/items``."""

    records: list[dict[str, Any]] = field(default_factory=list)
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    """Path with query, and headers, of each request."""
    failing: list[Callable[[], Answer | None]] = field(default_factory=list)
    """Responses to the next requests instead of the regular ones; None lets the request pass."""
    paths: dict[str, Callable[[dict[str, str]], Answer]] = field(default_factory=dict)
    """Responses of other paths."""
    size: int = MOST
    secret: str | None = None
    server: Any = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def answer(self, target: str, headers: dict[str, str]) -> Answer | None:
        self.asked.append((target, headers))
        if self.failing and (found := self.failing.pop(0)()) is not None:
            return found
        parts = urlsplit(target)
        query = {name: values[-1] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        if parts.path in self.paths:
            return self.paths[parts.path](query)
        if self.secret is not None and headers.get("authorization") != f"Bearer {self.secret}":
            return 401, {}, b"{}"
        way = parts.path.removeprefix("/v1/").removesuffix("/items")
        if way not in {"page", "offset", "cursor", "link", "next", "all"}:
            return 404, {}, b"no such thing"
        return self._page(way, query, parts.path)

    def _page(self, way: str, query: dict[str, str], path: str) -> Answer:
        rows = self.records
        if "since" in query:  # including records of exactly that time, as many servers do
            rows = [row for row in rows if str(row["at"]) >= query["since"]]
        if query.get("sort") == "-at":
            rows = sorted(rows, key=lambda row: str(row["at"]), reverse=True)
        size = min(self.size, int(query.get("per_page") or query.get("limit") or 20))
        first = int(query.get("offset") or query.get("cursor", "t0")[1:])
        first += (int(query.get("page", "1")) - 1) * size
        found = rows if way == "all" else rows[first : first + size]
        more = way != "all" and first + size < len(rows)
        body: dict[str, Any] = {"data": {"items": found}, "meta": {"next": f"t{first + size}" if more else None}}
        following = f"{path}?{urlencode(query | {'offset': str(first + size)})}"
        headers = {"Link": f'<{following}>; rel="next", </v1>; rel="up"'} if way == "link" and more else {}
        if way == "next":
            body["next"] = self.url + following if more else None
        return 200, headers, json.dumps(body, indent=1, ensure_ascii=False).encode()

    def later(self, *waits: str, status: int = 429) -> None:
        """Make the next requests fail with a status and `Retry-After`."""
        for wait in waits:
            self.failing.append(lambda wait=wait: (status, {"Retry-After": wait} if wait else {}, b"busy"))  # type: ignore[misc]


def handler(api: Api) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            found = api.answer(self.path, headers)
            if found is None:
                return
            status, more, body = found
            broken, dripping = more.pop("X-Broken", None), more.pop("X-Drip", None)
            if (wait := more.pop("X-Slow", None)) is not None:
                time.sleep(float(wait))
            self.send_response(status)
            for name, value in more.items():
                self.send_header(name, value)
            self.send_header("Content-Length", "1000000" if dripping else str(len(body)))
            self.end_headers()
            try:
                while dripping:  # endlessly, byte by byte
                    self.wfile.write(b" ")
                    time.sleep(0.1)
                self.wfile.write(body[: len(body) // 2] if broken else body)
            except OSError:  # the client has closed the connection
                self.close_connection = True
            if broken:
                self.close_connection = True

        def log_message(self, *_: Any) -> None:
            """Suppress the log."""

    return Handler


@pytest.fixture
def apis() -> Iterator[Callable[[], Api]]:
    """Make an API on a port of its own."""
    made: list[Api] = []

    def make() -> Api:
        api = Api()
        api.server = ThreadingHTTPServer(("127.0.0.1", 0), handler(api))
        api.server.daemon_threads = True
        api.server.handle_error = lambda *_: None  # tests close connections early on purpose
        threading.Thread(target=lambda: api.server.serve_forever(0.02), daemon=True).start()
        made.append(api)
        return api

    yield make
    for api in made:
        api.server.shutdown()
        api.server.server_close()


@pytest.fixture
def api(apis: Callable[[], Api]) -> Api:
    return apis()


WAYS: dict[str, dict[str, Any] | None] = {
    "page": {"type": "page"}, "offset": {"type": "offset"}, "cursor": {"type": "cursor", "token": "meta.next"},
    "link": {"type": "link"}, "next": {"type": "link", "next": "next"}, "all": None,
}  # fmt: skip


@dataclass
class Pull:
    """One pipeline from an API's items to a table in an SQLite file."""

    api: Api
    folder: Path
    launchers: Launchers
    way: str = "page"
    write: str = "append"
    connection: dict[str, Any] = field(default_factory=dict)
    endpoint: dict[str, Any] = field(default_factory=dict)
    sink: dict[str, Any] = field(default_factory=dict)
    source: dict[str, Any] = field(default_factory=dict)
    number: int = field(default_factory=lambda: next(_numbers))

    @property
    def object(self) -> str:
        return f"/{self.way}/items"

    def settings(self) -> dict[str, Any]:
        (self.folder / "key").write_text(SECRET)
        return {
            "type": "http",
            "url": f"{self.api.url}/v1",
            "pagination": WAYS[self.way],
            "records": "data.items",
            "headers": {"Authorization": f"Bearer ${{file:{self.folder}/key}}"},
            "endpoints": {self.object: self.endpoint},
            **self.connection,
        }

    def open(self, object: str | None = None) -> HttpSource:
        settings = parse_connection("api", {name: one for name, one in self.settings().items() if one is not None})
        return HttpConnector.source(Place("items", "api", settings, object or self.object, self.folder))

    def task(self, run: str, **changes: Any) -> dict[str, Any]:
        source = {"connection": "api", "object": self.object, **self.source}
        if self.write == "append":
            source.setdefault("cursor", {"field": "at"})
        sink = {"connection": "to", "object": "copied", "write": self.write, **self.sink}
        task = {
            "run": run,
            "attempt": 1,
            "uid": f"00000000-0000-4000-a000-{self.number:012d}",
            "connections": {
                "api": {name: one for name, one in self.settings().items() if one is not None},
                "to": {"type": "sqlite", "path": str(self.folder / f"{self.number}.db")},
            },
            "pipeline": {
                "apiVersion": "penstock/v1",
                "kind": "Pipeline",
                "metadata": {"name": "items"},
                "spec": {"source": source, "sink": sink},
            },
            "result": str(self.folder / f"{self.number}-{next(_numbers)}.json"),
            "progress": None,
            "secrets": str(self.folder),
        }
        return task | changes

    def run(self, run: str, failpoint: str | None = None) -> dict[str, Any]:
        return self.launchers.run(self.task(run), failpoint)

    def completed(self, run: str) -> int:
        """Run to completion; return the number of rows read."""
        found = self.run(run)
        assert found["status"] == "completed", found
        return int(found["counters"]["rows_in"])

    def rows(self, what: str = "id, name, at") -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.folder / f"{self.number}.db")) as session:
            exists = session.execute("SELECT 1 FROM sqlite_master WHERE name = 'copied'").fetchone()
            return session.execute(f"SELECT {what} FROM copied ORDER BY id").fetchall() if exists else []

    def wanted(self) -> list[tuple[Any, ...]]:
        return sorted(((one["id"], one["name"], one["at"]) for one in self.api.records), key=lambda row: row[0])

    def add(self, rows: int) -> None:
        first = len(self.api.records) + 1
        for at in range(first, first + rows):
            name = None if at % 7 == 0 else "" if at % 7 == 1 else f"größe\n{at}"
            when = f"2024-01-01T{at // 3600:02d}:{at // 60 % 60:02d}:{at % 60:02d}Z"
            self.api.records.append({"id": at, "name": name, "at": when})


@pytest.fixture
def pull(api: Api, tmp_path: Path, launchers: Launchers) -> Callable[..., Pull]:
    def make(way: str = "page", write: str = "append", *, rows: int = 90, **more: Any) -> Pull:
        made = Pull(api, tmp_path, launchers, way, write, **more)
        api.records.clear()
        api.secret = SECRET
        made.add(rows)
        return made

    return make
