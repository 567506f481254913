"""Faults of files, other systems and the platform: what each is, how it is made, and words of its diagnosis."""

from __future__ import annotations

import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pymysql
import pytest

from dataflows.connectors.mysql.errors import penstock_error
from dataflows.process.reports import error_of
from tests.dataflows.connectors.bench import CURSOR, Bench, Outcome, fault
from tests.reaper import short_folder

# --- files


@fault("not a database file", "config", "not an SQLite database")
def _(bench: Bench) -> Outcome:
    (bench.folder / "x.db").write_text("hello " * 1000)
    return bench.fails(source={"is": {"type": "sqlite", "path": str(bench.folder / "x.db")}, "object": "items"})


@fault("damaged database file", "data", "damaged", "malformed")
def _(bench: Bench) -> Outcome:
    path = bench.folder / "hurt.db"
    with closing(sqlite3.connect(path)) as session:
        session.execute("CREATE TABLE items (id integer PRIMARY KEY, name text)")
        session.executemany("INSERT INTO items VALUES (?, ?)", [(n, "x" * 300) for n in range(300)])
        session.commit()
    with path.open("r+b") as file:
        file.seek(4096 * 5)
        file.write(b"\xff" * 4096 * 9)
    return bench.fails(source={"is": {"type": "sqlite", "path": str(path)}, "object": "items"})


@fault("file system read-only", "config", "file system", "read-only")
def _(bench: Bench) -> Outcome:
    folder = short_folder()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro,size=1m", "tmpfs", folder], check=True)
    try:
        error, task = bench.fails(sink={"is": {"type": "files", "root": str(folder)}, "object": "items"})
        seen = bench.diagnosis(task, error)
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)
        folder.rmdir()
    return error, task | {"seen": seen}


@fault("database file locked", "transient", "locked", slow=True)
def _(bench: Bench) -> Outcome:
    path = bench.folder / "busy.db"
    with closing(sqlite3.connect(path)) as session:
        session.execute("CREATE TABLE items (id integer PRIMARY KEY)")
        session.execute("BEGIN EXCLUSIVE")
        is_ = {"is": {"type": "sqlite", "path": str(path)}, "object": "items"}
        error, task = bench.fails(source=is_, limits={"stalled": "1s"})
        seen = bench.diagnosis(task, error)
    return error, task | {"seen": seen}


@fault("folder missing", "config", "folder does not exist")
def _(bench: Bench) -> Outcome:
    files = {"is": {"type": "files", "root": str(bench.folder / "gone")}, "object": "items/*.csv"}
    return bench.fails(source=files)


@fault("broken line of CSV", "data", "items.csv")
def _(bench: Bench) -> Outcome:
    (bench.folder / "items.csv").write_text('id,name\n1,one\n2,"never closed\n')
    return bench.fails(source={"is": {"type": "files", "root": str(bench.folder)}, "object": "items.csv"})


@fault("broken Parquet file", "data", "items.parquet", slow=True)
def _(bench: Bench) -> Outcome:
    (bench.folder / "items.parquet").write_bytes(b"PAR1" + b"\0" * 100 + b"PAR1")
    return bench.fails(source={"is": {"type": "files", "root": str(bench.folder)}, "object": "items.parquet"})


@fault("disk full", "resource", "full", slow=True)
def _(bench: Bench) -> Outcome:
    folder = short_folder()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=0777", "tmpfs", folder], check=True)
    try:
        bench.session.execute(
            "INSERT INTO items SELECT n, md5(n::text) || md5((-n)::text), n FROM generate_series(3, 60000) n"
        )
        error, task = bench.fails(sink={"is": {"type": "sqlite", "path": str(folder / "x.db")}, "object": "items"})
        with suppress(OSError), (folder / "rest").open("wb") as file:
            file.write(b"\0" * (1 << 20))
        seen = bench.diagnosis(task, error)
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)
        folder.rmdir()
    return error, task | {"seen": seen}


# --- other systems


@contextmanager
def api(status: int, body: bytes = b"{}") -> Iterator[str]:
    """An HTTP API that answers everything in one way."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def of_api(bench: Bench, status: int, body: bytes = b"{}") -> Outcome:
    with api(status, body) as url:
        error, task = bench.fails(source={"is": {"type": "http", "url": url}, "object": "items"})
        return error, task | {"seen": bench.diagnosis(task, error)}


@fault("API refuses the token", "permission", "401")
def _(bench: Bench) -> Outcome:
    return of_api(bench, 401)


@fault("API has no such path", "config", "404", slow=True)
def _(bench: Bench) -> Outcome:
    return of_api(bench, 404)


@fault("API answers no JSON", "data", "JSON", slow=True)
def _(bench: Bench) -> Outcome:
    return of_api(bench, 200, b"<html>")


@fault("broker gone", "transient", "127.0.0.1:1", "no server listens", slow=True)
def _(bench: Bench) -> Outcome:
    kafka = {"is": {"type": "kafka", "bootstrap": "127.0.0.1:1"}, "object": "items"}
    return bench.fails(source=kafka, sink={"write": "append"}, mode="stream")


@fault("object store gone", "transient", "127.0.0.1:1", "no server listens", slow=True)
def _(bench: Bench) -> Outcome:
    return of_bucket(bench, bucket(bench, endpoint="http://127.0.0.1:1"))


@fault("bucket missing", "config", "no such bucket", slow=True)
def _(bench: Bench) -> Outcome:
    return of_bucket(bench, bucket(bench, url="s3://nowhere", endpoint=bench.s3.endpoint))


@fault("wrong secret key", "permission", "secret key", slow=True)
def _(bench: Bench) -> Outcome:
    return of_bucket(bench, bucket(bench, "wrong", endpoint=bench.s3.endpoint))


def bucket(bench: Bench, secret: str = "", **more: str) -> dict[str, Any]:
    from tests.s3 import SECRET

    (bench.folder / "key").write_text(secret or SECRET)
    (bench.folder / "access").write_text("penstock")
    keys = {"access_key": f"${{file:{bench.folder}/access}}", "secret_key": f"${{file:{bench.folder}/key}}"}
    return {"is": {"type": "s3", "url": "s3://lake", "region": "us-east-1", **keys, **more}, "object": "x/*.parquet"}


def of_bucket(bench: Bench, source: dict[str, Any]) -> Outcome:
    return bench.failed(bench.task(source=source) | {"secrets": str(bench.folder)})


def of_mysql(bench: Bench, **ends: Any) -> Outcome:
    return bench.failed(bench.task(**ends) | {"secrets": str(bench.mysql.home)})


def mysql(bench: Bench, object_: str = "items", **changes: Any) -> dict[str, Any]:
    database = changes.pop("database", None) or bench.request.getfixturevalue("new_schema")()
    return {"is": bench.mysql.connection(database, **changes), "object": object_}


@fault("MariaDB: wrong password", "permission", "login to source shop", slow=True)
def _(bench: Bench) -> Outcome:
    return of_mysql(bench, source=mysql(bench, password=f"${{file:{bench.mysql.home}/wrong}}"))


@fault("MariaDB: unknown database", "config", "nowhere", slow=True)
def _(bench: Bench) -> Outcome:
    return of_mysql(bench, source=mysql(bench, "nowhere.items", database="nowhere"))


@fault("MariaDB: table missing", "schema", "items", "object", slow=True)
def _(bench: Bench) -> Outcome:
    return of_mysql(bench, source=mysql(bench))


@fault("MariaDB: text too long", "data", "name", "longer than 5", slow=True)
def _(bench: Bench) -> Outcome:
    sink = mysql(bench)
    bench.mysql.query("CREATE TABLE items (id int PRIMARY KEY, name varchar(5))", sink["is"]["database"])
    fields = [{"target": "id", "from": "id"}, {"target": "name", "from": "name"}]
    return of_mysql(bench, source=CURSOR, sink=sink | {"write": "append"}, mapping={"fields": fields})


@fault("MariaDB: lock wait", "transient", "1205", slow=True)
def _(bench: Bench) -> Outcome:
    name = bench.request.getfixturevalue("new_schema")()
    bench.mysql.query("CREATE TABLE items (id int PRIMARY KEY)", name)
    bench.mysql.query("INSERT INTO items VALUES (1)", name)
    with (
        closing(bench.mysql.session(name, autocommit=False)) as one,
        closing(bench.mysql.session(name)) as other,
        one.cursor() as holder,
        other.cursor() as waiter,
    ):
        holder.execute("DELETE FROM items")
        waiter.execute("SET innodb_lock_wait_timeout = 1")
        with pytest.raises(pymysql.err.Error) as caught:
            waiter.execute("DELETE FROM items")
    return error_of(penstock_error(caught.value, "items: connection lake")), bench.task()


# --- the platform


@fault("memory limit", "resource", "limits.memory", slow=True)
def _(bench: Bench) -> Outcome:
    bench.session.execute("INSERT INTO items SELECT n, repeat('x', 4000000) FROM generate_series(3, 120) n")
    fields = [{"target": "id", "from": "id"}, {"target": "name", "sql": "concat(name, name)"}]
    return bench.fails(mapping={"fields": fields}, limits={"memory": "256MB"})


@fault("a defect of the run", "bug", "defect")
def _(bench: Bench) -> Outcome:
    return bench.failed(bench.task(), "prepare.begin=raise")
