"""The audit of a log of a million records: seals, decisions made again, the catalog, and a replay under another policy.

``python -m benchmarks.audit [--records 1000000] [--tasks 10000] [--json] [--readme]``. The log is on the embedded
server, made by the agents themselves. In the end a byte of it is altered, which the seals must show. `tasks_per_s` is
the rate of runs through the orchestrator.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, Final

import orjson
from psycopg import sql

from benchmarks.parts.control_log import MIX, ControlLog
from benchmarks.parts.readme import machine, write_table
from benchmarks.parts.task_rate import ABOUT, tasks_per_s
from dataflows.audit.catalog import compared
from dataflows.audit.halves import judged
from dataflows.audit.replay import replayed
from dataflows.audit.verification import verified
from dataflows.control import agents
from dataflows.process.sealing import seal_to_end
from dataflows.process.site import Site
from dataflows.projector import project_to_end
from penstock.collector import collect_rarely
from penstock.models.policy import AgentPolicy
from penstock.postgres import connect
from penstock.records import BRAIN_LOCK
from penstock.records.seals import SEAL_LOCK
from penstock.settings import load
from penstock.topics.layout import table_of
from penstock.topics.log import Message, TopicLog
from penstock.topics.table import CONTROL

BATCH: Final = 1000
POLICY: Final = AgentPolicy.parse(
    {"metadata": {"name": "default"}, "spec": {"orchestrator": {"max_running": 5, "priorities": {"tin": 10}}}}
)
"""The other policy: fewer runs at once, and other pipelines first."""
ALTER: Final = sql.SQL(
    """WITH one AS (SELECT first, position('"rows_out"'::bytea IN body) AS at FROM {table} WHERE first <= %s
                    AND position('"rows_out"'::bytea IN body) > 0 ORDER BY first DESC LIMIT 1)
    UPDATE {table} AS batch SET body = set_byte(batch.body, one.at, 120) FROM one WHERE batch.first = one.first"""
)


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--readme", action="store_true")
    options = parser.parse_args()
    collect_rarely()  # as every command does
    found = audited(options.records) | {"tasks_per_s": round(_on_a_site(lambda site: tasks_per_s(site, options.tasks)))}
    if options.readme:
        write_table("audit", _table(found))
    if options.json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        sys.stdout.write(f"{name:<20}{value:>12}\n")


def _on_a_site(measure: Callable[[Site], Any]) -> Any:
    with tempfile.TemporaryDirectory(prefix="pen-", dir="/tmp") as folder:
        (Path(folder) / "penstock.toml").write_text("")
        with Site(load(Path(folder))) as site:
            return measure(site)


def audited(records: int) -> dict[str, Any]:
    """Measure the audit of a log of so many records."""
    found: dict[str, Any] = _on_a_site(lambda site: _audited(site, records))
    return found


def _audited(site: Site, records: int) -> dict[str, Any]:
    with site.open_log("bench") as log:
        made, sizes = _timed(lambda: _filled(log, records))
        project_to_end(site)
        log.lock(SEAL_LOCK, wait=True)
        seal_to_end(log, site.settings.seals_file)
        end, opened = log.end(CONTROL, 0), site.log_opener("audit")
        verify_s, verified_ = _timed(lambda: judged(log, end, partial(verified, end=end), opened))
        replay_s, replay = _timed(lambda: judged(log, end, partial(replayed, end=end, policies=[POLICY]), opened))
        catalog_s, catalog = _timed(lambda: compared(site, log))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        _expect(verified_.is_good and not verified_.older, "the log is as the agents wrote it")
        _expect(not catalog.differing, "the catalog is what the log makes of it")
        _alter(site, end // 2)
        problems = verified(log, (), end).problems
        _expect([one.kind for one in problems] == ["altered"], "an altered byte is found")
    return {
        "records": end,
        "verify_s": round(verify_s, 1),
        "catalog_s": round(catalog_s, 1),
        "replay_s": round(replay_s, 1),
        "decisions": sum(verified_.decisions.values()),
        "flipped": replay.flipped,
        "seals": verified_.seals,
        "memory_mb": peak,
        "state_mb": round(max(sizes) / 1e6, 2),
        "fill_s": round(made),
    }


def _filled(log: TopicLog, records: int) -> list[int]:
    """Make the log; return the size of each agent's snapshot at its end."""
    log.lock(BRAIN_LOCK, wait=True)
    world, batch = ControlLog(agents()), list[Message]()
    for message in world.messages(records):
        batch.append(message)
        if len(batch) == BATCH:
            log.append(CONTROL, batch)
            batch = []
    log.append(CONTROL, batch)
    return [len(orjson.dumps(state)) for state in world.snapshots()]


def _alter(site: Site, offset: int) -> None:
    """Change one byte of a record before `offset`, as who may write to the database could."""
    with closing(connect(site.log_url, "benchmark")) as session:
        session.execute(ALTER.format(table=table_of(CONTROL)), [offset])


def _timed(measure: Callable[[], Any]) -> tuple[float, Any]:
    begin = time.perf_counter()
    found = measure()
    return time.perf_counter() - begin, found


def _expect(held: object, what: str) -> None:
    if not held:
        message = f"not so: {what}"
        raise RuntimeError(message)


def _table(found: dict[str, Any]) -> list[str]:
    rows = (
        ("`audit verify`: the seals, and every decision made again", f"{found['verify_s']} s"),
        ("`audit verify`: the catalog, folded again and compared", f"{found['catalog_s']} s"),
        ("`audit replay`: every decision judged under another policy", f"{found['replay_s']} s"),
        ("memory of all three, at most", f"{found['memory_mb']} MB"),
        ("the largest state of an agent", f"{found['state_mb']} MB"),
        ("tasks through the orchestrator", f"{found['tasks_per_s']:,} /s"),
    )
    lines = [f"| {what} | {figure} |" for what, figure in rows]
    about = f"{machine()}. The log: {MIX}; {found['decisions']:,} decisions. Tasks: {ABOUT}."
    return [f"| a log of {found['records']:,} records | |", "|---|---:|", *lines, "", about]


if __name__ == "__main__":
    main()
