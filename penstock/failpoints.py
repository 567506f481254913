"""Named points where a test can make the process die, stop or raise, to cut it at every boundary.

``PENSTOCK_FAILPOINT="commit.before_fence:3=kill"`` kills this process (SIGKILL) when it reaches that point of split 3;
without an index, the first time it reaches the point. ``stop`` sends SIGSTOP to itself, once; ``raise`` raises.
When unset, a point costs one comparison.
"""

from __future__ import annotations

import os
import signal
import threading
from dataclasses import dataclass
from typing import Final

__all__ = ["OF_DELETES", "POINTS", "FailpointReached", "arm", "failpoint"]

VARIABLE: Final = "PENSTOCK_FAILPOINT"

POINTS: Final = (
    "prepare.begin", "prepare.state_made", "prepare.claiming", "prepare.generation_raised",
    "prepare.sessions_ended", "prepare.before_plan", "prepare.planned", "prepare.shadow_made", "flow.begin",
    "read.begin", "read.block", "read.end", "commit.begin", "commit.mid_copy", "commit.copied",
    "commit.before_fence", "commit.sent", "commit.done", "flow.end", "publish.begin", "publish.locked",
    "publish.moved", "publish.done", "result.before", "result.written",
)  # fmt: skip
"""Points of a batch, in the order in which a run reaches them; ``read`` and ``commit`` come once for each split."""
OF_CHANGES: Final = ("cdc.before_slot", "cdc.slot_made", "cdc.begun", "cdc.gathered")
"""Further points of a stream of changes."""
OF_DELETES: Final = ("deletes.listed", "deletes.compared", "deletes.pruned", "deletes.applied", "deletes.done")
"""Points of a comparison of keys, in order."""

OF_REDRIVES: Final = ("redrive.claimed", "redrive.written", "redrive.settled")
"""Further points of a redrive of dead letters, in order."""

OF_ARRIVALS: Final = ("watch.noticing", "watch.noticed")
"""Points of a look for files that has found some, in order."""

OF_NOTICES: Final = ("notify.begin", "notify.sent")
"""Points of a notice about an alert: before it is sent, and before that is reported."""


class FailpointReached(Exception):
    """Raised at the point that was set to ``raise``."""


@dataclass(slots=True)
class _Armed:
    point: str = ""
    action: str = ""


_armed = _Armed()


def arm(setting: str | None) -> None:
    """Set the point from ``name[:index]=kill|stop|raise``; None or an empty string disarms.

    Raises:
        ValueError: an unknown name or action.
    """
    point, _, action = (setting or "").partition("=")
    known = (*POINTS, *OF_CHANGES, *OF_DELETES, *OF_REDRIVES, *OF_ARRIVALS, *OF_NOTICES)
    if point and (point.partition(":")[0] not in known or action not in {"kill", "stop", "raise"}):
        message = f"{VARIABLE}={setting}: no such failpoint; write name[:index]=kill|stop|raise"
        raise ValueError(message)
    _armed.point, _armed.action = point, action


def failpoint(name: str, index: int | None = None) -> None:
    """Die, stop or raise here if the environment asks for this point."""
    if _armed.point and _armed.point in (name, f"{name}:{index}"):
        _trigger()


def _trigger() -> None:
    action = _armed.action
    if action != "kill":
        arm(None)
    if action == "raise":
        raise FailpointReached
    # To this thread: a signal to the process may reach another thread first, while this one continues for a while.
    signal.pthread_kill(threading.get_ident(), signal.SIGKILL if action == "kill" else signal.SIGSTOP)


arm(os.environ.get(VARIABLE))
