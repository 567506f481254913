"""Connections to other systems as users write them: secrets are references, resolved last."""

from __future__ import annotations

from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal, Self
from typing import cast as typed

from pydantic import AfterValidator, BeforeValidator, Field, TypeAdapter, ValidationError, model_validator

from penstock.errors import InvalidDocument, Issue, Refused
from penstock.models.base import Model, Name, issues_of
from penstock.models.http import HttpConnection
from penstock.models.receivers import SlackConnection, SmtpConnection, WebhookConnection
from penstock.models.secrets import Dsn, Secret, literal_in_query, literals, resolve, resolve_dsn
from penstock.models.traits import ConnectionModel

__all__ = [
    "TYPES",
    "Connection",
    "DuckdbConnection",
    "FilesConnection",
    "HttpConnection",
    "KafkaConnection",
    "KinesisConnection",
    "MysqlConnection",
    "PostgresConnection",
    "S3Connection",
    "SchemaRegistry",
    "SlackConnection",
    "SmtpConnection",
    "SqliteConnection",
    "TopicsConnection",
    "WebhookConnection",
    "parse_connection",
    "parse_connections",
    "plugged_in",
    "postgres_dsn",
    "resolve",
]


class PostgresConnection(ConnectionModel):
    """PostgreSQL 12 or newer: a libpq connection string or URL, and the password by reference."""

    type: Literal["postgres"]
    sends_changes: ClassVar[bool] = True
    holds_nul: ClassVar[bool] = False
    drops_repeats: ClassVar[bool] = True
    dsn: Dsn
    password: Secret | None = None


class FilesConnection(ConnectionModel):
    """A folder on this machine; a pipeline's objects are paths below it."""

    type: Literal["files"]
    root: Annotated[str, Field(pattern=r"^/")]


def _prefix(value: str) -> str:
    """Refuse a prefix that no key of an object can begin with, as far as clients agree on it."""
    prefix = value.removeprefix("s3://").partition("/")[2].strip("/")
    if prefix and {"", ".", ".."} & set(prefix.split("/")):
        message = "holds an empty part, `.` or `..` between its slashes; write the prefix without it"
        raise ValueError(message)
    if not prefix.isprintable():
        message = "holds a character that cannot be seen; write the prefix without it"
        raise ValueError(message)
    return value


def _without_query(value: str) -> str:
    """Refuse a secret in the query of a URL that takes none."""
    if why := literal_in_query(value):
        raise ValueError(why)
    return value


class S3Connection(ConnectionModel):
    """A bucket and prefix on S3 or a server that speaks its protocol."""

    type: Literal["s3"]
    url: Annotated[str, Field(pattern=r"^s3://[^/]+"), AfterValidator(_without_query), AfterValidator(_prefix)]
    endpoint: Annotated[str, AfterValidator(_without_query)] | None = None
    region: str | None = None
    access_key: Secret | None = None
    secret_key: Secret | None = None
    session_token: Secret | None = None


class SqliteConnection(ConnectionModel):
    """An SQLite database file on this machine; as a sink it is created if it is missing."""

    type: Literal["sqlite"]
    path: Annotated[str, Field(pattern=r"^/")]


class DuckdbConnection(ConnectionModel):
    """A DuckDB database file on this machine; as a sink it is created if it is missing."""

    type: Literal["duckdb"]
    path: Annotated[str, Field(pattern=r"^/")]


class MysqlTls(Model):
    """Encryption of a connection to MySQL; `verify` checks the server's certificate and name."""

    mode: Literal["disable", "prefer", "require", "verify"] = "prefer"
    ca: str | None = None
    cert: str | None = None
    key: str | None = None


def _without_password(user: str) -> str:
    if ":" in user:
        message = "contains a literal password after its colon; move it to `password: ${env:PENSTOCK_SECRET_NAME}`"
        raise ValueError(message)
    return user


class MysqlConnection(ConnectionModel):
    """MySQL 8 or MariaDB 10.5, or newer: by host and port, or by the server's socket on this machine."""

    type: Literal["mysql", "mariadb"]
    holds_zero_dates: ClassVar[bool] = True
    drops_repeats: ClassVar[bool] = True
    """MySQL's does; MariaDB keeps the text."""
    host: Annotated[str, Field(pattern=r"^[^@\s]*$")] | None = None
    port: Annotated[int, Field(ge=1, le=65535)] = 3306
    socket: Annotated[str, Field(pattern=r"^/")] | None = None
    database: Annotated[str, Field(min_length=1)] | None = None
    user: Annotated[str, Field(min_length=1), AfterValidator(_without_password)]
    password: Secret | None = None
    tls: MysqlTls | None = None

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.host is None) == (self.socket is None):
            message = "needs one of `host` and `socket`"
            raise ValueError(message)
        return self


def _without_login(url: object) -> object:
    if isinstance(url, str) and "@" in url.partition("://")[2].split("/", 1)[0]:
        message = "contains a user or password; write `username`, and `password` as a reference"
        raise ValueError(message)
    return url


class KafkaSecurity(Model):
    """Login to the brokers."""

    protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = None
    username: str | None = None
    password: Secret | None = None
    ca: str | None = None


class SchemaRegistry(Model):
    """A schema registry with the REST interface of Confluent's; `ca` is a file of certificates in PEM."""

    url: Annotated[str, Field(pattern=r"^https?://[^\s?#@/]+(/[^\s?#]*)?$"), BeforeValidator(_without_login)]
    username: str | None = None
    password: Secret | None = None
    ca: str | None = None


class KafkaConnection(ConnectionModel):
    """Apache Kafka by its bootstrap servers, and the registry of its messages' schemas."""

    type: Literal["kafka"]
    only_streams: ClassVar[bool] = True
    many_topics: ClassVar[bool] = True
    bootstrap: Annotated[str, Field(min_length=1)]
    security: KafkaSecurity = KafkaSecurity()
    registry: SchemaRegistry | None = None


class KinesisConnection(ConnectionModel):
    """Amazon Kinesis Data Streams in one region; without keys, the machine's own role or profile signs the requests.

    What pipelines that write to it keep is in a table of DynamoDB, at `state_endpoint`, or `endpoint`, if they are set.
    """

    type: Literal["kinesis"]
    only_streams: ClassVar[bool] = True
    at_least_once: ClassVar[str] = (
        "each row is written at least once: Kinesis has no transactions, so that rows are sent again after a crash, "
        "and after a request that the stream has taken in part; the last copies of one key are in order"
    )
    region: Annotated[str, Field(pattern=r"^[a-z0-9-]+$")]
    endpoint: Annotated[str, Field(pattern=r"^https?://[^@\s]+$"), AfterValidator(_without_query)] | None = None
    state_endpoint: Annotated[str, Field(pattern=r"^https?://[^@\s]+$"), AfterValidator(_without_query)] | None = None
    access_key: Secret | None = None
    secret_key: Secret | None = None
    session_token: Secret | None = None

    @model_validator(mode="after")
    def _both_keys(self) -> Self:
        if (self.access_key is None) != (self.secret_key is None) or (self.session_token and not self.access_key):
            message = "needs `access_key` and `secret_key` together, or none of them for the machine's own role"
            raise ValueError(message)
        return self


class TopicsConnection(ConnectionModel):
    """A topic log on PostgreSQL, by a libpq connection string or URL of the server itself, not of a pool."""

    type: Literal["topics"]
    only_streams: ClassVar[bool] = True
    dsn: Dsn
    password: Secret | None = None


Connection = Annotated[
    PostgresConnection
    | FilesConnection
    | S3Connection
    | SqliteConnection
    | DuckdbConnection
    | MysqlConnection
    | HttpConnection
    | KafkaConnection
    | KinesisConnection
    | TopicsConnection
    | WebhookConnection
    | SlackConnection
    | SmtpConnection,
    Field(discriminator="type"),
]
"""One connection of `connections.yaml`; `type` says which."""

TYPES: dict[str, type[Model]] = {
    "postgres": PostgresConnection, "files": FilesConnection, "s3": S3Connection, "sqlite": SqliteConnection,
    "duckdb": DuckdbConnection, "mysql": MysqlConnection, "mariadb": MysqlConnection, "http": HttpConnection,
    "kafka": KafkaConnection, "kinesis": KinesisConnection, "topics": TopicsConnection,
    "webhook": WebhookConnection, "slack": SlackConnection, "smtp": SmtpConnection,
}  # fmt: skip
"""The models by their `type`."""

PLUGINS: Final = "penstock.connectors"
"""The group of entry points by which another package adds a type of connection."""


@cache
def _one() -> TypeAdapter[Connection]:
    return TypeAdapter(Connection)


@cache
def _name() -> TypeAdapter[str]:
    return TypeAdapter(Name)


def plugged_in(kind: str) -> Any | None:
    """Return the connector class that an installed package provides for a type of connection, or None.

    Raises:
        Refused: the class declares no model of its connections.
    """
    found = next((point.load() for point in entry_points(group=PLUGINS, name=kind)), None)
    model = getattr(found, "model", None)
    if found is not None and not (isinstance(model, type) and issubclass(model, Model)):
        what = f"the connector of type {kind}, {found.__module__}.{found.__qualname__}, has no `model`"
        raise Refused(
            what, hint="give it one, a subclass of penstock.models.traits.ConnectionModel with the connection's keys"
        )
    return found


def parse_connection(name: str, data: object, *, where: str | None = None) -> Connection:
    """Parse one connection.

    Raises:
        InvalidDocument: lists every issue found, at ``name.key``.
    """
    kind = data.get("type") if isinstance(data, dict) else None
    if literal := [Issue(f"{name}.{path}".rstrip("."), what) for path, what in literals(data) if path != "dsn"]:
        raise InvalidDocument(literal, where=where)
    plugged = plugged_in(kind) if isinstance(kind, str) and kind not in TYPES else None
    try:
        _name().validate_python(name)
        if plugged is not None:
            return typed("Connection", plugged.model.model_validate(data, strict=True))
        return _one().validate_python(data, strict=True)
    except ValidationError as error:
        model = TYPES.get(str(kind), plugged.model if plugged else Model)
        found = issues_of(error, model, quoted=False)
        issues = [Issue(f"{name}.{i.path.removeprefix(f'{kind}').lstrip('.')}".rstrip("."), i.message) for i in found]
        raise InvalidDocument(issues, where=where) from error


def parse_connections(data: object, *, where: str | None = None) -> dict[str, Connection]:
    """Parse all connections of a `connections.yaml`."""
    if not isinstance(data, dict):
        raise InvalidDocument([Issue("", "must map names to connections")], where=where)
    issues: list[Issue] = []
    found: dict[str, Connection] = {}
    for name, value in data.items():
        try:
            found[str(name)] = parse_connection(str(name), value)
        except InvalidDocument as error:
            issues += error.issues
    if issues:
        raise InvalidDocument(issues, where=where)
    return found


def postgres_dsn(connection: PostgresConnection | TopicsConnection, *, name: str, secrets: Path | None = None) -> str:
    """Return the libpq string of `connection` with its password; keep it out of logs and records."""
    where = f"connection {name}"
    more = {}
    if connection.password is not None:
        more["password"] = resolve(connection.password, where=where, secrets=secrets)
    return resolve_dsn(connection.dsn, where=where, secrets=secrets, **more)
