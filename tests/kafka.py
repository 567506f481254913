"""A broker of Apache Kafka for tests: one process that is broker and controller, on free ports of the loopback."""

from __future__ import annotations

import base64
import os
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, Message, Producer, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

__all__ = ["KafkaServer", "archive", "jars"]

WAIT: Final = 60.0
HEAP: Final = ("-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto")
SETTINGS: Final = {
    "controller.listener.names": "CONTROLLER",
    "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
    "inter.broker.listener.name": "PLAINTEXT",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "share.coordinator.state.topic.num.partitions": "1",
    "group.initial.rebalance.delay.ms": "0",
    "auto.create.topics.enable": "false",
    "broker.session.timeout.ms": "2000",
    "broker.heartbeat.interval.ms": "200",
    "controller.quorum.election.timeout.ms": "300",
    "controller.quorum.fetch.timeout.ms": "600",
    "log.retention.check.interval.ms": "200",
    "log.initial.task.delay.ms": "0",
    "file.delete.delay.ms": "100",
}
LOGGING: Final = """rootLogger.level=WARN
rootLogger.appenderRef.stdout.ref=STDOUT
appender.stdout.type=Console
appender.stdout.name=STDOUT
appender.stdout.layout.type=PatternLayout
appender.stdout.layout.pattern=%d %p %m (%c)%n
"""


def jars() -> Path:
    """Return the folder with the broker's jars, which tools/test-servers fetches."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "penstock" / "servers" / "kafka-4.1.1"


def archive() -> Path:
    """Return the file with the broker's classes as the virtual machine wants them: a start takes half the CPU then.

    `python -m tests.kafka` makes it, for tools/test-servers. Java ignores one of another release or of other jars.
    """
    return jars().with_name(f"{jars().name}.jsa")


def free_port() -> int:
    """Return a port of the loopback that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def cluster_id() -> str:
    """Return a new id of a cluster; one that began with a dash would be taken for an option."""
    return "K" + base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")[1:]


@dataclass
class KafkaServer:
    """A broker in a folder of its own, which keeps its data over kills and restarts."""

    home: Path
    node: int = 1
    of: KafkaServer | None = None
    """The first broker of its cluster, which is also the controller; None if it is that one."""
    cluster: str = field(default_factory=cluster_id)
    port: int = field(default_factory=free_port)
    controller: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None
    classes: str = field(default_factory=lambda: f"-XX:SharedArchiveFile={archive()}" if archive().exists() else "")
    """Option of Java about the archive of classes."""
    client: AdminClient | None = None
    """Client for topics, until the process ends."""

    @property
    def bootstrap(self) -> str:
        """Address of the broker."""
        return f"127.0.0.1:{self.port}"

    def make(self, **settings: str) -> None:
        """Write the settings and format the storage; `settings` have underscores in place of dots."""
        first = self.of or self
        own = {
            "node.id": str(self.node),
            "process.roles": "broker" if self.of else "broker,controller",
            "controller.quorum.bootstrap.servers": f"127.0.0.1:{first.controller}",
            "listeners": f"PLAINTEXT://{self.bootstrap}"
            + ("" if self.of else f",CONTROLLER://127.0.0.1:{self.controller}"),
            "advertised.listeners": f"PLAINTEXT://{self.bootstrap}",
            "log.dirs": str(self.home / "data"),
        }
        more = {name.replace("_", "."): value for name, value in settings.items()}
        lines = [f"{name}={value}\n" for name, value in (SETTINGS | own | more).items()]
        (self.home / "server.properties").write_text("".join(lines))
        (self.home / "log4j2.properties").write_text(LOGGING)
        kind = () if self.of else ("--standalone",)
        done = subprocess.run(
            [*self._java, "kafka.tools.StorageTool", "format", "-t", first.cluster, "-c", "server.properties", *kind],
            cwd=self.home,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def start(self) -> None:
        """Start it, and return when it answers."""
        with (self.home / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*self._java, "kafka.Kafka", "server.properties"],
                cwd=self.home,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
        end = time.monotonic() + WAIT
        while time.monotonic() < end:
            assert self.process.poll() is None, self.log()
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    self.admin().list_topics(timeout=WAIT)
                    return
            time.sleep(0.05)
        raise AssertionError(self.log())

    @property
    def _java(self) -> list[str]:
        shared = [self.classes] if self.classes else []
        return ["java", *HEAP, *shared, "-Dlog4j2.configurationFile=log4j2.properties", "-cp", f"{jars()}/*"]

    def log(self) -> str:
        """Return what it has printed."""
        return (self.home / "log").read_text()

    def kill(self, how: signal.Signals = signal.SIGKILL) -> None:
        """Send the signal; wait for the end after a SIGKILL or SIGTERM."""
        if self.process is None:
            return
        self.process.send_signal(how)
        if how in {signal.SIGKILL, signal.SIGTERM}:
            self.client = None
            self.process.wait()
            self.process = None

    def admin(self) -> AdminClient:
        """Return the client for topics."""
        if self.client is None:
            self.client = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})
        return self.client

    def create(
        self, topic: str, partitions: int = 1, config: Mapping[str, str] | None = None, *, copies: int = 1
    ) -> None:
        """Create a topic."""
        new = NewTopic(topic, num_partitions=partitions, replication_factor=copies, config=dict(config or {}))
        self.admin().create_topics([new])[topic].result(WAIT)

    def delete(self, topic: str) -> None:
        """Delete a topic, and return when it is gone."""
        admin = self.admin()
        admin.delete_topics([topic])[topic].result(WAIT)
        end = time.monotonic() + WAIT
        while topic in admin.list_topics(timeout=WAIT).topics:
            assert time.monotonic() < end, f"topic {topic} is still there"
            time.sleep(0.05)

    def topic_id(self, topic: str) -> str:
        """Return the id that the broker gave to the topic."""
        found = self.admin().describe_topics(TopicCollection([topic]))[topic].result(WAIT)
        return str(found.topic_id)

    def send(self, topic: str, *values: bytes | None, partition: int = 0, key: bytes | None = None) -> None:
        """Append messages in order, and return when they are durable.

        An idempotent producer would take half a second for its first message.
        """
        producer = Producer({"bootstrap.servers": self.bootstrap, "max.in.flight": 1, "linger.ms": 2})
        end = time.monotonic() + WAIT
        while partition and partition not in producer.list_topics(topic, WAIT).topics[topic].partitions:
            assert time.monotonic() < end, "a partition that was just added is shown a moment later"
            time.sleep(0.02)
        failed: list[str] = []
        for value in values:
            producer.produce(
                topic,
                value,
                key,
                partition,
                on_delivery=lambda error, _: failed.append(str(error)) if error else None,
            )
            producer.poll(0)
        assert producer.flush(WAIT) == 0
        assert not failed, failed

    def read(self, topic: str, isolation: str = "read_committed") -> list[Message]:
        """Return all messages of a topic, the partitions one after the other; none if there is no such topic."""
        settings = {"bootstrap.servers": self.bootstrap, "group.id": "tests", "isolation.level": isolation}
        consumer = Consumer(settings | {"enable.partition.eof": True, "fetch.wait.max.ms": 10, "log_level": 0})
        try:
            found = consumer.list_topics(topic, WAIT).topics[topic]
            missing = set(found.partitions)
            consumer.assign([TopicPartition(topic, part, 0) for part in missing])
            messages: list[Message] = []
            while missing:
                message = consumer.poll(WAIT)
                assert message is not None
                if message.error() is None:
                    messages.append(message)
                else:
                    assert "PARTITION_EOF" in str(message.error()), message.error()
                    missing.discard(message.partition())
            return sorted(messages, key=lambda one: (one.partition(), one.offset()))
        finally:
            consumer.close()

    def until(self, topic: str, count: int) -> None:
        """Wait until a topic, which may not be there yet, has so many committed messages.

        One consumer counts them as they come: one for each look would cost more than the run that is waited for.
        """
        settings = {"bootstrap.servers": self.bootstrap, "group.id": "tests", "isolation.level": "read_committed"}
        consumer = Consumer(settings | {"log_level": 0})
        places: dict[int, int] = {}
        """The next offset of each partition."""
        found, end = 0, time.monotonic() + WAIT
        try:
            while found < count:
                assert time.monotonic() < end, f"{found} of {count} messages in {topic}"
                if there := consumer.list_topics(topic, WAIT).topics[topic].partitions.keys() - places.keys():
                    places |= dict.fromkeys(there, 0)
                    consumer.assign([TopicPartition(topic, part, place) for part, place in places.items()])
                elif not places:
                    time.sleep(0.05)
                for message in consumer.consume(count - found, 0.5) if places else ():
                    if message.error() is None:
                        places[message.partition() or 0] = (message.offset() or 0) + 1
                        found += 1
        finally:
            consumer.close()

    def trim(self, topic: str, before: int, partition: int = 0) -> None:
        """Delete the messages before an offset, as retention does."""
        place = TopicPartition(topic, partition, before)
        self.admin().delete_records([place])[place].result(WAIT)

    def committed(self, group: str, topic: str, partition: int = 0) -> int:
        """Return the offset that a group has committed; negative if none."""
        asked = ConsumerGroupTopicPartitions(group, [TopicPartition(topic, partition)])
        found = self.admin().list_consumer_group_offsets([asked])[group].result(WAIT)
        return int(found.topic_partitions[0].offset)


def make_archive() -> None:
    """Make the archive from what a broker loads that starts, takes a message, gives it back and ends."""
    with tempfile.TemporaryDirectory() as home:
        server = KafkaServer(Path(home), classes="")
        server.make()
        made = archive().with_name(f".{archive().name}.{os.getpid()}")
        server.classes = f"-XX:ArchiveClassesAtExit={made}"
        server.start()
        server.create("topic")
        server.send("topic", b"value")
        assert [one.value() for one in server.read("topic")] == [b"value"]
        server.kill(signal.SIGTERM)
        made.replace(archive())


if __name__ == "__main__":
    make_archive()
