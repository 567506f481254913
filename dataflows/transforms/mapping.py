"""The mapping: source columns become target columns, checked against both tables before anything runs.

Where each field is a source column as it is and both types are equal, nothing has to look at the values: rows travel as
undecoded bytes (`raw`). Otherwise they are decoded to Arrow, mapped, and brought to the target's types.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa

from dataflows.chunks import Chunk
from dataflows.postgres.types import SqlType, arrow_type, fits, parse_type
from dataflows.tables import Column, Table
from penstock.errors import BadData, MissingColumn, SchemaMismatch, did_you_mean

if TYPE_CHECKING:
    from dataflows.transforms.expressions import Compiled

__all__ = ["FieldSpec", "Mapping", "bind", "outputs"]

_LABEL: Final = SqlType("label")


@dataclass(frozen=True, slots=True)
class FieldSpec:
    """One target field: a source column (`source`) or an expression over source columns (`sql`)."""

    target: str
    source: str | None = None
    sql: str | None = None
    path: str = "spec.mapping"


@dataclass(frozen=True, slots=True)
class _Bound:
    """A field with its type; `compiled` for an expression, else `column`."""

    spec: FieldSpec
    type: SqlType
    column: Column | None = None
    compiled: Compiled | None = None

    @property
    def reads(self) -> frozenset[str]:
        """The source columns that it needs."""
        return self.compiled.columns if self.compiled else frozenset({self.column.name} if self.column else ())


@dataclass(frozen=True, slots=True)
class Mapping:
    """A mapping that fits both tables. `reads` are the source columns to ask for, `schema` how to decode them."""

    targets: tuple[str, ...]
    reads: tuple[str, ...]
    raw: bool
    schema: pa.Schema | None
    step: Callable[[Chunk], Chunk] | None
    why_decoded: str | None


def outputs(fields: Sequence[FieldSpec] | None, source: Table, where: str) -> tuple[Column, ...]:
    """The target's columns if the target were made from the mapping."""
    made = []
    for bound in _bound(fields, source, where):
        column = bound.column
        kind = column.type if column and column.builtin else str(bound.type)
        nullable = column.nullable if column else True
        made.append(Column(bound.spec.target, kind, nullable))
    return tuple(made)


def bind(
    fields: Sequence[FieldSpec] | None, source: Table, target: Table, where: str, *, undecoded: bool = True
) -> Mapping:
    """The mapping between two tables; without `fields`, each column to the one of its name.

    `undecoded`: source and sink understand the same form of rows, so that bytes may pass as they are.

    Raises:
        MissingColumn: a name that the source or the target does not have.
        SchemaMismatch: a type that the target's column cannot keep, or a column that must be filled and is not.
    """
    bound = _bound(fields, source, where)
    columns = [_target_column(one, target, where) for one in bound]
    _check_filled(bound, target, where)
    why = next(filter(None, (_look_at(one, column) for one, column in zip(bound, columns, strict=True))), None)
    targets = tuple(one.spec.target for one in bound)
    if why is None and not undecoded:
        why = "source and sink are different systems"
    if why is None:
        reads = tuple(one.column.name for one in bound if one.column)
        return Mapping(targets, reads, raw=True, schema=None, step=None, why_decoded=None)
    for one, column in zip(bound, columns, strict=True):
        _check_fits(one, column, where)
    reads = tuple(column.name for column in source.columns if any(column.name in one.reads for one in bound))
    if not reads:
        reads = (source.columns[0].name,)
    schema = pa.schema([pa.field(name, _decoded(source, name, where)) for name in reads])
    step = _Step(tuple(bound), tuple(_kind(column) for column in columns), where)
    return Mapping(targets, reads, raw=False, schema=schema, step=step, why_decoded=why)


def _bound(fields: Sequence[FieldSpec] | None, source: Table, where: str) -> list[_Bound]:
    if fields is None:
        fields = [FieldSpec(column.name, column.name) for column in source.columns if not column.hidden]
    return [_bind_one(field, source, where) for field in fields]


def _bind_one(spec: FieldSpec, source: Table, where: str) -> _Bound:
    if spec.source is not None:
        column = source.column(spec.source)
        if column is None:
            raise _missing(spec.source, source, f"{where}: {spec.path}.from")
        return _Bound(spec, _kind(column), column)
    from dataflows.transforms.expressions import compile_expression  # noqa: PLC0415 - brings Polars in

    types = {column.name: _kind(column) for column in source.columns}
    compiled = compile_expression(spec.sql or "", types, f"{where}: {spec.path}.sql")
    return _Bound(spec, compiled.type, compiled=compiled)


def _kind(column: Column) -> SqlType:
    return _LABEL if column.label else parse_type(column.type)


def _missing(name: str, table: Table, where: str) -> MissingColumn:
    known = [column.name for column in table.columns]
    hint = did_you_mean(name, known) or f"{table.name} has {', '.join(known[:12])}{' …' if len(known) > 12 else ''}"  # noqa: PLR2004
    return MissingColumn(f"{table.name} has no such column", where=where, value=name, hint=hint)


def _target_column(bound: _Bound, target: Table, where: str) -> Column:
    column = target.column(bound.spec.target)
    if column is None:
        raise _missing(bound.spec.target, target, f"{where}: {bound.spec.path}.target")
    if column.generated:
        raise SchemaMismatch(
            f"`{column.name}` of {target.name} is computed by the server", where=f"{where}: {bound.spec.path}.target",
            hint="leave it out of the mapping",
        )  # fmt: skip
    return column


def _check_filled(bound: Sequence[_Bound], target: Table, where: str) -> None:
    mapped = {one.spec.target for one in bound}
    empty = [c.name for c in target.columns if not (c.nullable or c.default or c.generated or c.name in mapped)]
    if empty:
        names = ", ".join(f"`{name}`" for name in empty)
        hint = "map them, or give them a default"
        raise SchemaMismatch(f"{target.name} needs values for {names}, which are not mapped", where=where, hint=hint)


def _look_at(bound: _Bound, target: Column) -> str | None:
    """Why the values of this field have to be decoded; None where its bytes may pass as they are."""
    column = bound.column
    if column is None:
        return f"`{bound.spec.target}` is an expression"
    if column.type != target.type:
        return f"`{target.name}` is {target.type}, its source {column.type}"
    if not (column.builtin and target.builtin) and not (column.label and target.label):
        return f"`{target.name}` is of a type of the user's own"
    return None


def _check_fits(bound: _Bound, target: Column, where: str) -> None:
    kind, wanted = bound.type, _kind(target)
    path = f"{where}: {bound.spec.path}"
    if not fits(kind, wanted) and not (target.label and kind.text):
        hint = (
            f"write sql: CAST(… AS {target.type})"
            if bound.column is None
            else f"map it by sql, CAST(… AS {target.type})"
        )
        what = f"{kind} does not fit into `{target.name}` of type {target.type}"
        raise SchemaMismatch(what, where=path, hint=hint)
    if wanted.name != "numeric" and arrow_type(wanted) is None:
        raise SchemaMismatch(f"`{target.name}` of type {target.type} cannot be written through Arrow yet", where=path,
                             hint="give source and target exactly the same types and map no expressions")  # fmt: skip


def _decoded(source: Table, name: str, where: str) -> pa.DataType:
    column = source.column(name)
    if column is None:
        raise _missing(name, source, where)
    found = arrow_type(_kind(column))
    if found is None:
        hint = "values of this type cannot be kept exactly once they are decoded"
        if column.type == "numeric":
            hint = "a numeric without precision has no bound; give the column one, such as numeric(38,10)"
        raise SchemaMismatch(f"`{name}` of type {column.type} cannot be mapped by value", where=where, hint=hint)
    return found


@dataclass(frozen=True, slots=True)
class _Step:
    """Maps a decoded chunk to the target's columns and types."""

    fields: tuple[_Bound, ...]
    kinds: tuple[SqlType, ...]
    where: str

    def __call__(self, chunk: Chunk) -> Chunk:
        if chunk.data is None:
            return chunk
        if isinstance(chunk.data, memoryview):
            message = "undecoded bytes came where a batch was due"
            raise TypeError(message)
        batch = self._mapped(chunk.data)
        return Chunk(chunk.slot, chunk.split, chunk.sequence, batch, batch.num_rows, read=chunk.read)

    def _mapped(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        computed = self._computed(batch)
        arrays = []
        for field, kind in zip(self.fields, self.kinds, strict=True):
            array = computed[field.spec.target] if field.column is None else batch.column(field.column.name)
            arrays.append(_as_target(array, field, kind, self.where))
        return pa.RecordBatch.from_arrays(arrays, names=[field.spec.target for field in self.fields])

    def _computed(self, batch: pa.RecordBatch) -> dict[str, pa.Array]:
        expressions = {field.spec.target: field.compiled for field in self.fields if field.compiled}
        if not expressions:
            return {}
        from dataflows.transforms.evaluation import evaluate  # noqa: PLC0415 - brings Polars in

        return evaluate(expressions, batch)


def _as_target(array: pa.Array, field: _Bound, kind: SqlType, where: str) -> pa.Array:
    try:
        return _cast(array, field.type, kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        what = f"a value does not fit into `{field.spec.target}` of type {kind}"
        raise BadData(what, where=f"{where}: {field.spec.path}", hint="look at the mapped types") from None


def _cast(array: pa.Array, have: SqlType, kind: SqlType) -> pa.Array:
    wanted: Any = arrow_type(kind)
    if kind.name == "numeric" and wanted is None:
        wanted = pa.decimal128(19, 0) if have.integer else array.type
    return array if array.type == wanted else array.cast(wanted)
