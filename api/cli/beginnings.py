"""`penstock run NAME --from …`: begin a stream elsewhere, once it is clear what that repeats or skips."""

from __future__ import annotations

from datetime import UTC, datetime
from shlex import quote
from typing import Any

from api.cli.candidates import candidates
from api.cli.choice import Choice
from api.cli.console import escape
from api.cli.main import State
from api.client import connected
from dataflows.connectors.state import StreamState
from dataflows.runs.streaming import restart_positions
from dataflows.runs.survey import opened
from penstock.errors import UsageError
from penstock.models.domain import Beginning

__all__ = ["begin_stream"]


def begin_stream(state: State, choice: Choice, text: str | None, *, reset: bool) -> int:
    """Ask for a run that begins at `text`; refused without `reset` if the stream was read before."""
    if text is None or choice.single is None:
        what = "--reset needs --from" if text is None else "--from begins one stream"
        raise UsageError(what, where="run", hint="penstock run NAME --from latest --reset")
    name, begin = choice.single, beginning_of(text, reset=reset)
    with connected(state.settings, worker=True) as client:
        job = candidates(state, client, [name]).job(state, name)
        with opened(job) as ends:
            kept = ends.target.state
            known = kept.positions() if kept.exists() and isinstance(kept, StreamState) else {}
            begun = restart_positions(job, ends.source, known, begin)
        for shift in begun.shifts:
            state.output.say(f"[yellow]note:[/yellow] {escape(shift)}")
        answer = client.ask("run.start", name, {"pipeline": name, "begin": begin.to_dict()})
    run = str((answer.result or {})["run"])
    state.output.say(f"{name}: run {run} begins at {escape(text)}")
    state.output.data({"pipeline": name, "run": run, "shifts": list(begun.shifts)})
    state.output.hint(f"penstock status {quote(name)}")
    return 0


def beginning_of(text: str, *, reset: bool) -> Beginning:
    """Return what `--from` asks for.

    Raises:
        UsageError: it is no word, time or list of offsets.
    """
    return Beginning.parse({"from": _from(text), "reset": reset})


def _from(text: str) -> Any:
    if text in {"earliest", "latest"}:
        return text
    if "=" in text:
        pairs = [one.partition("=") for one in text.split(",")]
        return {part.strip(): position.strip() for part, _, position in pairs}
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        what = "is no beginning: earliest, latest, a time such as 2026-01-31T08:00Z, or offsets such as 0=120,1=80"
        raise UsageError(what, where="--from", value=text) from None
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).isoformat()
