"""A server of Amazon Kinesis for tests: moto's, over HTTP on a free port of the loopback, in a process of its own.

Moto moves a shard's records to its children, numbers records from 1 in each shard, and goes on writing to closed
shards; none of that is so at Amazon, and it is put right here. Faults are answers that a test asks for.
"""

from __future__ import annotations

import hashlib
import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Final
from uuid import uuid4
from weakref import WeakKeyDictionary

__all__ = ["KinesisServer"]

ROOT: Final = Path(__file__).parents[1]
WAIT: Final = 30.0
REGION: Final = "eu-central-1"
BASE: Final = 49590338271490256608559692538361571095921575989136588802
"""Where the sequence numbers begin; they have 56 digits, as Amazon's have."""

REFUSED: Final[dict[str, list[list[int]]]] = {}
"""In the server's process: the places of the records that it refuses, for each of the next requests to a stream."""


@dataclass
class KinesisServer:
    """The server, and a client of it."""

    port: int = 0
    _process: subprocess.Popen[bytes] | None = None
    _client: Any = field(default=None, repr=False)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def connection(self, secrets: Path) -> dict[str, Any]:
        """Return the connection, as users write it; its secrets are files of a folder."""
        keys = {"access_key": "AKIATESTSTESTSTESTS0", "secret_key": "a secret of tests"}
        for name, value in keys.items():
            (secrets / name).write_text(value)
        references = {name: f"${{file:{secrets}/{name}}}" for name in keys}
        return {"type": "kinesis", "region": REGION, "endpoint": self.endpoint, **references}

    @property
    def client(self) -> Any:
        """A client without Penstock."""
        if self._client is None:
            from botocore.session import Session

            keys = {"aws_access_key_id": "tests", "aws_secret_access_key": "tests"}
            self._client = Session().create_client("kinesis", region_name=REGION, endpoint_url=self.endpoint, **keys)
        return self._client

    def start(self) -> None:
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            self.port = one.getsockname()[1]
        self._process = subprocess.Popen([sys.executable, "-m", "tests.kinesis", str(self.port)], cwd=ROOT)
        end = time.monotonic() + WAIT
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                assert time.monotonic() < end, "moto's server does not start"
                time.sleep(0.05)
            else:
                return

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def ask(self, **order: Any) -> Any:
        """Change what the server holds, or how it answers; see `_Orders`."""
        request = urllib.request.Request(f"{self.endpoint}/tests-orders", json.dumps(order).encode())  # noqa: S310 - the loopback
        with urllib.request.urlopen(request) as answer:  # noqa: S310 - as above
            return json.load(answer)

    def forget_state(self) -> None:
        """Delete the table in which pipelines that write to its streams keep their state."""
        from botocore.session import Session

        keys = {"aws_access_key_id": "tests", "aws_secret_access_key": "tests"}
        client = Session().create_client("dynamodb", region_name=REGION, endpoint_url=self.endpoint, **keys)
        for name in client.list_tables()["TableNames"]:
            client.delete_table(TableName=name)

    def create(self, stream: str, shards: int = 1) -> None:
        self.client.create_stream(StreamName=stream, ShardCount=shards)

    def send(self, stream: str, *values: bytes, key: str = "k", shard: str | None = None) -> None:
        """Append records to the shard of a key, or to an open shard."""
        more = {} if shard is None else {"ExplicitHashKey": self._hash(stream, shard)}
        for at in range(0, len(values), 500):
            records = [{"Data": value, "PartitionKey": key, **more} for value in values[at : at + 500]]
            assert self.client.put_records(StreamName=stream, Records=records)["FailedRecordCount"] == 0

    def shards(self, stream: str) -> dict[str, dict[str, Any]]:
        return {one["ShardId"]: one for one in self.client.list_shards(StreamName=stream)["Shards"]}

    def _hash(self, stream: str, shard: str) -> str:
        return str(self.shards(stream)[shard]["HashKeyRange"]["StartingHashKey"])

    def split(self, stream: str, shard: str) -> None:
        """Split a shard in halves."""
        place = self.shards(stream)[shard]["HashKeyRange"]
        middle = (int(place["StartingHashKey"]) + int(place["EndingHashKey"])) // 2 + 1
        self.client.split_shard(StreamName=stream, ShardToSplit=shard, NewStartingHashKey=str(middle))

    def merge(self, stream: str, one: str, other: str) -> None:
        self.client.merge_shards(StreamName=stream, ShardToMerge=one, AdjacentShardToMerge=other)


class _Orders:
    """What tests ask of the server, and how it answers until then."""

    def __init__(self, application: Callable[..., Iterable[bytes]]) -> None:
        self.application = application
        self.faults: list[dict[str, Any]] = []
        self.calls: list[str] = []

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/tests-orders":
            body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
            answer = json.dumps(getattr(self, "order_" + (order := json.loads(body)).pop("do"))(**order)).encode()
            start("200 OK", [("Content-Type", "application/json")])
            return [answer]
        action = environ.get("HTTP_X_AMZ_TARGET", "").rpartition(".")[2]
        self.calls.append(action)
        for fault in self.faults:
            if fault["action"] == action and fault["times"] > 0:
                fault["times"] -= 1
                if fault.get("seconds"):
                    time.sleep(fault["seconds"])
                    break
                asked = json.loads(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
                if fault["answer"] == "empty":
                    fault["answer"] = {"Records": [], "MillisBehindLatest": 5000}
                if "Records" in fault["answer"]:
                    fault["answer"]["NextShardIterator"] = asked["ShardIterator"]
                start(fault["status"], [("Content-Type", "application/x-amz-json-1.1")])
                return [json.dumps(fault["answer"]).encode()]
        return self.application(environ, start)

    def order_fault(
        self, action: str, answer: Any, times: int = 1, status: str = "400 Bad Request", **more: Any
    ) -> int:
        """Answer the next requests so; "empty" is a page without records, with more behind it."""
        status = "200 OK" if answer == "empty" else status
        self.faults.append({"action": action, "answer": answer, "times": times, "status": status, **more})
        return len(self.faults)

    def order_well(self) -> list[dict[str, Any]]:
        """End all faults, and return them."""
        faults, self.faults = self.faults, []
        return faults

    def order_refuse(self, stream: str, records: list[list[int]]) -> int:
        """Refuse records of the next requests of PutRecords to a stream, by their places in each."""
        REFUSED[stream] = records
        return len(records)

    def order_calls(self) -> list[str]:
        """Return the actions that were asked for since the last time."""
        calls, self.calls = self.calls, []
        return calls

    def order_trim(self, stream: str, shard: str, keep: int = 0) -> int:
        """Delete the oldest records of a shard, as the retention does."""
        records = _backend().streams[stream].shards[shard].records
        for number in list(records)[: len(records) - keep]:
            del records[number]
        return len(records)

    def order_expire(self, stream: str, shard: str) -> int:
        """Delete a closed shard, as the retention does."""
        shards = _backend().streams[stream].shards
        del shards[shard]
        return len(shards)


def _backend() -> Any:
    from moto.kinesis.models import kinesis_backends

    return kinesis_backends["123456789012"][REGION]


def _corrected() -> None:
    """Make moto's streams do what Amazon's do, and its tables have ids."""
    from moto.dynamodb.models.table import Table
    from moto.kinesis import models
    from moto.kinesis.utils import decompose_shard_iterator

    numbers = count(BASE, 1 << 20)

    def put_record(self: Any, partition_key: str, data: str, explicit_hash_key: str) -> str:
        number = next(numbers)
        self.records[number] = models.Record(partition_key, data, number, explicit_hash_key)
        return str(number)

    def get_shard_for_key(self: Any, partition_key: str, explicit_hash_key: str) -> Any:
        place = int(
            explicit_hash_key or hashlib.md5(partition_key.encode(), usedforsecurity=False).hexdigest(),
            10 if explicit_hash_key else 16,
        )
        return next(
            one for one in self.shards.values() if one.is_open and one.starting_hash <= place <= one.ending_hash
        )

    def split_shard(self: Any, shard_to_split: str, new_starting_hash_key: str) -> None:
        shard, middle, last = self.shards[shard_to_split], int(new_starting_hash_key), len(self.shards)
        for at, (low, high) in enumerate(((shard.starting_hash, middle - 1), (middle, shard.ending_hash))):
            child = models.Shard(last + at, low, high, parent=shard.shard_id)
            self.shards[child.shard_id] = child
        shard.is_open = False

    def merge_shards(self: Any, shard_to_merge: str, adjacent_shard_to_merge: str) -> None:
        one, other = self.shards[shard_to_merge], self.shards[adjacent_shard_to_merge]
        low, high = min(one.starting_hash, other.starting_hash), max(one.ending_hash, other.ending_hash)
        child = models.Shard(len(self.shards), low, high, parent=one.shard_id, adjacent_parent=other.shard_id)
        self.shards[child.shard_id] = child
        one.is_open = other.is_open = False

    described, ids = Table.describe, WeakKeyDictionary[Any, str]()

    def describe(self: Any, base_key: str = "TableDescription") -> Any:
        found = described(self, base_key)
        found[base_key]["TableId"] = ids.setdefault(self, str(uuid4()))
        return found

    put = models.KinesisBackend.put_records

    def put_records(self: Any, stream_arn: str, stream_name: str, records: list[dict[str, Any]]) -> Any:
        orders = REFUSED.get(stream_name, [])
        refused = set(orders.pop(0)) if orders else set()
        answer = put(self, stream_arn, stream_name, [one for at, one in enumerate(records) if at not in refused])
        taken = iter(answer["Records"])
        error = {"ErrorCode": "ProvisionedThroughputExceededException", "ErrorMessage": "Rate exceeded"}
        found = [error if at in refused else next(taken) for at in range(len(records))]
        return {"FailedRecordCount": len(refused), "Records": found}

    read = models.KinesisBackend.get_records

    def get_records(self: Any, stream_arn: str | None, shard_iterator: str, limit: int | None) -> Any:
        following, records, lag = read(self, stream_arn, shard_iterator, limit)
        name, shard, last = decompose_shard_iterator(following)
        found = self.describe_stream(None, name).shards[shard]
        ended = not found.is_open and int(last) >= found.get_max_sequence_number()
        return None if ended else following, records, lag

    for kind, function in (
        (models.KinesisBackend, get_records),
        (models.KinesisBackend, put_records),
        (Table, describe),
        (models.Shard, put_record),
        (models.Stream, get_shard_for_key),
        (models.Stream, split_shard),
        (models.Stream, merge_shards),
    ):
        setattr(kind, function.__name__, function)


def _serve(port: int) -> None:
    import logging

    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, run_simple

    logging.getLogger("werkzeug").setLevel(logging.ERROR)

    class Handler(WSGIRequestHandler):
        protocol_version = "HTTP/1.1"

    _corrected()
    application = _Orders(DomainDispatcherApplication(create_backend_app))
    run_simple("127.0.0.1", port, application, threaded=True, request_handler=Handler)


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
