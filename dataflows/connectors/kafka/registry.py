"""A schema registry by its REST interface, as Confluent's documents it: schemas by id, once each, and by subject.

A registry that is away is an error that passes; an id that it does not know is one only after it was asked again, since
a follower may know a new schema a moment later than its leader.
"""

from __future__ import annotations

import json
import ssl
import time
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote

import httpx

from dataflows.connectors.contract import Place
from dataflows.connectors.formats.avro_schema import AvroSchema
from penstock.errors import (
    AccessDenied,
    PenstockError,
    Refused,
    SchemaMismatch,
    SettingsError,
    Unavailable,
    Unreachable,
)
from penstock.models.connection import KafkaConnection, SchemaRegistry
from penstock.models.secrets import resolve

__all__ = ["Registry"]

SECONDS: Final = 10.0
"""Longest wait for an answer."""
ATTEMPTS: Final = 3
PAUSE_SECONDS: Final = 0.3
UNKNOWN_SECONDS: Final = 10.0
"""For how long an id counts as unknown, before the registry is asked again."""
MAX_REFERENCES: Final = 100
_ACCEPT: Final = "application/vnd.schemaregistry.v1+json, application/json"
_NOT_FOUND: Final = 404
_DENIED: Final = {401, 403}
_CONFLICT: Final = {409, 422}


@dataclass
class Registry:
    """A registry; no session is kept, since each schema is asked for once."""

    settings: SchemaRegistry
    where: str
    login: httpx.BasicAuth | None = field(repr=False)
    verify: ssl.SSLContext | bool = field(repr=False)
    _known: dict[int, AvroSchema] = field(default_factory=dict)
    _unknown: dict[int, tuple[str, float]] = field(default_factory=dict)
    """Why ids have no schema, and until when they count as such."""

    @classmethod
    def of(cls, place: Place) -> Registry | None:
        """Return the registry of a connection; None if it names none. Does not connect yet."""
        connection: KafkaConnection = place.settings
        settings = connection.registry
        if settings is None:
            return None
        where = f"{place.where}: registry"
        login = None
        if settings.username is not None:
            given = settings.password
            password = "" if given is None else resolve(given, where=where, secrets=place.secrets)
            login = httpx.BasicAuth(settings.username, password)
        try:
            verify = settings.url.startswith("https:") and ssl.create_default_context(cafile=settings.ca)
        except OSError as error:
            hint = "name a file of certificates in PEM"
            raise SettingsError("its `ca` cannot be read", where=where, value=settings.ca, hint=hint) from error
        return cls(settings, where, login, verify)

    def by_id(self, number: int) -> AvroSchema | str:
        """Return a schema, or why there is none."""
        if number in self._known:
            return self._known[number]
        why, until = self._unknown.get(number, ("", 0.0))
        if time.monotonic() < until:
            return why
        name = f"schema {number}"
        answer = self._asked_again(f"/schemas/ids/{number}")
        found = self._parsed(answer, name) if answer is not None else f"the registry has no {name}"
        if isinstance(found, str):
            self._unknown[number] = found, time.monotonic() + UNKNOWN_SECONDS
        else:
            self._known[number] = found
        return found

    def latest(self, subject: str) -> AvroSchema | None:
        """Return the newest schema of a subject; None if there is no such subject.

        Raises:
            SchemaMismatch: it is not one of Avro.
        """
        answer = self._request("GET", f"/subjects/{quote(subject, safe='')}/versions/latest")
        if answer is None:
            return None
        found = self._parsed(answer, f"schema {answer['id']}")
        if isinstance(found, str):
            raise SchemaMismatch(f"subject {subject}: {found}", where=self.where, hint="name another subject")
        self._known[int(answer["id"])] = found
        return found

    def register(self, subject: str, schema: str) -> int:
        """Return the id of a schema in a subject, which it becomes the newest of, if it is new.

        Raises:
            Refused: the registry does not take it, as it is not compatible with the older ones.
        """
        answer = self._request("POST", f"/subjects/{quote(subject, safe='')}/versions", {"schema": schema})
        if answer is None:
            raise Unavailable(f"the registry does not know how to register {subject}", where=self.where)
        return int(answer["id"])

    def _asked_again(self, path: str) -> dict[str, Any] | None:
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(PAUSE_SECONDS)
            if (answer := self._request("GET", path)) is not None:
                return answer
        return None

    def _parsed(self, answer: dict[str, Any], name: str) -> AvroSchema | str:
        """Return the schema of an answer, or why there is none."""
        kind = answer.get("schemaType") or "AVRO"
        if kind != "AVRO":
            return f"{name} is one of {kind}, not of Avro"
        try:
            return AvroSchema.parse(str(answer["schema"]), name, self._references(answer, {}))
        except SchemaMismatch as error:
            return error.what

    def _references(self, answer: dict[str, Any], seen: dict[tuple[str, int], Any]) -> list[Any]:
        """Return the schemas that a schema refers to, each after those that it refers to itself."""
        for one in answer.get("references") or ():
            key = str(one["subject"]), int(one["version"])
            if key in seen:
                continue
            if len(seen) >= MAX_REFERENCES:
                raise SchemaMismatch("it refers to too many schemas", where=self.where)
            path = f"/subjects/{quote(key[0], safe='')}/versions/{key[1]}"
            if (inner := self._request("GET", path)) is None:
                raise SchemaMismatch(f"it refers to {key[0]}, version {key[1]}, which is missing", where=self.where)
            seen[key] = None
            self._references(inner, seen)
            seen[key] = json.loads(inner["schema"])
        return [one for one in seen.values() if one is not None]

    def _request(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any] | None:
        """Return the registry's answer; None if it has no such thing.

        Raises:
            Unreachable, Unavailable, AccessDenied, Refused: it does not answer as it should.
        """
        try:
            with httpx.Client(
                auth=self.login, verify=self.verify, timeout=SECONDS, headers={"Accept": _ACCEPT}, trust_env=False
            ) as client:
                answer = client.request(method, f"{self.settings.url.rstrip('/')}{path}", json=body)
        except httpx.HTTPError as error:
            hint = "is it up, and is its `url` right?"
            raise Unreachable(f"the schema registry does not answer: {error}", where=self.where, hint=hint) from None
        if answer.status_code == _NOT_FOUND:
            return None
        if not answer.is_success:
            raise self._error(answer)
        try:
            found = answer.json()
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise Unavailable(
                "the schema registry answers with something else", where=self.where, hint="check its `url`"
            )
        return found

    def _error(self, answer: httpx.Response) -> PenstockError:
        try:
            said = str(answer.json()["message"])[:500]
        except (ValueError, KeyError, TypeError):
            said = answer.reason_phrase
        what = f"the schema registry answers {answer.status_code}: {said}"
        if answer.status_code in _DENIED:
            return AccessDenied(what, where=self.where, hint="check `username` and `password` of the `registry`")
        if answer.status_code in _CONFLICT:
            return Refused(what, where=self.where, hint="change the columns, or the subject's compatibility")
        return Unavailable(what, where=self.where, hint="try again")
