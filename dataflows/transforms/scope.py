"""The columns between two steps while a chain is planned: the name, type and origin of each.

A column that no expression has read stays the source's own array and never enters Polars. A column that an expression
reads or computes is in the frame, under an id that no step can change.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from dataflows.data.tables import Column
from dataflows.data.types import SqlType
from penstock.errors import MissingColumn, did_you_mean

if TYPE_CHECKING:
    from dataflows.transforms.expressions.compiler import Compiled

__all__ = ["BoundColumn", "BoundExpression", "Scope"]


@dataclass(frozen=True, slots=True)
class BoundColumn:
    """A column with its type and lineage: `source` if it is still a source column, else `id`, its name in the frame.

    `origins` are the source columns that its values come from, and `steps` the steps that they went through.
    """

    type: SqlType
    nullable: bool = True
    origins: frozenset[str] = frozenset()
    steps: tuple[str, ...] = ()
    source: Column | None = None
    id: str = ""


@dataclass(frozen=True, slots=True)
class BoundExpression:
    """A compiled expression; `reads` maps its column names to ids in the frame, `origins` are its source columns."""

    compiled: Compiled
    reads: Mapping[str, str]
    origins: frozenset[str] = frozenset()


@dataclass(slots=True)
class Scope:
    """The columns by name, in order. `wanted` maps the source columns that the frame needs to their ids.

    `masked` are the source columns that a step masks; they are hidden in dead letters, too.
    """

    columns: dict[str, BoundColumn]
    wanted: dict[str, str] = field(default_factory=dict)
    made: int = 0
    masked: set[str] = field(default_factory=set)

    def __getitem__(self, name: str) -> BoundColumn:
        return self.columns[name]

    @property
    def types(self) -> dict[str, SqlType]:
        """Return the type of each column by name."""
        return {name: column.type for name, column in self.columns.items()}

    def require(self, name: str, where: str) -> BoundColumn:
        """Return the column of that name.

        Raises:
            MissingColumn: with the most similar name.
        """
        if name not in self.columns:
            near = did_you_mean(name, self.columns) or f"known are {', '.join(list(self.columns)[:12])}"
            raise MissingColumn("there is no such column", where=where, value=name, hint=near)
        return self.columns[name]

    def read(self, name: str) -> str:
        """Return the id of a column in the frame; add it to the frame if it is still a source column."""
        column = self.columns[name]
        if column.source is None:
            return column.id
        id_ = f"s:{column.source.name}"
        self.wanted[column.source.name] = id_
        return id_

    def new_id(self) -> str:
        """Return an unused id."""
        self.made += 1
        return f"v:{self.made}"

    def compute(self, text: str, where: str) -> BoundExpression:
        """Compile an expression over these columns.

        Raises:
            SchemaMismatch, MissingColumn: as `compile_expression`.
        """
        from dataflows.transforms.expressions.compiler import compile_expression

        compiled = compile_expression(text, self.types, where)
        origins = self.origins(compiled.columns)
        return BoundExpression(compiled, {name: self.read(name) for name in sorted(compiled.columns)}, origins)

    def origins(self, names: Iterable[str]) -> frozenset[str]:
        """Return the source columns that the columns `names` are computed from."""
        return frozenset[str]().union(*(self.columns[name].origins for name in names))

    def put(self, name: str, column: BoundColumn, step: str) -> None:
        """Replace or add the column `name`, computed by a step."""
        earlier = self.columns[name].steps if name in self.columns else ()
        self.columns[name] = replace(column, steps=(*earlier, step))
