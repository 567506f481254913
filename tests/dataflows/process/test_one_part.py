"""The sink of flows that keep their positions themselves."""

from __future__ import annotations

from typing import Any

from bytewax.dataflow import Dataflow
from bytewax.operators import input as op_input
from bytewax.operators import output
from bytewax.testing import TestingSource, run_main

from dataflows.process.one_part import OnePart


def test_each_item_is_written_and_the_end_is_reported_once() -> None:
    written: list[Any] = []
    flow = Dataflow("one")
    output(
        "out",
        op_input("in", flow, TestingSource([("k", 1), ("k", 2)])),
        OnePart(written.extend, lambda: written.append("end")),
    )
    run_main(flow)
    assert written == [1, 2, "end"]
