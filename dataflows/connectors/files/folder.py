"""The folder that a sink's object names, and the format of its files."""

from __future__ import annotations

from dataclasses import dataclass

from dataflows.connectors.files.names import FileSet
from dataflows.connectors.formats.contract import extension_of, format_of
from penstock.errors import Refused
from penstock.models.formats import Format, ParquetFormat

__all__ = ["Folder"]


@dataclass(frozen=True, slots=True)
class Folder:
    """The folder that a sink's object names, and the format of its files."""

    name: str
    form: Format
    codec: str | None

    @classmethod
    def parse(cls, text: str, given: Format | None, where: str) -> Folder:
        """``sales/orders``, ``sales/orders.parquet`` (a folder too) or ``sales/orders/*.jsonl.gz``; else Parquet.

        Raises:
            Refused: another pattern.
        """
        folder, _, last = text.rstrip("/").rpartition("/")
        pattern = last.startswith("*.")
        found = FileSet.parse(folder if pattern else text, where)
        if not found.plain:
            hint = "name a folder; its files are named for you"
            raise Refused("rows are written to one folder", where=where, value=text, hint=hint)
        told = given or (None if pattern or "." in last else ParquetFormat(type="parquet"))
        form, codec = format_of(last, told, where)
        return cls(found.pattern, form, codec)

    @property
    def ending(self) -> str:
        """What its files' names end with."""
        plain = extension_of(self.form)
        packed_as = {"gzip": ".gz", "zstd": ".zst"}.get(self.codec or "", "")
        return plain if plain.endswith((".gz", ".zst")) else plain + packed_as
