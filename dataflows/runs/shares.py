"""One stream in several processes: what the first one hears from the others, and what each of those does.

The first claims the pipeline for all of them, and reads and writes nothing itself. Columns are described once: each
process could infer others from the messages that it sees.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

from dataflows.connectors.streaming import Share
from dataflows.data.counters import Counters
from dataflows.data.movement import SLOW, Movement
from dataflows.data.nulls import Nulls
from dataflows.data.positions import Move
from dataflows.data.splits import Split, slot_names
from dataflows.data.tables import Column, Table
from dataflows.pipeline import FirstError
from dataflows.process.reports import write_line
from dataflows.runs.children import follow
from dataflows.runs.gauges import Gauges
from dataflows.runs.job import Job
from dataflows.runs.prepare import Prepared
from dataflows.runs.streaming import Positions, Told, run_stream
from dataflows.runs.survey import Ends, Plan, survey
from penstock.telemetry import current_traceparent

__all__ = ["run_share", "run_shares"]


def run_shares(
    job: Job,
    prepared: Prepared,
    positions: Positions,
    task: Mapping[str, Any],
    first: FirstError,
    told: Told,
    gauges: Gauges,
) -> None:
    """Run the stream in a process for each slot, until it is stopped or all of them are drained.

    Raises:
        PenstockError: the first error of one of them, which stops all.
    """
    waits: dict[int, set[str]] = {}
    gauges.waiting = lambda: list(waits.values())
    order = {
        "task": {**task, "traceparent": current_traceparent()},
        "of": len(prepared.slots),
        "generation": prepared.generation,
        "token": prepared.token,
        "source": asdict(prepared.survey.source),
        "positions": dict(positions.parts),
        "split": positions.split,
    }

    def hear(number: int, line: Mapping[str, Any]) -> None:
        if "committed" in line:
            split = Split(line["split"], moves=tuple(Move(*one) for one in line["moves"]), times=line["times"])
            if line["nulls"] is not None:
                told.nulls.add(**line["nulls"])
            told.committed(split, Counters(**line["committed"]), number)
        elif "begun" in line:
            told.begun(line["begun"])
        elif "waits" in line:
            waits[number] = set(line["waits"])

    orders = [order | {"number": number} for number in range(len(prepared.slots))]
    follow(job, orders, hear, first, told.movement, endless=True)


def run_share(job: Job, ends: Ends, order: Mapping[str, Any], first: FirstError, movement: Movement) -> None:
    """Run the share of a process, and report each commit as a line."""
    with movement.wait("the preparation of a process of the run did not end", SLOW):
        surveyed = survey(job, ends, Plan.of(job, _table(order["source"])))
        into = ends.target.load_table(job.run)
    slots = slot_names(order["of"])
    prepared = Prepared(surveyed, order["generation"], into, slots, (), 0, None, order["token"])
    positions = Positions(order["positions"], order["split"])
    nulls = Nulls()
    told = Told(partial(_committed, nulls), lambda begun: write_line({"begun": dict(begun)}), movement, nulls=nulls)
    run_stream(job, prepared, positions, ends, first, told, Share(order["number"], order["of"]))


def _committed(nulls: Nulls, split: Split, counted: Counters, _: int) -> None:
    line = {"committed": counted.as_dict(), "split": split.number, "times": split.times, "nulls": nulls.take()}
    write_line(line | {"moves": [[one.partition, one.start, one.end] for one in split.moves]})


def _table(found: Mapping[str, Any]) -> Table:
    columns = tuple(Column(**one) for one in found["columns"])
    keys = tuple(tuple(key) for key in found["keys"])
    return Table(**{**found, "columns": columns, "keys": keys})
