"""The whole system with its topics on Kafka, by one setting."""

from __future__ import annotations

import itertools
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
import yaml
from confluent_kafka.admin._config import AlterConfigOpType, ConfigEntry, ConfigResource
from confluent_kafka.admin._resource import ResourceType

from catalog.compare import Digest, digest
from dataflows.connectors.kafka.ledger import STATE_TOPIC
from penstock.kafka_url import KafkaUrl
from tests.api.project import Project
from tests.kafka import KafkaServer

pytestmark = pytest.mark.xdist_group("kafka-log")
_prefixes = itertools.count(1)


@pytest.fixture
def url(kafka: KafkaServer) -> str:
    return f"kafka://{kafka.bootstrap}?prefix=api{next(_prefixes)}.&replication=1"


@pytest.fixture
def kept(project: Project) -> Iterator[Project]:
    """A project whose server keeps running: each command would start it again."""
    with project.server.lease():
        yield project


@pytest.fixture
def on_kafka(project: Project, url: str) -> Project:
    """A project of the sample with its log on Kafka; nothing runs and nothing is applied."""
    settings = project.folder / "penstock.toml"
    text = settings.read_text() if settings.exists() else ""
    settings.write_text(f'{text}\nlog_url = "{url}"\n')
    return project


def test_up_apply_run_and_results_with_the_topics_on_kafka_which_nobody_may_copy_meanwhile(
    on_kafka: Project, url: str
) -> None:
    up, _ = on_kafka.up()
    on_kafka.done("apply")
    said = on_kafka.do("run", "orders", "--watch")
    assert said.code == 0, said.out + said.err
    assert on_kafka.differences() == {"lost": 0, "doubled": 0}
    found = {one["topic"]: one for one in on_kafka.done("topics", "list") if one["end"]}
    assert found["control"]["begin"] == 0
    assert "metrics" in found, "the run reported its progress"
    checks = {one["check"]: one for one in on_kafka.done("doctor")}
    assert url.partition("?")[0] in checks["catalog and topics"]["seen"]
    assert checks["penstock up"]["seen"] == "runs"
    refused = on_kafka.do("topics", "copy", "--to", "own")
    assert "it holds the lock 'up'" in refused.error
    assert "then copy" in refused.err
    up.send_signal(signal.SIGTERM)
    assert up.wait(60) == 0


def test_topics_copy_moves_an_installation_to_kafka_and_back(kept: Project, url: str) -> None:
    kept.done("apply")
    with _log_url(kept, url.replace("prefix=", "prefix=another-")):
        refused = kept.do("run", "orders")
        assert "the catalog was made from another log" in refused.error
        assert "copy them first: `penstock topics copy`" in refused.err
    assert kept.do("run", "orders", "--watch").code == 0
    kept.done("catalog", "rebuild")  # with the last records, which nothing may have projected yet
    before, control = _digest(kept), _control(kept)
    refused = kept.do("topics", "copy")
    assert "needs a target" in refused.error
    assert "are there already" in kept.do("topics", "copy", "--to", "own").error
    copied = kept.done("topics", "copy", "--to", url)
    assert next(one for one in copied if one["topic"] == "control")["copied"] == len(control)
    assert _control(kept) == control, "the source keeps its log"
    with _log_url(kept, url):
        assert _control(kept) == control
        assert all(one["well"] for one in kept.done("doctor") if one["check"] == "catalog and topics")
        assert kept.done("catalog", "rebuild")["records"] == len(control)
        assert _digest(kept) == before, "folded from Kafka, the catalog is the same"
        assert kept.do("run", "orders", "--watch").code == 0
        on_kafka = _control(kept)
        assert len(on_kafka) > len(control)
        assert kept.done("topics", "copy", "--to", "own")
    assert _control(kept) == on_kafka
    assert kept.do("run", "orders", "--watch").code == 0
    assert kept.differences() == {"lost": 0, "doubled": 0}


def test_topics_create_checks_the_topics(on_kafka: Project, url: str, kafka: KafkaServer) -> None:
    assert {one["topic"] for one in on_kafka.done("topics", "create")} == {"control", "metrics"}
    prefix = KafkaUrl.parse(url).prefix
    admin = kafka.admin()
    (resource,) = [ConfigResource(ResourceType.TOPIC, f"{prefix}control")]
    resource.add_incremental_config(ConfigEntry("retention.ms", "1000", incremental_operation=AlterConfigOpType.SET))
    admin.incremental_alter_configs([resource])[resource].result(60)
    assert "the log is on Kafka, which has no topics of yours" in on_kafka.do("topics", "create", "clicks").error
    assert "the topic has another `retention.ms`" in on_kafka.do("topics", "create").error


def _digest(project: Project) -> Mapping[str, Digest]:
    with project.server.lease():
        return digest(project.server.dsn("penstock"))


def _control(project: Project) -> list[dict[str, Any]]:
    return project.do("topics", "tail", "control", "--from", "0", "--json").lines


@contextmanager
def _log_url(project: Project, url: str) -> Iterator[None]:
    settings = project.folder / "penstock.toml"
    text = settings.read_text() if settings.exists() else ""
    settings.write_text(f'{text}\nlog_url = "{url}"\n')
    yield
    settings.write_text(text)


def test_without_a_broker_a_command_says_so_in_one_line(kept: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.topics.kafka_client.SECONDS", 1.0)
    with _log_url(kept, "kafka://127.0.0.1:1"):
        said = kept.do("status", "orders")
        assert said.code == 1
        assert said.error.startswith("error: topic log kafka://127.0.0.1:1: ")
        assert "check that the brokers run and can be reached" in said.err


def test_plan_refuses_a_pipeline_whose_state_at_its_topic_was_deleted(kept: Project, kafka: KafkaServer) -> None:
    connections = kept.folder / "connections.yaml"
    bus = {"type": "kafka", "bootstrap": kafka.bootstrap}
    connections.write_text(yaml.safe_dump(yaml.safe_load(connections.read_text()) | {"bus": bus}))
    path = kept.folder / "pipelines" / "orders.yaml"
    document = yaml.safe_load(path.read_text())
    document["spec"] |= {"sink": {"connection": "bus", "object": "orders-out", "write": "append"}}
    document["spec"]["source"] |= {"cursor": {"field": "id"}}
    path.write_text(yaml.safe_dump(document))
    kept.done("apply")
    said = kept.do("run", "orders", "--watch")
    assert said.code == 0, said.out + said.err
    kafka.delete(STATE_TOPIC)
    (planned,) = kept.do("plan", "orders", "--json").json
    assert "nothing says which rows are written" in planned["refused"]
    failed = kept.do("run", "orders", "--watch")
    assert failed.code != 0
    assert "nothing says which rows are written" in failed.out + failed.err
