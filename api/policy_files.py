"""Policy files, watched while `penstock up` runs: a change is published at once, a file with errors changes nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from api.client import connected
from dataflows.process.condition import Report
from penstock.errors import InvalidDocument, PenstockError
from penstock.models.documents import read_documents
from penstock.settings import Settings

__all__ = ["PolicyFiles"]

FOLDER: Final = "policies"
SUFFIXES: Final = {".yaml", ".yml", ".json"}
DEBOUNCE_MS, STEP_MS = 200, 50
"""Milliseconds: the longest that changes are gathered, and how long none comes before they are taken."""
POLL_SECONDS: Final = 0.5
"""Seconds between two looks for a folder that is not there."""


class PolicyFiles:
    """Publishes the policies of files that change until `close`.

    `tell` is called with a line about each; `condition` returns what the errors of a file are reported to.
    """

    def __init__(self, settings: Settings, tell: Callable[[str], None], condition: Callable[[str], Report]) -> None:
        self._settings, self._tell, self._condition = settings, tell, condition
        self._conditions: dict[str, Report] = {}
        self._ended = threading.Event()
        self._folder = settings.project / FOLDER
        self._is_new = not self._folder.is_dir()
        self._thread = threading.Thread(target=self._run, name="policies", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        from watchfiles import watch  # noqa: PLC0415 - `penstock up` is ready before this is loaded

        folder, is_new = self._folder, self._is_new
        while not folder.is_dir():
            if self._ended.wait(POLL_SECONDS):
                return
        changed = watch(
            folder,
            recursive=False,
            raise_interrupt=False,
            debounce=DEBOUNCE_MS,
            step=STEP_MS,
            rust_timeout=500,
            stop_event=self._ended,
            yield_on_timeout=is_new,
        )
        for changes in changed:
            paths = {Path(name) for _, name in changes}
            if is_new:  # what was put into it before it was watched
                paths, is_new = {*paths, *folder.iterdir()}, False
            for path in sorted(paths):
                if path.suffix in SUFFIXES:
                    name = f"{FOLDER}/{path.name}"
                    report = self._conditions.setdefault(name, self._condition(name))
                    report(self._publish(path) if path.exists() else None)

    def _publish(self, path: Path) -> PenstockError | None:
        """Publish what a file contains, if it is not in force already; return why that was refused."""
        try:
            with connected(self._settings, runs=False) as client:
                for policy in read_documents([path]).policies:
                    payload = {"policy": policy.to_dict(), "origin": "file"}
                    result = client.ask("policy.publish", policy.name, payload).result or {}
                    if result.get("changed"):
                        self._tell(f"policy {policy.name} is in force: {result['hash'][:12]}")
        except InvalidDocument as error:
            for issue in error.issues:
                self._tell(f"{issue.path}: {issue.message}; the policy in force stays")
            return error
        except PenstockError as error:
            self._tell(f"{path.name}: {error}; the policy in force stays")
            return error
        return None

    def close(self) -> None:
        """End the thread."""
        self._ended.set()
        self._thread.join()
