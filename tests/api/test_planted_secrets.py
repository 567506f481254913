"""Secrets stay where they are: a literal one is refused by name, and what a reference names is written nowhere.

Traces are searched as the console exporter writes them, with every attribute, event and resource of a span. An exporter
by OTLP sends the same spans; its package is the user's to install, and none of Penstock's.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest
from psycopg import conninfo, sql

from penstock import postgres
from penstock.topics.embedded import EmbeddedServer
from tests.api.project import FORKING, Project, ending, penstock, until
from tests.mariadb import MysqlServer, program
from tests.reaper import short_folder
from tests.s3 import SECRET as S3_SECRET
from tests.s3 import S3Server

# --- literal secrets

LITERAL: Final = "hunter9Zq2"
TOKEN: Final = f"ghp_{LITERAL}{LITERAL}"
URL: Final = f"postgresql://u:{LITERAL}@h/d"

CONNECTIONS: Final[dict[str, Any]] = {
    "the password of a DSN": {"type": "postgres", "dsn": f"host=h password={LITERAL}"},
    "the user of a DSN": {"type": "postgres", "dsn": f"postgresql://u%3A{LITERAL}@h/d"},
    "what is no DSN": {"type": "postgres", "dsn": f"u:{LITERAL}@h/d"},
    "a list of DSNs": {"type": "postgres", "dsn": [URL]},
    "a password of PostgreSQL": {"type": "postgres", "dsn": "dbname=d", "password": LITERAL},
    "a password in digits": {"type": "postgres", "dsn": "dbname=d", "password": 90210421},
    "the default of a reference": {
        "type": "postgres", "dsn": "dbname=d", "password": f"${{env:PENSTOCK_SECRET_A:-{LITERAL}}}",
    },
    "the name of a variable": {"type": "postgres", "dsn": "dbname=d", "password": f"${{env:{LITERAL}}}"},
    "a URL in place of a connection": URL,
    "a type": {"type": LITERAL},
    "a password of MySQL": {"type": "mysql", "host": "h", "user": "u", "password": LITERAL},
    "the user of MySQL": {"type": "mysql", "host": "h", "user": f"root:{LITERAL}"},
    "the host of MySQL": {"type": "mysql", "host": f"root:{LITERAL}@h", "user": "u"},
    "a private key": {
        "type": "mysql", "host": "h", "user": "u", "tls": {"key": f"-----BEGIN PRIVATE KEY-----\n{LITERAL}"},
    },
    "a port": {"type": "mysql", "host": "h", "user": "u", "port": LITERAL},
    "an access key": {"type": "s3", "url": "s3://b/x", "access_key": LITERAL},
    "a secret key": {"type": "s3", "url": "s3://b/x", "secret_key": LITERAL},
    "the user of a bucket's URL": {"type": "s3", "url": f"s3://AK:{LITERAL}@b/x"},
    "a bucket without a scheme": {"type": "s3", "url": f"AK:{LITERAL}@b/x"},
    "the query of a bucket's URL": {"type": "s3", "url": f"s3://b/x?secret_key={LITERAL}"},
    "the query of an endpoint": {"type": "s3", "url": "s3://b/x", "endpoint": f"http://h/?X-Amz-Signature={LITERAL}"},
    "the user of an API's URL": {"type": "http", "url": f"http://u:{LITERAL}@h"},
    "the query of an API's URL": {"type": "http", "url": f"http://h/v1?api_key={LITERAL}"},
    "the path of an API's URL": {"type": "http", "url": f"http://h/v1/{TOKEN}"},
    "a bearer token": {"type": "http", "url": "http://h", "headers": {"Authorization": f"Bearer {LITERAL}"}},
    "a header's name": {"type": "http", "url": "http://h", "headers": {f"Authorization: Bearer {LITERAL}": "x"}},
    "headers as one text": {"type": "http", "url": "http://h", "headers": f"Authorization: Bearer {LITERAL}"},
    "a parameter": {"type": "http", "url": "http://h", "parameters": {"api_key": LITERAL}},
    "a parameter in digits": {"type": "http", "url": "http://h", "parameters": {"api_key": 90210421}},
    "the query of an endpoint's name": {"type": "http", "url": "http://h", "endpoints": {f"x?api_key={LITERAL}": {}}},
    "a parameter of an endpoint": {
        "type": "http", "url": "http://h", "endpoints": {"x": {"newest": {"token": LITERAL}}},
    },
    "a folder": {"type": "files", "root": f"ftp://u:{LITERAL}@h/"},
    "a secret key of Kinesis": {"type": "kinesis", "region": "r", "access_key": LITERAL, "secret_key": LITERAL},
    "the query of Kinesis' endpoint": {"type": "kinesis", "region": "r", "endpoint": f"http://h/?token={LITERAL}"},
    "a password of Kafka": {"type": "kafka", "bootstrap": "h", "security": {"password": LITERAL}},
}  # fmt: skip

PIPELINES: Final[dict[str, dict[str, Any]]] = {
    "a description": {"metadata": {"name": "p", "description": f"reads {URL}"}},
    "a password in a description": {"metadata": {"name": "p", "description": f"log in by password={LITERAL}"}},
    "an owner": {"metadata": {"name": "p", "owner": URL}},
    "a label": {"metadata": {"name": "p", "labels": {"password": LITERAL}}},
    "a token as a label": {"metadata": {"name": "p", "labels": {"ticket": TOKEN}}},
    "a connection's name": {"source": {"connection": URL, "object": "x"}},
    "the source's object": {"source": {"connection": "api", "object": f"x?api_key={LITERAL}"}},
    "the sink's object": {"sink": {"connection": "lake", "object": f"http://u:{LITERAL}@h/x"}},
    "the query of the sink's object": {"sink": {"connection": "lake", "object": f"x?token={LITERAL}"}},
    "a lookup's object": {
        "transforms": [{
            "name": "a",
            "lookup": {"connection": "api", "object": f"x?api_key={LITERAL}", "on": {"a": "a"}, "take": {"b": "b"}},
        }],
    },
    "an expression": {"transforms": [{"name": "a", "set": {"b": f"'{URL}'"}}]},
    "a token in an expression": {"transforms": [{"name": "a", "filter": f"b = '{TOKEN}'"}]},
    "a mapping": {"mapping": {"fields": [{"target": "a", "sql": f"'{TOKEN}'"}]}},
    "a function": {"transforms": [{"name": "a", "python": {"call": f"m:f?{LITERAL}", "columns": {"a": "text"}}}]},
    "a mask": {"transforms": [{"name": "a", "mask": {"phone": LITERAL}}]},
    "rows of a test": {"tests": [{"name": "a", "given": [{"a": URL}], "expect": []}]},
    "a key that does not exist": {"password": LITERAL},
}  # fmt: skip


def refused(folder: Path, name: str, text: str) -> None:
    """Apply a file that must be refused, with every detail that there is, before anything starts."""
    (folder / name).write_text(text)
    for command in ("validate", "apply"):
        for more in ((), ("--json",), ("--debug",)):
            said = penstock(command, folder / name, "--project", folder, *more)
            assert said.code == 2, said.out + said.err
            assert LITERAL not in said.out + said.err
            assert "90210421" not in said.out + said.err
    assert not (folder / ".penstock").exists()


@pytest.mark.parametrize("place", CONNECTIONS)
def test_a_literal_secret_in_a_connection_is_refused_and_not_repeated(tmp_path: Path, place: str) -> None:
    refused(tmp_path, "connections.yaml", json.dumps({"shop": CONNECTIONS[place]}))


@pytest.mark.parametrize("place", PIPELINES)
def test_a_literal_secret_in_a_pipeline_is_refused_and_not_repeated(tmp_path: Path, place: str) -> None:
    change = dict(PIPELINES[place])
    metadata = change.pop("metadata", {"name": "p"})
    ends = {"source": {"connection": "shop", "object": "a"}, "sink": {"connection": "lake", "object": "b"}}
    document = {"apiVersion": "penstock/v1", "kind": "Pipeline", "metadata": metadata, "spec": ends | change}
    refused(tmp_path, "p.json", json.dumps(document))


@pytest.mark.parametrize("text", [f"*{LITERAL}", f"!{LITERAL} x", f"%{LITERAL}", f"{LITERAL}, password: {LITERAL}"])
def test_a_password_that_yaml_takes_for_a_sign_is_not_repeated(tmp_path: Path, text: str) -> None:
    refused(tmp_path, "connections.yaml", f"shop: {{type: postgres, dsn: dbname=d, password: {text}}}\n")


def test_a_literal_secret_in_a_policy_is_refused_and_not_repeated(tmp_path: Path) -> None:
    refused(tmp_path, "policy.yaml", f"kind: AgentPolicy\nmetadata: {{name: a, description: '{URL}'}}\nspec: {{}}\n")


@pytest.mark.parametrize(
    "line", [f'mask_key = "{LITERAL}"', f'database_url = "u:{LITERAL}@h"', f'password = "{LITERAL}"']
)
def test_a_literal_secret_in_the_settings_is_refused_and_not_repeated(tmp_path: Path, line: str) -> None:
    (tmp_path / "penstock.toml").write_text(line)
    said = penstock("settings", "--project", tmp_path, "--debug")
    assert said.code == 2
    assert LITERAL not in said.out + said.err


@pytest.mark.parametrize(
    "text",
    [
        "Token of the day, the password is in the vault",
        "mailto:me@example.com",
        "https://example.com/path?page=2",
        "a=b",
    ],
)
def test_words_about_secrets_are_no_secrets(tmp_path: Path, text: str) -> None:
    ends = {"source": {"connection": "shop", "object": "a"}, "sink": {"connection": "lake", "object": "b"}}
    document = {
        "kind": "Pipeline",
        "metadata": {"name": "p", "description": text, "labels": {"secret": "yes", "commit": "9f8e7d6c5b4a"}},
        "spec": ends,
    }
    (tmp_path / "p.json").write_text(json.dumps(document))
    said = penstock("validate", tmp_path / "p.json", "--project", tmp_path)
    assert said.code == 0, said.err


# --- secrets by reference


class Api:
    """An API that asks for a token, and repeats every secret of a request that it refuses."""

    def __init__(self, token: str, key: str) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                said = self.headers.get("Authorization", "")
                if self.path.startswith("/elsewhere"):
                    self._answer(302, b"", Location=f"http://127.0.0.1:1/{said}?{self.path}")
                elif said == f"Bearer {token}" and f"api_key={key}" in self.path:
                    self._answer(200, json.dumps([{"id": n, "town": f"town {n}"} for n in range(1, 4)]).encode())
                else:
                    self._answer(403, json.dumps({"error": f"{said} may not {self.path}"}).encode())

            def _answer(self, status: int, body: bytes, **headers: str) -> None:
                self.send_response(status, f"no {self.headers.get('Authorization')}" if status > 200 else None)
                for name, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                """Suppress the log."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


LOOKS: Final = 10
"""Looks at a process that has just started, since it may change its command line; later one in as many."""


@dataclass
class CommandLines:
    """Command lines of all processes that start on this machine, collected by a thread."""

    seen: set[bytes] = field(default_factory=set)
    over: threading.Event = field(default_factory=threading.Event)
    looks: dict[str, int] = field(default_factory=dict)
    """Looks still to take at each process: the last of them long after it was forked."""

    def watch(self) -> None:
        while not self.over.wait(0.05):
            there = [one for one in os.listdir("/proc") if one.isdecimal()]  # noqa: PTH208 - many times a second
            self.looks = {one: self.looks.get(one, LOOKS) - 1 for one in there}
            for process, looks in self.looks.items():
                if looks >= 0 or looks % LOOKS == 0:
                    with contextlib.suppress(OSError):
                        self.seen.add(Path("/proc", process, "cmdline").read_bytes())


SECRETS: Final = {
    "CATALOG": "xqcatalogqx", "GUEST": "xqguestqx @/#%?", "WRONG": "xqwrongqx", "WAREHOUSE": "xqwarehouseqx 'a",
    "TOKEN": "xqtokenqx", "KEY": "xqkeyqx", "MYSQL": "xqmysqlqx'\"", "MASK": "xqmaskqx", "RAISED": "xqraisedqx",
}  # fmt: skip
WORDS: Final = [*(f"xq{name.lower()}qx".encode() for name in SECRETS), S3_SECRET.encode()]
"""Parts of the secrets that are written the same everywhere, and are in nothing else."""

STEPS: Final = """
import os

def towns(batch):
    print("a step that prints")
    return batch

def fails(batch):
    raise ValueError(os.environ["PENSTOCK_SECRET_RAISED"])
"""


@dataclass
class Planted:
    """A project whose connections, keys and databases all need secrets, with `penstock up`."""

    project: Project
    catalog: str
    pg: EmbeddedServer
    said: list[str] = field(default_factory=list)

    def do(self, *arguments: str | Path) -> int:
        """Run a command with every detail; return its exit code."""
        done = self.project.do(*arguments, "--debug")
        self.said.append(done.out + done.err)
        return done.code

    def stored(self) -> Iterator[bytes]:
        """Yield every value that the catalog and the log contain."""
        for name in (self.catalog, f"{self.catalog}_log"):
            with postgres.connect(self.pg.dsn(name), "tests") as session:
                query = (
                    "SELECT schemaname, tablename FROM pg_tables"
                    " WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
                )
                for table in session.execute(query).fetchall():
                    for row in session.execute(sql.SQL("SELECT * FROM {}").format(sql.Identifier(*table))):
                        for value in row:
                            yield value if isinstance(value, bytes) else str(value).encode()

    def files(self) -> Iterator[Path]:
        """Yield the files of the project, without the user's own secrets, and the log of the databases."""
        for folder in (self.project.folder, self.pg.folder):
            yield from (
                one
                for one in folder.rglob("*")
                if one.is_file()
                and not one.is_relative_to(self.project.folder / "secrets")
                and "base" not in one.parts
                and "pg_wal" not in one.parts
            )


def env(name: str) -> str:
    return f"${{env:PENSTOCK_SECRET_{name}}}"


@pytest.fixture(scope="module")
def s3_server() -> Iterator[S3Server]:
    home = short_folder()
    server = S3Server(home, free_port())
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def mysql_server() -> Iterator[MysqlServer]:
    home = short_folder()
    server = MysqlServer(home, free_port(), program())
    server.make()
    server.start()
    server.query("CREATE DATABASE crm CHARACTER SET utf8mb4")
    server.query("CREATE TABLE crm.people (id int PRIMARY KEY, name varchar(20))")
    server.query("INSERT INTO crm.people VALUES (1, 'one'), (2, 'two')")
    server.query("CREATE USER guest@'%%' IDENTIFIED BY %s", values=[SECRETS["MYSQL"]])
    server.query("GRANT ALL ON crm.* TO guest@'%'")
    yield server
    server.stop()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def guarded(pg: EmbeddedServer, new_database: Callable[[], str]) -> Iterator[dict[str, str]]:
    """Databases of roles that need their passwords: DSNs without them, by name."""
    names = {name: str(conninfo.conninfo_to_dict(new_database())["dbname"]) for name in ("catalog", "shop", "lake")}
    with postgres.connect(pg.dsn("postgres"), "tests") as session:
        session.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(f"{names['catalog']}_log")))
        for role, secret in (("keeper", "CATALOG"), ("guest", "GUEST"), ("storer", "WAREHOUSE")):
            hashed = session.pgconn.encrypt_password(SECRETS[secret].encode(), role.encode(), b"scram-sha-256")
            statement = "CREATE ROLE {} LOGIN SUPERUSER PASSWORD {}"
            session.execute(sql.SQL(statement).format(sql.Identifier(role), sql.Literal(hashed.decode())))
        hba = Path(str(session.execute("SHOW hba_file").fetchone()[0]))  # type: ignore[index]
        before = hba.read_text()
        hba.write_text("local all keeper,guest,storer scram-sha-256\n" + before)
        session.execute("SELECT pg_reload_conf()")
        roles = {"catalog": "keeper", "shop": "guest", "lake": "storer"}
        yield {one: conninfo.make_conninfo(pg.dsn(name), user=roles[one]) for one, name in names.items()}
        hba.write_text(before)
        session.execute("SELECT pg_reload_conf()")
        for name in (*names.values(), f"{names['catalog']}_log"):
            session.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
        session.execute("DROP ROLE keeper, guest, storer")


def connections(guarded: dict[str, str], folder: Path, api: str, s3: S3Server, mysql: MysqlServer) -> dict[str, Any]:
    """Return connections that work by their secrets, ones that are refused (`bad_`), and unreachable ones (`lost_`)."""

    def file(name: str) -> str:
        return f"${{file:{folder}/{name}}}"

    shop = {"type": "postgres", "dsn": guarded["shop"], "password": env("GUEST")}
    nowhere = "postgresql://u:${env:PENSTOCK_SECRET_WRONG}@127.0.0.1:1/d"
    crm = mysql.connection("crm", user="guest", password=env("MYSQL"))
    http = {
        "type": "http", "url": api, "headers": {"Authorization": f"Bearer {env('TOKEN')}"},
        "parameters": {"api_key": file("KEY")},
    }  # fmt: skip
    wrong = {"headers": {"Authorization": f"Bearer {env('WRONG')}"}}
    lake = {
        "type": "s3", "url": "s3://lake/planted", "endpoint": s3.endpoint, "region": "us-east-1",
        "access_key": file("S3_KEY"), "secret_key": file("S3"),
    }  # fmt: skip
    return {
        "shop": shop,
        "bad_shop": shop | {"password": env("WRONG")},
        "lost_shop": {"type": "postgres", "dsn": nowhere},
        "warehouse": {"type": "postgres", "dsn": file("WAREHOUSE")},
        "crm": crm,
        "bad_crm": crm | {"password": env("WRONG")},
        "lost_crm": crm | {"port": 1},
        "towns": http,
        "bad_towns": http | wrong,
        "lost_towns": http | wrong | {"url": "http://127.0.0.1:1"},
        "moved_towns": http | wrong | {"url": f"{api}/elsewhere"},
        "lake": lake,
        "bad_lake": lake | {"secret_key": env("WRONG")},
        "lost_lake": lake | {"endpoint": "http://127.0.0.1:1"},
    }


ONCE: Final = {"retry": {"attempts": 1}}


def pipeline(name: str, source: dict[str, Any], sink: dict[str, Any], *steps: dict[str, Any]) -> dict[str, Any]:
    spec = {"source": source, "sink": sink | {"write": "replace"}, "transforms": list(steps), "errors": ONCE}
    return {
        "kind": "Pipeline", "metadata": {"name": name, "owner": "marker-of-the-test"}, "spec": spec,
    }  # fmt: skip


def pipelines() -> list[dict[str, Any]]:
    shop, people = {"connection": "shop", "object": "public.people"}, {"connection": "crm", "object": "people"}
    towns = {"connection": "towns", "object": "/towns"}
    look = {
        "name": "town",
        "lookup": {"connection": "towns", "object": "/towns", "on": {"id": "id"}, "take": {"town": "town"}},
    }
    mask = {"name": "hide", "mask": {"phone": "hash"}}
    call = {"name": "call", "python": {"call": "planted_steps:towns", "columns": {"town": "text"}}}
    fails = {"name": "call", "python": {"call": "planted_steps:fails", "columns": {"phone": "text"}}}
    into = {"connection": "warehouse"}
    found = [
        pipeline("good-shop", shop, into | {"object": "public.one"}, look, mask, call),
        pipeline("good-crm", people, {"connection": "lake", "object": "people", "format": {"type": "parquet"}}),
        pipeline("good-towns", towns, into | {"object": "public.three"}),
        pipeline("fails-step", shop, into | {"object": "public.four"}, fails),
    ]
    for kind, object_ in (("shop", "public.people"), ("crm", "people"), ("towns", "/towns"), ("lake", "x.csv")):
        for prefix in ("bad", "lost"):
            source = {"connection": f"{prefix}_{kind}", "object": object_}
            found.append(pipeline(f"{prefix}-{kind}", source, into | {"object": f"public.never_{prefix}_{kind}"}))
    found.append(
        pipeline("moved-towns", {"connection": "moved_towns", "object": "/x"}, into | {"object": "public.never"})
    )
    found.append(pipeline("bad-sink", shop, {"connection": "bad_lake", "object": "y", "format": {"type": "csv"}}))
    bad_lookup = look | {"lookup": look["lookup"] | {"connection": "bad_towns"}}  # type: ignore[operator]
    return [*found, pipeline("bad-lookup", shop, into | {"object": "public.five"}, bad_lookup)]


@pytest.fixture
def planted(
    pg: EmbeddedServer,
    guarded: dict[str, str],
    s3_server: S3Server,
    mysql_server: MysqlServer,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Planted]:
    folder = short_folder()
    api = Api(SECRETS["TOKEN"], SECRETS["KEY"])
    with ending(Project(folder)) as project:
        (folder / "secrets").mkdir(mode=0o700)
        dsn = conninfo.make_conninfo(guarded["lake"], password=SECRETS["WAREHOUSE"])
        keys = {"S3": S3_SECRET, "S3_KEY": "penstock", "WAREHOUSE": dsn}
        for name, secret in {**SECRETS, **keys}.items():
            (folder / "secrets" / name).write_text(secret)
            monkeypatch.setenv(f"PENSTOCK_SECRET_{name}", secret)
        (folder / "planted_steps.py").write_text(STEPS)
        reference = f"${{file:{folder}/secrets/MASK}}"
        (folder / "penstock.toml").write_text(
            f'python_modules = "planted_steps"\nmask_key = "{reference}"\nslots = 2\n'
        )
        made = connections(guarded, folder / "secrets", api.url, s3_server, mysql_server)
        (folder / "connections.yaml").write_text(json.dumps(made))
        (folder / "pipelines").mkdir()
        for one in pipelines():
            (folder / "pipelines" / f"{one['metadata']['name']}.json").write_text(json.dumps(one))
        with psycopg.connect(
            conninfo.make_conninfo(guarded["shop"], password=SECRETS["GUEST"]), autocommit=True
        ) as shop:
            shop.execute("CREATE TABLE people (id int PRIMARY KEY, phone text)")
            shop.execute("INSERT INTO people VALUES (1, '+49 1'), (2, '+49 2')")
        url = conninfo.make_conninfo(guarded["catalog"], password=SECRETS["CATALOG"])
        monkeypatch.setenv("PENSTOCK_DATABASE_URL", url)
        monkeypatch.setenv("PENSTOCK_TRACES", "console")
        monkeypatch.setenv("PENSTOCK_DEBUG", "1")
        name = str(conninfo.conninfo_to_dict(guarded["catalog"])["dbname"])
        yield Planted(project, name, pg)
    api.close()


@pytest.mark.long
def test_what_a_reference_names_is_written_nowhere(planted: Planted) -> None:
    lines = CommandLines()
    threading.Thread(target=lines.watch, daemon=True).start()
    said = planted.project.folder / "up.log"
    with said.open("w") as out:
        planted.project.start("up", "--port", "0", "--json", out=out, program=FORKING)
        until(lambda: '"health"' in said.read_text(), "`up` to start")
    assert planted.do("apply") == 0, planted.said
    names = [one["metadata"]["name"] for one in pipelines()]
    assert planted.do("run", *names, "--watch") == 1
    ended = {run["pipeline"]: run["status"] for run in planted.project.done("runs", "--limit", "100")}
    assert ended == {one: "completed" if one.startswith("good") else "failed" for one in names}, planted.said
    failing = [name for name in names if ended[name] == "failed"]
    words: list[list[str]] = [
        *([one] for one in ("plan", "validate", "doctor", "settings", "list", "runs", "audit")),
        *(["events", "--since", "0"], ["topics", "list"], ["topics", "lag"], ["dlq", "list"]),
        *(["preview", one] for one in failing[:3]), ["status", failing[0]], ["run", failing[0], "--watch"],
    ]  # fmt: skip
    for one in words:
        planted.do(*one)
        planted.do(*one, "--json")
    planted.do("delete", "good-shop", "--yes")
    lines.over.set()
    assert any(b"dataflows.runs" in one or b"penstock" in one for one in lines.seen)
    assert [line for line in lines.seen if has_secret(line)] == []
    assert [one for one in planted.said if has_secret(one.encode())] == []
    stored = list(planted.stored())
    assert any(b"marker-of-the-test" in one for one in stored)
    assert [one for one in stored if has_secret(one)] == []
    files = {one: one.read_bytes() for one in planted.files()}
    assert any(b'"trace_id"' in one for one in files.values())
    assert any(b"a step that prints" in one for one in files.values())
    assert [one for one, data in files.items() if has_secret(data)] == []
    assert stat.S_IMODE((planted.project.folder / ".penstock").stat().st_mode) == 0o700


def has_secret(data: bytes) -> bool:
    return any(word in data for word in WORDS)
