"""The demo's last chapter: a source changes, rows are bad, a connection breaks; agents and a person mend it."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from api.cli.console import clipped, escape
from api.cli.project import put
from api.cli.run import start
from api.client import Client
from api.demo.story import (
    BAD,
    CHANGED,
    FIX,
    MENDING,
    SALES,
    WIDENED,
    begin_story,
    change,
    kept_sales,
    widen,
    write_sales,
)
from catalog.entries import RunEntry
from catalog.task_ends import wait_for
from dataflows.audit.verification import verified
from dataflows.control import agents
from penstock.errors import Unavailable
from penstock.models.documents import read_documents
from penstock.models.letters import LetterFix
from penstock.records.commands import ChangeAnswer, LettersStart
from penstock.topics.embedded import EmbeddedServer
from penstock.topics.table import CONTROL

__all__ = ["Proof", "Story"]

Proof = tuple[str, str, bool]
Found = TypeVar("Found")
PATIENCE, POLL_SECONDS = 60.0, 0.1
AGENTS: Final = {"lifecycle", "error_resolution"}
VERSIONS: Final = 4
"""As applied, with the new name, with more dead letters, and with the wider column."""
OWN: Final = {"apply", "publish", "put", "answer"}
"""Actions that only carry out what a person has asked for."""


@dataclass(slots=True)
class Story:
    """The steps, in order; `say` prints a line, `step` one with a tick and the seconds that it took."""

    client: Client
    server: EmbeddedServer
    folder: Path
    say: Callable[[str], None]
    step: Callable[[str], AbstractContextManager[None]]
    told: int = 0
    """Offset after the last decision that was shown."""

    def take(self) -> list[Proof]:
        """Tell the story; return what it proved."""
        self.say("\nAnd when the source changes? Agents repair what the policy lets them, and ask for the rest.\n")
        with self.step("sales: a first run, as the source is today"):
            begin_story(self.server)
            put(self.client, read_documents(write_sales(self.folder)))
            self._started(1)
        self.told = self.client.log.end(CONTROL, 0)
        with self.step(f"`phone` is renamed; {CHANGED:,} new rows, {BAD} of them bad; a connection breaks; run again"):
            change(self.server)
            self._started(4)
        self._tell("penstock errors sales")
        with self.step("`pieces` gets greater numbers than the warehouse can hold; run again, and fail"):
            widen(self.server)
            self._started(5)
            self._until(self.client.store.proposals, "the change to be proposed")
        self._tell("penstock approvals")
        with self.step("a person approves the change: `penstock approve sales`; the run follows by itself"):
            self._approve()
            last = self._runs(6)
        with self.step(f"dead letters corrected: {MENDING}"):
            letters = self._redrive()
        return [self._repaired(last), self._redriven(letters), self._verified()]

    def _started(self, count: int) -> list[RunEntry]:
        start(self.client, SALES)
        return self._runs(count)

    def _runs(self, count: int) -> list[RunEntry]:
        """Return the runs, once there are `count` and all have ended."""

        def ended() -> list[RunEntry]:
            runs = list(self.client.store.runs(pipeline=SALES).items)
            return runs if len(runs) >= count and all(one.finished_at for one in runs) else []

        return self._until(ended, f"{count} runs of {SALES} to end")

    def _until(self, look: Callable[[], Found], what: str) -> Found:
        end = time.monotonic() + PATIENCE
        while not (found := look()):
            if time.monotonic() > end:
                raise Unavailable(f"waited {PATIENCE:g} s in vain for {what}", where="penstock demo")
            self.client.look_after()
            time.sleep(POLL_SECONDS)
        return found

    def _tell(self, command: str) -> None:
        """Show what agents have decided since the last time, and the command that says more."""
        found = [one for one in self.client.store.decisions(pipeline=SALES, limit=100).items if one.offset >= self.told]
        for one in reversed(found):
            if one.agent in AGENTS and one.action not in OWN:
                action, reason = one.action.replace("_", " "), clipped(str(one.decision["reason"]), 66)
                self.say(f"  agent {one.agent}: [bold]{action}[/bold]: {escape(reason)}")
        self.say(f"  [dim]{command}[/dim]")
        self.told = self.client.log.end(CONTROL, 0)

    def _approve(self) -> None:
        asked = self.client.store.proposals()
        order = ChangeAnswer(name=SALES, ids=tuple(one.id for one in asked), approve=True)
        self.client.ask("change.answer", SALES, order.to_dict())

    def _redrive(self) -> dict[str, int]:
        name, _, sql = FIX.partition("=")
        order = LettersStart(name=SALES, action="replay", fix=LetterFix(set={name: sql}))
        task = (self.client.ask("letters.start", SALES, order.to_dict()).result or {})["task"]
        wait_for(self.client.site.catalog_dsn, str(task), f"pipeline {SALES}", self.client.look_after)
        return dict((self.client.store.pipeline(SALES).letters or {}).get("found") or {})

    def _repaired(self, runs: list[RunEntry]) -> Proof:
        version = self.client.store.pipeline(SALES).version
        open_ones = self.client.store.proposals()
        failed = sum(one.status == "failed" for one in runs)
        figures = f"{failed} failed runs, mended by {version - 1} new versions, one of them approved"
        well = version == VERSIONS and not open_ones and runs[0].counters["rows_out"] == WIDENED
        return "agents repair what they may", figures, well

    def _redriven(self, letters: dict[str, int]) -> Proof:
        source, target = kept_sales(self.server)
        figures = f"{letters.get('written', 0)} of {BAD} corrected and written once; {source[0]:,} rows are the same"
        return "bad rows are kept, and redriven", figures, source == target and letters.get("written") == BAD - 1

    def _verified(self) -> Proof:
        with self.step("the log read again, each decision made again: penstock audit verify; penstock why sales"):
            found = verified(self.client.log, agents(), self.client.log.end(CONTROL, 0))
        figures = f"{sum(found.decisions.values()):,} decisions made again, {found.differing} differ"
        return "the log tells all of it", figures, found.is_good
