"""Values of messages as they are: one column of text or bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from dataflows.connectors.formats.lines import BadLine
from penstock.models.formats import RawFormat

__all__ = ["RawValues"]


@dataclass(frozen=True, slots=True)
class RawValues:
    """Reads the whole value; `wanted` is false if only metadata are read."""

    form: RawFormat
    wanted: bool

    def __call__(self, values: Sequence[bytes | None]) -> tuple[pa.Table, list[BadLine]]:
        if not self.wanted or self.form.as_ == "bytes":
            return pa.table({self.form.column: pa.array(values, pa.binary())}), []
        texts: list[str | None] = []
        wrong = []
        for at, value in enumerate(values):
            try:
                texts.append(None if value is None else value.decode())
            except UnicodeDecodeError:
                wrong.append(BadLine(at, "not_text", "it is not text in UTF-8: read it as bytes"))
        return pa.table({self.form.column: pa.array(texts, pa.string())}), wrong
