"""The folder that a sink's object names, and the format of its files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from dataflows.connectors.files.names import FileSet
from dataflows.connectors.formats.contract import extension_of, format_of
from penstock.errors import Refused
from penstock.models.formats import FileFormat, Format, ParquetFormat

__all__ = ["Folder"]

_OF_SOURCES: Final = ("quote", "escape", "header", "null_values", "encoding", "columns")
"""Options of formats that say how files are read."""


@dataclass(frozen=True, slots=True)
class Folder:
    """The folder that a sink's object names, and the format of its files."""

    name: str
    form: FileFormat
    codec: str | None

    @classmethod
    def parse(cls, text: str, given: Format | None, where: str) -> Folder:
        """Parse ``sales/orders``, ``sales/orders.parquet`` (also a folder) or ``sales/orders/*.jsonl.gz``.

        The format is Parquet unless the pipeline or the name says otherwise.

        Raises:
            Refused: any other pattern.
        """
        folder, _, last = text.rstrip("/").rpartition("/")
        pattern = last.startswith("*.")
        files = FileSet.parse(folder if pattern else text, where)
        if not files.plain:
            hint = "name a folder; Penstock names its files"
            raise Refused("rows are written to one folder", where=where, value=text, hint=hint)
        default = given or (None if pattern or "." in last else ParquetFormat(type="parquet"))
        form, codec = format_of(last, default, where)
        return cls(files.pattern, form, codec)

    @property
    def ending(self) -> str:
        """Extension of its files, with that of the compression."""
        plain = extension_of(self.form)
        packed_as = {"gzip": ".gz", "zstd": ".zst"}.get(self.codec or "", "")
        return plain if plain.endswith((".gz", ".zst")) else plain + packed_as

    def check_options(self, where: str) -> None:
        """Refuse options that have no effect on written files: who reads them by these would read other values.

        Raises:
            Refused: by the option's name.
        """
        fields = type(self.form).model_fields
        for name in _OF_SOURCES:
            if name in fields and getattr(self.form, name) != fields[name].get_default(call_default_factory=True):
                hint = "leave it out: files are written in UTF-8, CSV with a header, quotes doubled and NULL as nothing"
                raise Refused(f"`{name}` of `format` is for reading only", where=where, hint=hint)
