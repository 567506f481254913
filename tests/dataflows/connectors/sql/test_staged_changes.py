"""Changes as they are staged: what each says of its row before is kept."""

from __future__ import annotations

import pyarrow as pa

from dataflows.connectors.sql.changes import Changes, was
from dataflows.connectors.sql.names import ObjectName
from dataflows.data.changes import CHANGE, CHANGE_COLUMN, keep
from dataflows.data.tables import Column


def test_the_key_before_may_be_an_empty_text() -> None:
    columns = (Column("k", "text"), Column("v", "text"), CHANGE_COLUMN)
    changes = Changes.of(ObjectName("main", "t"), columns, ("k",), {"k": "k", "v": "v"})
    batch = pa.RecordBatch.from_pydict({"k": ["a", "b"], "v": [None, "x"], CHANGE: [keep(["v"], [""]), None]})
    assert changes.flat(batch).column(was(0)).to_pylist() == ["", "b"]
