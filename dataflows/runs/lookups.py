"""Lookup tables: read once a run, or again and again by a stream, by any connector that is a source."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from dataflows.connectors.contract import ReadOrder
from dataflows.connectors.registry import open_source
from dataflows.data.cursors import Window
from dataflows.data.types import arrow_type, parse_type
from dataflows.runs.job import Job
from dataflows.transforms.steps import LookupTable, Resources
from penstock.errors import BadData, Refused
from penstock.models.secrets import resolve

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["mask_key", "resources_of"]

MAX_BYTES: Final = 64 << 20
"""Largest lookup table, in Arrow bytes, since it is kept in memory."""
BATCH_ROWS: Final = 65536


def resources_of(job: Job) -> Resources:
    """Return what the steps of a job may use besides the rows; tables are read on first use, and cached."""
    key = mask_key(job.mask_key, job.source.secrets)
    return Resources(partial(_loaded, job), job.modules, key, partial(_read, job))


def mask_key(reference: str, secrets: Path | None) -> Callable[[], bytes] | None:
    """Return what reads the key of `mask: hash`, or None if there is none. It raises SettingsError."""
    if not reference:
        return None
    return lambda: resolve(reference, where="mask_key", secrets=secrets).encode()


def _loaded(job: Job, connection: str, object_: str) -> LookupTable:
    key = (connection, object_)
    if key not in job.looked_up:
        job.looked_up[key] = _read(job, connection, object_)
    return job.looked_up[key]


def _read(job: Job, connection: str, object_: str) -> LookupTable:
    """Read all rows of the table, and the columns that the steps use.

    Raises:
        Refused: it is too large.
        BadData: a row of it cannot be read.
    """
    import polars as pl
    import pyarrow as pa

    place = job.place(connection, object_)
    with closing(open_source(place)) as source:
        table = source.describe()
        types = {
            one.name: parse_type(one.type) for one in table.columns if arrow_type(parse_type(one.type)) is not None
        }
        used = _used(job, connection, object_)
        schema = pa.schema([(name, arrow_type(kind)) for name, kind in types.items() if name in used])
        order = ReadOrder(table, tuple(schema.names), None, schema, BATCH_ROWS, lambda: None)
        batches: list[pa.RecordBatch] = []
        with closing(source.reader(order)) as reader:
            for split in source.plan(table, None, Window(None, None), 1 << 62, 0):
                for chunk in reader.read("lookup", split):
                    if chunk.refused is not None:
                        what, hint = chunk.refused.column("reason")[0].as_py(), "leave such rows out by a view"
                        raise BadData(f"a row cannot be looked up: {what}", where=place.where, value=object_, hint=hint)
                    if chunk.data is not None:
                        batches.append(chunk.data)
                    if sum(batch.nbytes for batch in batches) > MAX_BYTES:
                        hint = f"tables up to {MAX_BYTES >> 20} MB can be looked up in; join it at the source"
                        raise Refused(
                            "the table is too large to be kept in memory", where=place.where, value=object_, hint=hint
                        )
    frame = pl.from_arrow(pa.Table.from_batches(batches, schema=schema))
    return LookupTable(types, frame if isinstance(frame, pl.DataFrame) else frame.to_frame())


def _used(job: Job, connection: str, object_: str) -> set[str]:
    """Return the columns of a lookup table that the job's steps use."""
    rules = (step.lookup for step in job.rules.steps if step.lookup is not None)
    same = [one for one in rules if (one.connection, one.object) == (connection, object_)]
    return {name for one in same for name in (*one.on.values(), *one.take.values())}
