"""The client: appends commands to the log, and reads their answers from the catalog."""

from __future__ import annotations

import getpass
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from datetime import datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from catalog.answers import Answers, Command
from catalog.overview import Overview, has_followers, overview
from dataflows.process.site import ACTIVE_CONTROL, Site
from dataflows.runtime.supervisor import BRAIN, WORKER, Supervisor
from penstock import postgres
from penstock.clock import now
from penstock.disk import is_full
from penstock.errors import OutOfSpace, PenstockError, Unavailable, error_from_report
from penstock.ids import command_id, new_id
from penstock.records import Record, encode, records_of
from penstock.settings import Settings
from penstock.telemetry import Span, span
from penstock.topics.log import Message, TopicLog
from penstock.topics.partitioner import partition_of
from penstock.topics.table import CONTROL, METRICS

if TYPE_CHECKING:
    from api.watch import Watch
    from catalog.entries import RunEntry
    from catalog.store import MetadataStore
    from penstock.records.execution import RunProgress

__all__ = ["UP", "Client", "connected"]

UP: Final = "up"
"""Name of the lock that ``penstock up`` holds. While it is held, a command starts no process of its own."""

ANSWER_SECONDS: Final = 60.0
POLL_SECONDS: Final = 1.0
"""Seconds between two polls at a control process that starts; its first record wakes the client earlier."""
PATIENCE: Final = 2.0
"""Seconds to wait for an answer before looking after the processes that the client started."""

REMEMBERED: Final = timedelta(hours=24)
"""Time after which the same idempotency key is a new command."""

LATE: Final = timedelta(minutes=1)
"""Time after a run's end in which its last progress may still arrive."""

_log = logging.getLogger(__name__)


class Client:
    """One user of an installation. For one thread."""

    def __init__(self, site: Site, log: TopicLog) -> None:
        self.site, self.log = site, log
        self._supervisor: Supervisor | None = None
        self._opened = ExitStack()
        self.actor = f"user:{getpass.getuser()}"

    @cached_property
    def store(self) -> MetadataStore:
        """The catalog. Loaded when first used: a client that only sends commands need not load SQLAlchemy."""
        from catalog.database import engine
        from catalog.store import MetadataStore

        return self._opened.enter_context(MetadataStore(engine(self.site.catalog_dsn)))

    @cached_property
    def _session(self) -> Answers:
        return self._opened.enter_context(Answers(self.site.catalog_dsn))

    def overview(self, member_of: str | None = None, *, name: str | None = None) -> list[Overview]:
        """Return every living pipeline by name, each member of a set, or one, without loading the store.

        Of a `name` that is not known it is every one, for the most similar.
        """
        with closing(postgres.connect(self.site.catalog_dsn, "penstock:overview")) as session:
            return (overview(session, name=name) if name is not None else []) or overview(session, member_of)

    def has_followers(self) -> bool:
        """True if any pipeline runs `after` others: the answer is quicker than `overview`."""
        with closing(postgres.connect(self.site.catalog_dsn, "penstock:overview")) as session:
            return has_followers(session)

    def ask(self, type_: str, key: str, payload: Mapping[str, Any], *, idempotency_key: str | None = None) -> Command:
        """Send a command and wait until it is applied.

        A repeat with the same `idempotency_key` within 24 hours is not sent; it gets the first answer.

        Raises:
            PenstockError: of the kind that refused it, with its exit code.
            Unavailable: no answer came in time; the command stays on the log.
            OutOfSpace: the disk is full; it says whether the command is on the log.
        """
        with span(type_, subject=key) as current:
            id_ = command_id(self.actor, idempotency_key) if idempotency_key else new_id()
            if idempotency_key and self._is_repeat(id_):
                return self._answer(id_)
            self._append([self._command(type_, key, payload, id_, current)])
            return self._answer(id_)

    def send(
        self,
        type_: str,
        key: str,
        payload: Mapping[str, Any],
        *,
        idempotency_key: str | None = None,
        traceparent: str | None = None,
    ) -> str:
        """Append a command, as a part of the sender's trace, and return its id: nobody waits for its answer.

        A repeat with the same `idempotency_key` within 24 hours is not sent. Raises Unavailable, OutOfSpace.
        """
        with span(type_, traceparent, subject=key) as current:
            id_ = command_id(self.actor, idempotency_key) if idempotency_key else new_id()
            if not (idempotency_key and self._is_repeat(id_)):
                self._append([self._command(type_, key, payload, id_, current)])
            return id_

    def ask_each(self, type_: str, payloads: Mapping[str, Mapping[str, Any]]) -> dict[str, Command | PenstockError]:
        """Send a command for each key, all at once; return its answer, or its refusal. Raises Unavailable."""
        with span(type_, subjects=len(payloads)) as current:
            ids = {key: new_id() for key in payloads}
            commands = [self._command(type_, key, payloads[key], id_, current) for key, id_ in ids.items()]
            self._append(commands)
            answers = self._answers(list(ids.values()))
            return {key: answers[id_] for key, id_ in ids.items()}

    def _append(self, commands: Sequence[Message]) -> None:
        try:
            self.log.append(CONTROL, commands)
        except Unavailable as error:
            if isinstance(error, OutOfSpace):
                raise self._full("the command is not on the log", "free some space, then repeat it") from error
            if self._is_full():  # the session was lost before the answer
                hint = "free some space; `penstock events` shows whether it is there"
                raise self._full("the command may be on the log, or not", hint) from error
            raise

    def _full(self, what: str, hint: str) -> OutOfSpace:
        return OutOfSpace(f"the disk is full: {what}", where=str(self.site.settings.home), hint=hint)

    def _is_full(self) -> bool:
        return self.site.settings.embedded and is_full(self.site.settings.home)

    def _is_repeat(self, id_: str) -> bool:
        """True if the catalog has an answer that is not too old: agents remember only so many commands."""
        return any(now() - one.at <= REMEMBERED for one in self._session.answered([id_]))

    def _command(self, type_: str, key: str, payload: Mapping[str, Any], id_: str, current: Span) -> Message:
        return encode(
            Record(
                id=id_,
                kind="command",
                type=type_,
                key=key,
                at=now(),
                actor=self.actor,
                payload=dict(payload),
                traceparent=current.traceparent,
            )
        )

    def _answer(self, id_: str) -> Command:
        answer = self._answers([id_])[id_]
        if isinstance(answer, PenstockError):
            raise answer
        return answer

    def _answers(self, ids: Sequence[str]) -> dict[str, Command | PenstockError]:
        deadline = time.monotonic() + ANSWER_SECONDS
        while True:
            try:
                answered = self._session.wait(ids, PATIENCE)
            except Unavailable as error:
                if self._is_full():
                    hint = "free some space; it is carried out then, so do not repeat it"
                    raise self._full("the command is on the log, and waits", hint) from error
                if time.monotonic() > deadline:
                    raise
                self.look_after()
            else:
                return {id_: _answer_or_refusal(one) for id_, one in answered.items()}

    def start(self, *, worker: bool = False) -> None:
        """Start what commands need (with `worker`, what runs need too) until `close`; nothing if ``penstock up`` runs.

        Raises:
            Unavailable: the control process does not start.
            ForeignLog: the catalog was not made from this log.
        """
        self.site.check(self.log)
        if self._supervisor is not None or self.log.holder(UP):
            return
        self._supervisor = Supervisor(self.site.settings, ((*BRAIN, *WORKER),) if worker else (BRAIN,))
        at = self.log.end(CONTROL, 0)
        self._supervisor.start()
        deadline = time.monotonic() + ANSWER_SECONDS
        while not self.log.holder(ACTIVE_CONTROL):
            deaths = self._supervisor.check()
            if deaths and self._is_full():
                raise self._full("the control process does not start", "free some space; no command was sent")
            if time.monotonic() > deadline or (deaths and BRAIN[0] not in self._supervisor.pids()):
                hint = f"see {self.site.settings.home / 'logs' / 'control.log'}"
                raise Unavailable("the control process does not start", hint=hint)
            self.log.wait(CONTROL, 0, at, POLL_SECONDS)  # its first record is there as soon as it is active

    def look_after(self) -> None:
        """Restart the processes of `start` that have died."""
        for line in self._supervisor.check() if self._supervisor else ():
            _log.warning("%s", line)

    def close(self) -> None:
        """Stop the processes of `start`, and leave the catalog."""
        try:
            if self._supervisor is not None:
                self._supervisor.stop()
        finally:
            self._opened.close()

    def watch(self) -> Watch:
        """Return a watch over runs that are open, or are asked for from now on."""
        from api.watch import Watch

        return Watch(self.log, self.store, self.look_after)

    def measured(self, run: RunEntry, since: datetime | None = None) -> list[tuple[datetime, RunProgress]]:
        """Return the progress that a run reported, from `since` on, in order, as far as the topic still has it."""
        from penstock.records.families import body

        part = partition_of(run.id.encode(), METRICS.partitions)
        at = self.log.seek_time(METRICS, part, since or run.requested_at)
        found: list[tuple[datetime, RunProgress]] = []
        while stored := self.log.read(METRICS, part, at, 1000):
            at = stored[-1].offset + 1
            records = [record for _, record in records_of(stored)]
            lines = [one for one in records if one.key == run.id and one.type == "run.progress"]
            found += [(one.at, body(one)) for one in lines]  # type: ignore[misc]  # as their type says
            if run.finished_at is not None and records and records[-1].at > run.finished_at + LATE:
                break
        return found


def _opened(settings: Settings, stack: ExitStack) -> tuple[Site, TopicLog]:
    settings.check_project()
    try:
        site = stack.enter_context(Site(settings))
        return site, stack.enter_context(site.open_log("client"))
    except OutOfSpace as error:
        hint = "the disk is full: free some space, then try again; no command was sent"
        raise OutOfSpace(error.what, where=str(settings.home), hint=hint) from error


@contextmanager
def connected(settings: Settings, *, worker: bool = False, runs: bool = True) -> Iterator[Client]:
    """Connect a client, and start what its commands need for as long as it is used (see `Client.start`).

    With `runs` false nothing is started: for commands that only read.
    """
    with ExitStack() as stack:
        site, log = _opened(settings, stack)
        client = Client(site, log)
        try:
            if runs:
                client.start(worker=worker)
            yield client
        finally:
            client.close()


def _answer_or_refusal(answered: Command) -> Command | PenstockError:
    if answered.status == "refused":
        return error_from_report(answered.refusal or {"code": "refused", "what": "refused"})
    return answered
