"""The table of DynamoDB in which the pipelines that write to streams of a region keep their state.

An item is one record of one pipeline. Changes are conditional: each names the generation, and what was read of the
record before, so that a process that no longer owns the pipeline changes nothing.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import uuid4

from dataflows.connectors.contract import Place
from dataflows.connectors.kinesis.client import (
    DENIED,
    MAY_NOT,
    THROTTLED,
    client_of,
    code_of,
    refused_user,
    unanswered,
)
from dataflows.connectors.record_state import NEW, PIPELINE, Key
from penstock.errors import AccessDenied, MissingTable, PenstockError, Unavailable

__all__ = ["Conflict", "StateTable", "Written", "pieces"]

STATE_TABLE: Final = "_penstock_state"
MOST_ITEMS: Final = 90
"""Changes of one transaction; DynamoDB takes 100 items."""
PATIENCE_SECONDS: Final = 60.0
PAUSE_SECONDS: Final = 0.05
LONGEST_PAUSE_SECONDS: Final = 2.0
_WAIT: Final = THROTTLED | {
    "TransactionInProgressException", "TransactionConflictException", "InternalServerError", "RequestTimeout",
}  # fmt: skip
_BUSY: Final = {
    "TransactionConflict", "ThrottlingError", "ProvisionedThroughputExceeded", "RequestLimitExceeded",
}  # fmt: skip
"""Reasons for which a transaction was cancelled that pass."""
CHANGED: Final = "ConditionalCheckFailed"
_MADE_OF: Final[dict[str, Any]] = {
    "TableName": STATE_TABLE,
    "AttributeDefinitions": [{"AttributeName": name, "AttributeType": "S"} for name in ("pipeline", "record")],
    "KeySchema": [{"AttributeName": "pipeline", "KeyType": "HASH"}, {"AttributeName": "record", "KeyType": "RANGE"}],
    "BillingMode": "PAY_PER_REQUEST",
}

Written = tuple[Key, Any, Any]
"""A change: the record's key, its value before (None: there was none), and after (None: it is deleted)."""


class Conflict(Exception):
    """A record is not as it was read, or the generation is another."""


@dataclass(slots=True)
class StateTable:
    """Records of one pipeline. Not thread-safe."""

    place: Place
    uid: str
    where: str
    check: Callable[[], None] = lambda: None
    _client: Any = field(default=None, init=False)

    @property
    def endpoint(self) -> str | None:
        """Address of the service; None for Amazon's own."""
        settings = self.place.settings
        found: str | None = settings.state_endpoint or settings.endpoint
        return found

    def _ask(self, action: str, **parameters: Any) -> dict[str, Any]:
        """Return the answer to a request, which is made again while it is over the limits, or others are at it.

        Raises:
            AccessDenied, MissingTable, Unreachable, Unavailable: by name.
            Conflict: a condition does not hold.
        """
        if self._client is None:
            self._client = client_of(self.place, "dynamodb", self.endpoint)
        end, pause = time.monotonic() + PATIENCE_SECONDS, PAUSE_SECONDS
        while True:
            self.check()
            try:
                answer: dict[str, Any] = getattr(self._client, action)(**parameters)
            except Exception as error:
                if not _is_of_client(error):
                    raise
                if not _may_wait(error) or time.monotonic() > end:
                    raise self._error(error) from None
            else:
                return answer
            time.sleep(pause * random.uniform(0.5, 1))  # noqa: S311 - only so that two do not wait alike
            pause = min(LONGEST_PAUSE_SECONDS, 2 * pause)

    def _error(self, error: Exception) -> Exception:
        from botocore.exceptions import ClientError

        if not isinstance(error, ClientError):
            return unanswered(error, self.place, self.where, self.endpoint, "dynamodb")
        code, what = code_of(error), str(error.response["Error"].get("Message", ""))
        if code == "TransactionCanceledException" and (not (reasons := _reasons(error)) or CHANGED in reasons):
            return Conflict(what)
        return self._answered(code, what, error.operation_name)

    def _answered(self, code: str, what: str, action: str) -> PenstockError:
        where = f"{self.where}: table {STATE_TABLE} of DynamoDB"
        if code in DENIED:
            hint = "allow it that; docs/kinesis.md has the whole policy"
            return AccessDenied(f"{MAY_NOT}dynamodb:{action}", where=where, hint=hint)
        if code == "ResourceNotFoundException":
            hint = "was it deleted? without it nobody knows what was written"
            return MissingTable("there is no such table", where=where, value=STATE_TABLE, hint=hint)
        return refused_user(code, where) or Unavailable(f"{code}: {what}", where=where, hint="try again")

    def identity(self) -> str | None:
        """Return the id of the table; None if there is none. A table that is made again has another."""
        try:
            return str(self._ask("describe_table", TableName=STATE_TABLE)["Table"]["TableId"])
        except MissingTable:
            return None

    def make(self) -> None:
        """Create the table if it is missing; return when it can be used.

        Raises:
            AccessDenied: this user may not.
        """
        if self.identity() is None:
            try:
                self._ask("create_table", **_MADE_OF)
            except Unavailable as error:
                if "ResourceInUseException" not in error.what:  # another pipeline creates it
                    raise
        end = time.monotonic() + PATIENCE_SECONDS
        while not self._active():
            if time.monotonic() > end:
                raise Unavailable(f"{STATE_TABLE} is not active yet", where=self.where, hint="try again")
            self.check()
            time.sleep(PAUSE_SECONDS)

    def _active(self) -> bool:
        """True if the table can be used; for a moment the service may not know one that was just created."""
        try:
            return bool(self._ask("describe_table", TableName=STATE_TABLE)["Table"]["TableStatus"] == "ACTIVE")
        except MissingTable:
            return False

    def read(self) -> dict[Key, Any]:
        """Return all records as they are now."""
        asked: dict[str, Any] = {
            "TableName": STATE_TABLE,
            "KeyConditionExpression": "pipeline = :p",
            "ExpressionAttributeValues": {":p": {"S": self.uid}},
            "ConsistentRead": True,
        }
        found: dict[Key, Any] = {}
        while True:
            page = self._ask("query", **asked)
            found |= {_parsed(one["record"]["S"]): json.loads(one["data"]["S"]) for one in page["Items"]}
            if "LastEvaluatedKey" not in page:
                return found
            asked["ExclusiveStartKey"] = page["LastEvaluatedKey"]

    def pipeline(self) -> dict[str, Any]:
        """Return the record of the pipeline itself as it is now."""
        place = self._place(PIPELINE)
        item = self._ask("get_item", TableName=STATE_TABLE, Key=place, ConsistentRead=True).get("Item")
        return NEW if item is None else json.loads(item["data"]["S"])

    def write(self, changes: Sequence[Written], pipeline: Mapping[str, Any], *, anew: bool = False) -> None:
        """Make changes all at once, if the pipeline's record is still `pipeline`, and each other one as it was read.

        `anew`: whatever the others are.

        Raises:
            Conflict: one is not; nothing was changed.
            Unreachable, Unavailable: the outcome is unknown.
        """
        items = [self._item(key, after, {} if anew else _was(before)) for key, before, after in changes]
        if PIPELINE not in {key for key, *_ in changes}:
            items.append({"ConditionCheck": self._place_of(PIPELINE) | _was(pipeline)})
        # with the same token, a request that is made again is carried out once
        self._ask("transact_write_items", TransactItems=items, ClientRequestToken=uuid4().hex)

    def _item(self, key: Key, after: Any, condition: dict[str, Any]) -> dict[str, Any]:
        if after is None:
            return {"Delete": self._place_of(key) | condition}
        item = self._place(key) | {"data": {"S": _text(after)}}
        return {"Put": {"TableName": STATE_TABLE, "Item": item} | condition}

    def _place_of(self, key: Key) -> dict[str, Any]:
        return {"TableName": STATE_TABLE, "Key": self._place(key)}

    def _place(self, key: Key) -> dict[str, Any]:
        return {"pipeline": {"S": self.uid}, "record": {"S": json.dumps(key, separators=(",", ":"))}}

    def close(self) -> None:
        """End the connections."""
        if self._client is not None:
            self._client.close()
            self._client = None


def pieces(changes: Sequence[Written]) -> Iterator[Sequence[Written]]:
    """Yield changes in groups that one transaction takes."""
    for at in range(0, len(changes), MOST_ITEMS):
        yield changes[at : at + MOST_ITEMS]


def _was(before: Any) -> dict[str, Any]:
    """Return the condition that a record is as it was."""
    if before is None:
        return {"ConditionExpression": "attribute_not_exists(pipeline)"}
    names, values = {"#d": "data"}, {":was": {"S": _text(before)}}
    return {
        "ConditionExpression": "#d = :was",
        "ExpressionAttributeNames": names,
        "ExpressionAttributeValues": values,
    }


def _text(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), sort_keys=True)


def _parsed(text: str) -> Key:
    return tuple(json.loads(text))


def _is_of_client(error: Exception) -> bool:
    from botocore.exceptions import BotoCoreError, ClientError

    return isinstance(error, BotoCoreError | ClientError)


def _may_wait(error: Exception) -> bool:
    """True if the same request may succeed later: it was over the limits, or another one was at the same records."""
    code = code_of(error)
    if code != "TransactionCanceledException":
        return code in _WAIT
    reasons = _reasons(error)
    return bool(reasons) and reasons <= _BUSY


def _reasons(error: Exception) -> set[str]:
    """Return why a transaction was cancelled; none if the service does not say."""
    response: Any = getattr(error, "response", {})
    return {one["Code"] for one in response.get("CancellationReasons", ()) if one.get("Code") not in {None, "None"}}
