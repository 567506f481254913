"""The log on a broker that wants TLS, a login and rights: who may do what, and what is said to the others."""

from __future__ import annotations

import itertools
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from confluent_kafka.admin._acl import AclBinding, AclOperation, AclPermissionType
from confluent_kafka.admin._resource import ResourcePatternType, ResourceType
from confluent_kafka.admin._scram import ScramCredentialInfo, ScramMechanism, UserScramCredentialUpsertion

from dataflows.connectors.contract import Owner, Place
from dataflows.connectors.kafka.ledger import STATE_TOPIC
from dataflows.connectors.kafka.source import KafkaSource
from dataflows.connectors.kafka.target import KafkaTarget
from dataflows.connectors.kafka.transactions import Transactions
from penstock.errors import AccessDenied, PenstockError, Unavailable, Unreachable
from penstock.models.connection import KafkaConnection, KafkaSecurity
from penstock.models.pipeline import Sink
from penstock.topics import CONTROL, METRICS, Message
from penstock.topics.kafka import KafkaLog
from tests.kafka import KafkaServer, free_port
from tests.reaper import short_folder

pytestmark = pytest.mark.xdist_group("kafka-log")

START = datetime(2026, 1, 1, tzinfo=UTC)
PASSWORD = "correct horse"
JAAS = "org.apache.kafka.common.security"
_prefixes = itertools.count(1)


@dataclass
class Secured:
    """A broker, the port of its listener with TLS and a login, and the file of the authority that it is signed by."""

    server: KafkaServer
    port: int
    authority: Path

    def url(self, user: str, mechanism: str = "SCRAM-SHA-512", prefix: str = "safe", **more: str) -> str:
        options = {
            "prefix": f"{prefix}{next(_prefixes)}.",
            "replication": "1",
            "security.protocol": "SASL_SSL",
            "sasl.mechanism": mechanism,
            "username": user,
            "password": "${env:PENSTOCK_SECRET_KAFKA}",
            "ssl.ca.location": str(self.authority),
            **{name.replace("_", "."): value for name, value in more.items()},
        }
        return f"kafka://127.0.0.1:{self.port}?" + "&".join(f"{name}={value}" for name, value in options.items())


@pytest.fixture(scope="module")
def secured(reaper: None) -> Iterator[Secured]:
    """A broker with a listener for TLS and SASL; user `app` may use topics below `safe`, `guest` may nothing."""
    server, port = KafkaServer(short_folder()), free_port()
    _certify(server.home)
    listeners = f"PLAINTEXT://{server.bootstrap},SECURE://127.0.0.1:{port}"
    server.make(
        **{
            "listeners": f"{listeners},CONTROLLER://127.0.0.1:{server.controller}",
            "advertised.listeners": listeners,
            "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SECURE:SASL_SSL",
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(server.home / "server.pem"),
            "listener.name.secure.sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-512",
            "listener.name.secure.plain.sasl.jaas.config": f"{JAAS}.plain.PlainLoginModule required"
            f' user_app="{PASSWORD}" user_guest="{PASSWORD}";',
            "listener.name.secure.scram-sha-512.sasl.jaas.config": f"{JAAS}.scram.ScramLoginModule required;",
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS",
        }
    )
    server.start()
    _admit(server)
    yield Secured(server, port, server.home / "authority.pem")
    server.kill()
    shutil.rmtree(server.home)


def _certify(folder: Path) -> None:
    """Make an authority, another one, and a certificate of 127.0.0.1 with its key in one file."""
    name = ["-days", "2", "-nodes", "-subj"]
    for authority in ("authority", "other"):
        files = ["-keyout", f"{authority}.key", "-out", f"{authority}.pem"]
        _openssl(folder, "req", "-x509", "-newkey", "rsa:2048", *files, *name, f"/CN={authority}")
    _openssl(
        folder, "req", "-x509", "-newkey", "rsa:2048", "-keyout", "server.key", "-out", "server.crt", *name,
        "/CN=127.0.0.1", "-CA", "authority.pem", "-CAkey", "authority.key", "-addext", "subjectAltName=IP:127.0.0.1",
    )  # fmt: skip
    (folder / "server.pem").write_text((folder / "server.key").read_text() + (folder / "server.crt").read_text())


def _openssl(folder: Path, *arguments: str) -> None:
    done = subprocess.run(["openssl", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def _admit(server: KafkaServer) -> None:
    """Give the users their passwords for SCRAM, and `app` the rights that the documentation lists."""
    admin = server.admin()
    how = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
    for user in ("app", "guest"):
        (future,) = admin.alter_user_scram_credentials(
            [UserScramCredentialUpsertion(user, how, PASSWORD.encode())]
        ).values()
        future.result(60)
    operations = ("CREATE", "DESCRIBE", "DESCRIBE_CONFIGS", "READ", "WRITE", "DELETE")
    rights = [
        AclBinding(
            ResourceType.TOPIC,
            "safe",
            ResourcePatternType.PREFIXED,
            "User:app",
            "*",
            getattr(AclOperation, operation),
            AclPermissionType.ALLOW,
        )
        for operation in operations
    ]
    for future in admin.create_acls(rights).values():
        future.result(60)


@pytest.fixture(autouse=True)
def _password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_SECRET_KAFKA", PASSWORD)


def use(url: str, locks: str) -> None:
    """Use the log in every way."""
    with KafkaLog(url, locks) as log:
        log.create(CONTROL)
        log.create(METRICS)
        assert log.append(CONTROL, [Message(b"k", b"v", START)]) == [(0, 0)]
        log.append(METRICS, [Message(None, b"old", START)], partition=0)
        assert [one.message.value for one in log.read(CONTROL, 0, 0, 10)] == [b"v"]
        log.trim(METRICS, START + timedelta(days=3))
        assert log.begin(METRICS, 0) == 1
        assert log.identity()


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-512"])
def test_a_user_with_the_documented_rights_does_all_over_tls(secured: Secured, database: str, mechanism: str) -> None:
    use(secured.url("app", mechanism), database)


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-512"])
def test_a_wrong_password_is_named_at_once_and_never_shown(
    secured: Secured, database: str, mechanism: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PENSTOCK_SECRET_KAFKA", "battery staple")
    refused, seconds = said(secured.url("app", mechanism), database)
    assert isinstance(refused, AccessDenied)
    assert "check the user, its password and its ACLs" in str(refused)
    assert "battery" not in str(refused)
    assert seconds < 8


def test_a_user_without_rights_is_refused_by_name(secured: Secured, database: str) -> None:
    refused, seconds = said(secured.url("guest"), database)
    assert isinstance(refused, AccessDenied)
    assert "check the user, its password and its ACLs" in str(refused)
    assert seconds < 8


def test_a_prefix_without_rights_is_refused_by_name(secured: Secured, database: str) -> None:
    refused, _ = said(secured.url("app", prefix="other"), database)
    assert isinstance(refused, AccessDenied)


def test_a_certificate_of_another_authority_is_refused_by_name(
    secured: Secured, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.topics.kafka_client.SECONDS", 3.0)
    refused, seconds = said(secured.url("app", ssl_ca_location=str(secured.authority.with_name("other.pem"))), database)
    assert isinstance(refused, Unavailable)
    assert re.search("certificate", str(refused))
    assert seconds < 7


def test_a_client_without_tls_gets_an_error_and_not_a_wait(
    secured: Secured, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.topics.kafka_client.SECONDS", 3.0)
    refused, seconds = said(f"kafka://127.0.0.1:{secured.port}", database)
    assert isinstance(refused, Unavailable)
    assert seconds < 7


def said(url: str, locks: str) -> tuple[PenstockError, float]:
    """Return the error of the first use of a log, and the seconds that it took."""
    began = time.monotonic()
    with KafkaLog(url, locks) as log, pytest.raises(PenstockError) as raised:
        log.create(CONTROL)
    return raised.value, time.monotonic() - began


def connection(secured: Secured, username: str) -> KafkaConnection:
    security = {"protocol": "SASL_SSL", "mechanism": "PLAIN", "ca": str(secured.authority)}
    security |= {"username": username, "password": "${env:PENSTOCK_SECRET_KAFKA}"}
    return KafkaConnection(type="kafka", bootstrap=f"127.0.0.1:{secured.port}", security=KafkaSecurity(**security))


def test_a_source_names_the_user_that_may_not_read(secured: Secured, monkeypatch: pytest.MonkeyPatch) -> None:
    secured.server.create("closed", 1, {})
    for password in (PASSWORD, "battery staple"):
        monkeypatch.setenv("PENSTOCK_SECRET_KAFKA", password)
        source = KafkaSource(Place("p", "bus", connection(secured, "guest"), "closed"))
        began = time.monotonic()
        with closing(source), pytest.raises(AccessDenied, match="the brokers refuse this user") as refused:
            source.describe()
        assert time.monotonic() - began < 8
        assert "check username, password and mechanism in `security`, and the ACLs" in str(refused.value)
        assert password not in str(refused.value)
    monkeypatch.setattr("dataflows.connectors.kafka.client.SECONDS", 2.0)
    away = Place("p", "bus", KafkaConnection(type="kafka", bootstrap="127.0.0.1:1"), "closed")
    with closing(KafkaSource(away)) as source, pytest.raises(Unreachable, match="is a broker listening at `bootstrap`"):
        source.describe()


def test_a_sink_names_the_rights_that_are_missing(secured: Secured) -> None:
    settings = connection(secured, "app")
    owner = Owner("u", "source", Sink(connection="bus", object="safe-out"))

    def grants() -> list[tuple[str, str]]:
        with closing(KafkaTarget.open(Place("p", "bus", settings, "safe-out"), owner)) as target:
            return target.missing_grants(grows=False)

    with pytest.raises(AccessDenied, match=STATE_TOPIC):
        grants()
    admin = secured.server.admin()
    bindings = [
        AclBinding(
            ResourceType.TOPIC,
            STATE_TOPIC,
            ResourcePatternType.LITERAL,
            "User:app",
            "*",
            operation,
            AclPermissionType.ALLOW,
        )
        for operation in (AclOperation.DESCRIBE, AclOperation.READ)
    ]
    for future in admin.create_acls(bindings).values():
        future.result(60)
    secured.server.create(STATE_TOPIC, 16, {"cleanup.policy": "compact"})
    grant = f"kafka-acls --add --allow-principal User:app --topic {STATE_TOPIC} --operation"
    assert grants() == [
        (f"the brokers do not let app describe configs topic {STATE_TOPIC}", f"{grant} DescribeConfigs"),
        (f"the brokers do not let app write topic {STATE_TOPIC}", f"{grant} Write"),
    ]
    with pytest.raises(AccessDenied, match="penstock-u"):
        Transactions.begun(Place("p", "bus", settings, "safe-out"), "penstock-u", "here", lambda: None)
