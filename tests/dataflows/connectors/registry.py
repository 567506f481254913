"""A schema registry for tests: the documented REST interface of Confluent's, over HTTP, with what tests need of it.

A real one is not available here: Confluent's and Apicurio's come as containers only, and Karapace is not on PyPI.
"""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

__all__ = ["FakeRegistry", "registry"]


@dataclass
class FakeRegistry:
    """What it has: schemas by id, and the versions of subjects; `asked` are the requests."""

    port: int = 0
    schemas: dict[int, dict[str, Any]] = field(default_factory=dict)
    subjects: dict[str, list[int]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    status: int | None = None
    """An answer to everything, if it is out of order."""
    late: int = 0
    """How many requests for an id are answered as if it were unknown."""
    login: str | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def add(self, subject: str, schema: Any, **more: Any) -> int:
        """Add a version to a subject; return the schema's id."""
        text = schema if isinstance(schema, str) else json.dumps(schema)
        number = next((n for n, one in self.schemas.items() if one["schema"] == text), len(self.schemas) + 1)
        self.schemas[number] = {"schema": text, **more}
        if number not in self.subjects.setdefault(subject, []):
            self.subjects[subject].append(number)
        return number

    def answer(  # noqa: PLR0911 - a table of paths
        self, method: str, path: str, body: dict[str, Any] | None, login: str | None
    ) -> tuple[int, Any]:
        """Return the status and the body of an answer."""
        self.asked.append(f"{method} {path}")
        if self.status is not None:
            return self.status, {"error_code": self.status, "message": "out of order"}
        if self.login is not None and login != f"Basic {base64.b64encode(self.login.encode()).decode()}":
            return 401, {"error_code": 401, "message": "Unauthorized"}
        match path.strip("/").split("/"):
            case ["schemas", "ids", number]:
                if self.late > 0 or int(number) not in self.schemas:
                    self.late -= 1
                    return 404, {"error_code": 40403, "message": f"Schema {number} not found"}
                return 200, self.schemas[int(number)]
            case ["subjects", subject, "versions"] if method == "POST" and body is not None:
                if self.subjects.get(subject) and "refuse" in subject:
                    return 409, {"error_code": 409, "message": "incompatible with an earlier schema"}
                return 200, {"id": self.add(subject, body["schema"])}
            case ["subjects", subject, "versions", version]:
                if subject not in self.subjects:
                    return 404, {"error_code": 40401, "message": f"Subject '{subject}' not found."}
                found = self.subjects[subject][-1 if version == "latest" else int(version) - 1]
                return 200, {"subject": subject, "version": 1, "id": found, **self.schemas[found]}
        return 404, {"error_code": 404, "message": "HTTP 404 Not Found"}


@contextmanager
def registry(port: int = 0) -> Iterator[FakeRegistry]:
    """Serve a registry on a free port of the loopback, or this one."""
    made = FakeRegistry()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _do(self) -> None:
            size = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(size)) if size else None
            status, answer = made.answer(self.command, self.path, body, self.headers.get("Authorization"))
            data = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/vnd.schemaregistry.v1+json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = _do  # noqa: N815 - names of the library

        def log_message(self, *_: Any) -> None:
            """Print nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    made.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield made
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
