"""Condition of a component: it is recorded on the control topic when it stops working, and when it works again.

A component that fails tries again by itself, each few seconds; the log gets one record for each kind of error until it
works again, however often it fails, and whatever process it runs in. What cannot be recorded, since the log itself is
not there, is recorded by a later attempt, if that fails, too.
"""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from typing import Final

import psycopg

from dataflows.process.reports import error_of
from penstock import postgres
from penstock.clock import now
from penstock.errors import AccessDenied, Fenced, OutOfSpace, PenstockError, SettingsError, Unavailable, UsageError
from penstock.models.domain import Error
from penstock.models.failures import Classification
from penstock.records import Record, encode, records_of
from penstock.topics.log import TopicLog, read_between
from penstock.topics.table import CONTROL

__all__ = ["SETTLES", "Condition", "Report"]

Report = Callable[[BaseException | None], None]
"""Takes the error of each attempt of a component, None if it worked."""
SETTLES: Final = 10.0
"""Seconds for which a component works before that is recorded, so that one that fails now and then fills no log."""
MOST: Final = 8
"""Kinds of errors that are recorded of one component until it works again."""
TAIL: Final = 500
"""Messages at the end of the log in which the errors are looked for that are recorded already."""
ACTOR: Final = "component:"

_OPEN: Final = """
    SELECT fingerprint FROM catalog.incidents WHERE status = 'open' AND incident ->> 'component' = %s
        AND incident -> 'facts' ->> 'subject' IS NOT DISTINCT FROM %s::text
"""


class Condition:
    """Condition of `component`, or of that part of it which is about `subject`; threads may share it.

    `meaning` says what does not happen while it fails; `classify` says what kind of error it is.
    """

    def __init__(
        self,
        component: str,
        open_log: Callable[[], TopicLog],
        catalog_dsn: str,
        *,
        classify: Callable[[str, Error], Classification],
        meaning: str,
        subject: str | None = None,
        settles: float = SETTLES,
    ) -> None:
        self._component, self._subject, self._meaning = component, subject, meaning
        self._open_log, self._dsn, self._classify, self._settles = open_log, catalog_dsn, classify, settles
        self._known: set[str] | None = None
        """Fingerprints of the errors that are recorded; None until it is known whether there are any."""
        self._since: float | None = None
        self._lock = threading.Lock()

    def __call__(self, error: BaseException | None) -> None:
        """Note how an attempt ended, and record a change; if the log cannot be used, a later attempt does that."""
        with self._lock, suppress(PenstockError, OSError):
            self._works() if error is None else self._fails(error)

    def _fails(self, error: BaseException) -> None:
        self._since = None
        if isinstance(error, Fenced):
            return  # another process does its work
        problem = _problem(error, self._meaning)
        found = self._classify(self._component, problem)
        if self._known is not None and (found.fingerprint in self._known or len(self._known) >= MOST):
            return
        with closing(self._open_log()) as log:
            known = self._recorded(log)
            if found.fingerprint not in known:
                self._append(log, "component.failed", error=problem.to_dict(), classified=found.to_dict())
                known.add(found.fingerprint)
            self._known = known

    def _works(self) -> None:
        if self._known is not None and not self._known:
            return
        self._since = time.monotonic() if self._since is None else self._since
        if time.monotonic() - self._since < self._settles:
            return
        with closing(self._open_log()) as log:
            if self._recorded(log):
                self._append(log, "component.recovered")
            self._known = set()

    def _recorded(self, log: TopicLog) -> set[str]:
        """Return the errors that are on the log since it has last worked, whichever process has recorded them."""
        if self._known is not None:
            return self._known
        try:
            with closing(postgres.connect(self._dsn, "penstock:condition")) as session:
                found = {str(one) for (one,) in session.execute(_OPEN, [self._component, self._subject])}
        except (PenstockError, psycopg.Error):
            found = set()
        end = log.end(CONTROL, 0)
        for _, record in records_of(read_between(log, CONTROL, 0, max(0, end - TAIL), end)):
            if record.key != self._component or record.payload.get("subject") != self._subject:
                continue
            if record.type == "component.failed":
                found.add(record.payload["classified"]["fingerprint"])
            elif record.type == "component.recovered":
                found.clear()
        return found

    def _append(self, log: TopicLog, type_: str, **payload: object) -> None:
        about = {"component": self._component} | ({"subject": self._subject} if self._subject else {})
        actor = f"{ACTOR}{self._component}"
        record = Record(type=type_, key=self._component, at=now(), actor=actor, payload={**about, **payload})
        log.append(CONTROL, [encode(record)])


_FULL: Final = (OutOfSpace, "free some space on that disk")
_WRONG: Final = (SettingsError, "is the path right?")
_DENIED: Final = (AccessDenied, "give the user that runs Penstock access to it")
_OF_FILES: Final[Mapping[int, tuple[type[PenstockError], str | None]]] = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), _FULL),
    **dict.fromkeys((errno.ENOENT, errno.ENOTDIR, errno.EISDIR), _WRONG),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), _DENIED),
}
"""Our error for the system's, and what to do."""


def _problem(error: BaseException, meaning: str) -> Error:
    """Return an error as it is recorded, with what it means."""
    found = error
    if isinstance(error, OSError):
        where, what = str(error.filename or "this machine"), error.strerror or type(error).__name__
        class_, hint = _OF_FILES.get(error.errno or 0, (Unavailable, None))
        found = class_(what, where=where, hint=hint)
    if not isinstance(found, PenstockError):
        return Error(code="defect", what=f"{meaning}: a defect: {type(error).__name__}", hint="report it")
    said = error_of(found)
    hint = said["hint"] or (None if isinstance(found, UsageError) else "it is tried again; its log says more")
    return Error.parse({**said, "what": f"{meaning}: {said['what']}", "hint": hint})
