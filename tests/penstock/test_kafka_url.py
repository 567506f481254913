"""The address of a log on Kafka, and the setting that has it."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock.errors import SettingsError
from penstock.kafka_url import KafkaUrl
from penstock.settings import load

SASL = "security.protocol=SASL_SSL&sasl.mechanism=PLAIN&username=app"


def test_a_url_becomes_the_clients_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_SECRET_KAFKA", "s3cret")
    password = "password=${env:PENSTOCK_SECRET_KAFKA}"
    url = KafkaUrl.parse(f"kafka://a:9092,[::1]:9093/?prefix=x.&replication=3&{SASL}&{password}&ssl.ca.location=/ca")
    assert (url.brokers, url.prefix, url.replication) == ("a:9092,[::1]:9093", "x.", 3)
    assert url.client() == {
        "bootstrap.servers": "a:9092,[::1]:9093",
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": "PLAIN",
        "sasl.username": "app",
        "sasl.password": "s3cret",
        "ssl.ca.location": "/ca",
    }
    assert "s3cret" not in url.shown + repr(url)
    assert KafkaUrl.parse("kafka://a:9092").prefix == "penstock."


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("kafka://", "not a list of brokers"),
        ("kafka://host", "not a list of brokers"),
        ("kafka://a:9092,", "not a list of brokers"),
        ("kafka://a:9092/topic", "not a list of brokers"),
        ("kafka://me:hunter2@a:9092", "a user stands before the host"),
        ("kafka://a:9092?replicas=3", "`replicas` is not a parameter"),
        ("kafka://a:9092?replication=0", "`replication` has an invalid value"),
        ("kafka://a:9092?prefix=x&prefix=y", "`prefix` stands there twice"),
        ("kafka://a:9092?security.protocol=TLS", "`security.protocol` has an unknown value"),
        (f"kafka://a:9092?{SASL}", "needs `sasl.mechanism`, `username` and `password`"),
        ("kafka://a:9092?username=app", "`username` needs a login by SASL"),
        (f"kafka://a:9092?{SASL}&password=hunter2", "`password` must be a reference to a secret"),
        ("kafka://a:9092?ssl.key.password=hunter2", "`ssl.key.password` must be a reference to a secret"),
    ],
)
def test_a_wrong_url_is_refused_by_name_and_without_its_secrets(url: str, what: str) -> None:
    with pytest.raises(SettingsError, match=what) as refused:
        KafkaUrl.parse(url)
    assert "hunter2" not in str(refused.value)


def test_the_setting_takes_a_log_on_kafka_next_to_the_embedded_catalog(tmp_path: Path) -> None:
    password = "password=${env:PENSTOCK_SECRET_KAFKA}"
    settings = load(tmp_path, {"PENSTOCK_LOG_URL": f"kafka://a:9092?prefix=x.&{SASL}&{password}"})
    assert settings.embedded
    assert settings.shown()["log_url"] == "kafka://a:9092?prefix=x."


def test_the_setting_refuses_a_literal_password(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="PENSTOCK_LOG_URL: `password` must be a reference"):
        load(tmp_path, {"PENSTOCK_LOG_URL": f"kafka://a:9092?{SASL}&password=hunter2"})
