"""A task of kind `notify`: send one notice about an alert to its route, within the time that its connection allows.

The notice is sent at least once: if this process dies before it reports that, the next attempt sends it again, with the
same id.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from dataflows.process.reports import error_of, write_result
from dataflows.process.signals import stop_on_signal
from dataflows.work.notices.delivery import Later, too_slow
from penstock.errors import NotFound, PenstockError, Refused
from penstock.failpoints import failpoint
from penstock.models.connection import Connection, parse_connection
from penstock.models.notices import Notice
from penstock.models.receivers import SlackConnection, SmtpConnection, WebhookConnection
from penstock.telemetry import span

__all__ = ["run_task"]

CHECK_SECONDS: Final = 0.05
"""Longest time from a signal to the end of the task."""


def run_task(task: Mapping[str, Any]) -> int:
    """Send one notice; return 0, also if the receiver does not take it: this process can send the next one."""
    stopped = threading.Event()
    stop_on_signal(lambda _: stopped.set())
    notice = Notice.parse(task["notice"])
    with span("notify", task.get("traceparent"), route=notice.route, event=notice.event):
        found = _result(task, notice, stopped)
    if stopped.is_set():
        return 1
    failpoint("notify.sent")
    write_result(Path(task["result"]), found)
    return 0


def _result(task: Mapping[str, Any], notice: Notice, stopped: threading.Event) -> dict[str, Any]:
    where = f"connection {notice.route}"
    secrets = Path(task["secrets"]) if task.get("secrets") else None
    try:
        connection = _connection(task["connections"].get(notice.route), notice.route, where)
        failpoint("notify.begin")
        _in_time(connection, notice, where, secrets, stopped)
    except Later as failed:
        return {"status": "failed", "error": error_of(failed.error), "wait": failed.wait}
    except PenstockError as error:
        return {"status": "failed", "error": error_of(error)}
    except Exception as error:  # noqa: BLE001 - a defect is reported like any failure, by its name only
        traceback.print_exc()
        return {"status": "failed", "error": error_of(error)}
    return {"status": "completed", "error": None}


Receiver = WebhookConnection | SlackConnection | SmtpConnection


def _connection(data: object, name: str, where: str) -> Receiver:
    if not data:
        raise NotFound("there is no such connection any more", where=where, hint="take it out of `monitor.routes`")
    found: Connection = parse_connection(name, data)
    if not isinstance(found, Receiver):
        raise Refused(f"is of type {found.type}, which takes no alerts", where=where, hint="name another route")
    return found


def _in_time(connection: Receiver, notice: Notice, where: str, secrets: Path | None, stopped: threading.Event) -> None:
    """Deliver in a thread of its own: a name that is not resolved, or a receiver that drips, is abandoned.

    Raises:
        Later, PenstockError: it failed, or took too long.
    """
    failed: list[Exception] = []
    done = threading.Event()

    def work() -> None:
        try:
            _deliver(connection, notice, where, secrets)
        except Exception as error:  # noqa: BLE001 - raised below
            failed.append(error)
        done.set()

    seconds = connection.timeout.total_seconds()
    end = time.monotonic() + seconds
    threading.Thread(target=work, name="notify", daemon=True).start()
    while not done.wait(CHECK_SECONDS):
        if stopped.is_set():
            return
        if time.monotonic() > end:
            raise too_slow(where, seconds)
    if failed:
        raise failed[0]


def _deliver(connection: Receiver, notice: Notice, where: str, secrets: Path | None) -> None:
    if isinstance(connection, SmtpConnection):
        from dataflows.work.notices.mail import send

        send(connection, notice, where, secrets)
    else:
        from dataflows.work.notices.web import post

        post(connection, notice, where, secrets)
