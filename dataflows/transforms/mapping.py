"""The mapping and all steps after it, checked against both tables before the run.

If each target column is an unchanged source column of the same type, and there are no steps or checks, nothing reads
the values: rows travel as undecoded bytes (`raw`). Otherwise they are decoded to Arrow and pass through a chain.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import pyarrow as pa

from dataflows.data.changes import CHANGE, COMMITTED
from dataflows.data.tables import Column, Table
from dataflows.data.types import arrow_type, as_text, column_type, fits
from dataflows.transforms.chain import Chain, Output
from dataflows.transforms.cleaning import Cleaning
from dataflows.transforms.scope import BoundColumn, BoundExpression, Scope
from dataflows.transforms.segments import Segment, end_segment, partition_columns
from dataflows.transforms.stateful import StatefulChain
from dataflows.transforms.steps import Resources, plan_checks, plan_steps, step_place
from penstock.errors import MissingColumn, Refused, SchemaMismatch, did_you_mean
from penstock.models.transforms import TransformStep, Validation

if TYPE_CHECKING:
    from dataflows.transforms.stages import Stage

__all__ = ["BoundMapping", "FieldSpec", "RulePlan", "Rules", "bind", "output_columns", "plan_rules"]


@dataclass(frozen=True, slots=True)
class FieldSpec:
    """One target field: a source column (`source`) or an expression over source columns (`sql`)."""

    target: str
    source: str | None = None
    sql: str | None = None
    path: str = "spec.mapping"


@dataclass(frozen=True, slots=True)
class Rules:
    """A pipeline's rules for rows: fields (None: each column by name), then steps, then checks."""

    fields: tuple[FieldSpec, ...] | None = None
    steps: tuple[TransformStep, ...] = ()
    validation: Validation = field(default_factory=Validation)
    carried: frozenset[str] = frozenset()
    """Columns passed on to the sink even if the target does not have them."""
    filled: frozenset[str] = frozenset()
    """Columns of the target that the sink fills by itself."""
    left_out: bool = False
    """True if columns that the target does not have are left out."""
    nul: str | None = None
    """Treatment of NUL characters in text: `strip`, `replace`, or None."""
    no_nul: bool = False
    """True if text of the source may contain NUL characters and the target cannot store them."""
    repeats: frozenset[str] = frozenset()
    """Types of documents of the source in which keys may repeat, if the target keeps only the last."""
    changes: bool = False
    """True if the rows are changes: what each of them does travels in a column of its own, `CHANGE`."""

    @property
    def names_columns(self) -> bool:
        """True if they name the columns to read, so that none is read only because the source has it."""
        return self.fields is not None or any(step.select or step.window for step in self.steps)

    @property
    def plain(self) -> bool:
        """True if there are no steps, checks or cleaning."""
        return not (self.steps or self.validation.not_null or self.validation.checks or self.nul)


@dataclass(frozen=True, slots=True)
class BoundMapping:
    """Rules bound to both tables. `reads` are the source columns to read, `schema` the types to decode them to.

    `lineage` maps each target column to the source columns of its values, and the steps in between.
    """

    targets: tuple[str, ...]
    reads: tuple[str, ...]
    raw: bool
    schema: pa.Schema | None
    chain: Chain | StatefulChain | None
    decode_reason: str | None
    lineage: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]
    columns: tuple[Column, ...]
    """The columns written, in the order of the batches, as the target defines them."""
    as_text: bool = False
    """For undecoded rows: True if they must travel in text form."""

    def unchanged(self, source: str) -> str | None:
        """Return the target column that a source column is copied to unchanged, if any."""
        return next((name for name, origin in self.lineage.items() if origin == ((source,), ())), None)


@dataclass(slots=True)
class RulePlan:
    """The rules bound to a source table, without a target: columns by name, in order, and the stages."""

    scope: Scope
    stages: list[Stage]
    paths: dict[str, str]
    earlier: tuple[Segment, ...] = ()
    """The segments up to the last step that remembers rows; scope and stages are those after the last of them."""

    def origin(self, name: str) -> str | None:
        """Return the source column that is passed on unchanged as `name`, if it is one."""
        one = self.scope.columns[name]
        return next(iter(one.origins)) if len(one.origins) == 1 and not one.steps and not self.earlier else None

    def unchanged(self, source: str) -> str | None:
        """Return the name under which a source column is passed on unchanged, if it is."""
        columns = self.scope.columns.items()
        return next((name for name, one in columns if one.origins == {source} and not one.steps), None)


def plan_rules(rules: Rules, source: Table, where: str, resources: Resources) -> RulePlan:
    """Check fields, steps and checks over the source's columns.

    Raises:
        MissingColumn, SchemaMismatch, Refused: at the path of the first thing that does not fit.
    """
    scope, paths, stages = _mapped(_with_change(rules, source), source, where)
    earlier: list[Segment] = []
    first = 0
    partitions: dict[str, BoundColumn] = {}
    for at, step in enumerate(rules.steps):
        if not step.remembers:
            continue
        stages += plan_steps(scope, rules.steps[first:at], where, resources, first)
        place = step_place(where, at, step)
        if any(one.window is not None for one in rules.steps[:at]):
            hint = "write the windows to a topic, and read that by a second pipeline"
            raise Refused("what comes after a window cannot remember rows yet", where=place, hint=hint)
        partitions = partitions if earlier else partition_columns(source)
        segment, scope, partitions = end_segment(scope, stages, step, place, partitions, "spec.transforms")
        earlier, stages, first = [*earlier, segment], [], at + 1
    stages += plan_steps(scope, rules.steps[first:], where, resources, first)
    stages += plan_checks(scope, rules.validation, where)
    return RulePlan(scope, stages, paths if not rules.steps else {}, tuple(earlier))


def output_columns(
    rules: Rules,
    source: Table,
    where: str,
    resources: Resources = Resources(),  # noqa: B008 - frozen
    plan: RulePlan | None = None,
) -> tuple[Column, ...]:
    """Return the columns of a target to be created from the rules; `plan` is their plan, if it exists already."""
    made = []
    plan = plan or plan_rules(rules, source, where, resources)
    for name, bound in plan.scope.columns.items():
        if name in rules.carried:
            continue
        column = bound.source or Column(name, str(bound.type))
        nullable = bound.nullable and name not in rules.validation.not_null
        made.append(replace(column, name=name, nullable=nullable, default=False, generated=False, hidden=False))
    return tuple(made)


def bind(
    rules: Rules,
    source: Table,
    target: Table,
    where: str,
    *,
    undecoded: bool = True,
    resources: Resources = Resources(),  # noqa: B008 - immutable
    plan: RulePlan | None = None,
) -> BoundMapping:
    """Bind the rules to two tables; `plan` is the plan of the rules over the source, if it exists already.

    `undecoded`: source and sink use the same form of rows, so that bytes may pass unchanged.

    Raises:
        MissingColumn: a name that the source or the target does not have.
        SchemaMismatch: a type that the target's column cannot store, or a required column without a value.
    """
    plan = plan or plan_rules(rules, source, where, resources)
    scope = plan.scope
    if rules.left_out:
        known = {one.name for one in target.columns} | rules.carried
        scope = replace(scope, columns={name: bound for name, bound in scope.columns.items() if name in known})
    lineage = {name: (tuple(sorted(bound.origins)), bound.steps) for name, bound in scope.columns.items()}
    columns = {
        name: _target_column(name, target, _place(plan, name, where, ".target"), plan, rules) for name in scope.columns
    }
    _check_filled({*columns, *rules.filled}, target, where)
    why = _reason_to_decode(rules, scope, columns, undecoded=undecoded)
    if why is None:
        reads = tuple(bound.source.name for bound in scope.columns.values() if bound.source)
        text = any(as_text(column) for column in columns.values())
        return BoundMapping(tuple(columns), reads, True, None, None, None, lineage, tuple(columns.values()), text)  # noqa: FBT003 - raw
    for name, column in columns.items():
        _check_fits(scope[name], column, _place(plan, name, where))
    passed = {bound.source.name for bound in scope.columns.values() if bound.source} | {*scope.wanted}
    passed = plan.earlier[0].reads if plan.earlier else passed
    reads = tuple(one.name for one in source.columns if one.name in passed)
    reads = reads or tuple(one.name for one in source.columns if one.unreadable is None)[:1]
    schema = pa.schema([pa.field(name, _arrow_type_of(source, name, where)) for name in reads])
    made = [
        Output(one, column_type(one), scope[name], plan.paths.get(name, "spec.transforms"))
        for name, one in columns.items()
    ]
    documents = frozenset(one.name for one in source.columns if column_type(one).name in {"json", "jsonb"})
    cleaning = Cleaning(rules.nul, documents) if rules.nul else None
    change = CHANGE if rules.changes else None
    masked = frozenset(scope.masked)
    if plan.earlier:
        masked |= {name for name, one in scope.columns.items() if one.origins & masked}
    last = Chain(
        scope.wanted,
        tuple(plan.stages),
        tuple(made),
        masked,
        where,
        None if plan.earlier else cleaning,
        rules.no_nul,
        rules.repeats,
        change,
    )
    chain: Chain | StatefulChain = last
    if plan.earlier:
        before = [one.chain(where, masked, cleaning=None if at else cleaning) for at, one in enumerate(plan.earlier)]
        chain = StatefulChain((*before, last), tuple(one.step for one in plan.earlier), plan.earlier[0].partitions)
    return BoundMapping(tuple(columns), reads, False, schema, chain, why, lineage, tuple(columns.values()))  # noqa: FBT003 - not raw


def _with_change(rules: Rules, source: Table) -> Sequence[FieldSpec] | None:
    if not rules.changes:
        return rules.fields
    fields = rules.fields
    if fields is None:
        fields = tuple(FieldSpec(one.name, one.name) for one in source.columns if not one.hidden)
    return (*fields, *(FieldSpec(name, name) for name in (COMMITTED, CHANGE) if name in rules.carried))


def _mapped(fields: Sequence[FieldSpec] | None, source: Table, where: str) -> tuple[Scope, dict[str, str], list[Stage]]:
    """Return the mapped columns, the path of each in the pipeline file, and the stages that compute some of them."""
    scope = Scope({one.name: _bound_column(one) for one in source.columns})
    if fields is None:
        fields = [FieldSpec(column.name, column.name) for column in source.columns if not column.hidden]
    made: dict[str, BoundColumn] = {}
    values: dict[str, BoundExpression] = {}
    for spec in fields:
        if spec.source is not None:
            if spec.source not in scope.columns:
                raise _missing(spec.source, source, f"{where}: {spec.path}.from")
            _check_readable(source, spec.source)
            made[spec.target] = scope[spec.source]
            continue
        id_ = scope.new_id()
        values[id_] = value = scope.compute(spec.sql or "", f"{where}: {spec.path}.sql")
        origins = scope.origins(value.compiled.columns)
        for name in origins:
            _check_readable(source, name)
        made[spec.target] = BoundColumn(value.compiled.type, nullable=True, origins=origins, steps=("mapping",), id=id_)
    paths = {spec.target: spec.path for spec in fields}
    if not values:
        return replace(scope, columns=made), paths, []
    from dataflows.transforms.stages import Compute

    return replace(scope, columns=made), paths, [Compute("mapping", values)]


def _check_readable(source: Table, name: str) -> None:
    column = source.column(name)
    if column is not None and column.unreadable is not None:
        raise SchemaMismatch(column.unreadable)


def _bound_column(column: Column) -> BoundColumn:
    return BoundColumn(column_type(column), column.nullable, frozenset({column.name}), source=column)


def _place(plan: RulePlan, name: str, where: str, part: str = "") -> str:
    path = plan.paths.get(name)
    return f"{where}: spec.transforms" if path is None else f"{where}: {path}{part}"


def _reason_to_decode(rules: Rules, scope: Scope, columns: Mapping[str, Column], *, undecoded: bool) -> str | None:
    """Return why the values must be decoded; None if bytes may pass unchanged."""
    if not rules.plain:
        return "there are steps or checks"
    reasons = (_decode_reason(name, scope[name], column) for name, column in columns.items())
    why = next((one for one in reasons if one), None)
    return why or (None if undecoded else "source and sink are different systems")


def _missing(name: str, table: Table, where: str) -> MissingColumn:
    known = [column.name for column in table.columns]
    hint = did_you_mean(name, known) or f"{table.name} has {', '.join(known[:12])}{' …' if len(known) > 12 else ''}"  # noqa: PLR2004 - a dozen
    return MissingColumn(f"{table.name} has no such column", where=where, value=name, hint=hint)


def _target_column(name: str, target: Table, where: str, plan: RulePlan, rules: Rules) -> Column:
    column = target.column(name)
    if column is None and name in rules.carried:
        return Column(name, str(plan.scope[name].type))
    if column is None:
        hint = did_you_mean(name, [one.name for one in target.columns])
        hint = hint or "add it to the table; or `schema: {additive: apply}` adds it, and `ignore` leaves it out"
        raise MissingColumn(f"{target.name} has no such column", where=where, value=name, hint=hint)
    if column.generated:
        what = f"`{column.name}` of {target.name} is computed by the server"
        raise SchemaMismatch(what, where=where, hint="leave it out of the mapping")
    return column


def _check_filled(columns: set[str], target: Table, where: str) -> None:
    empty = [c.name for c in target.columns if not (c.nullable or c.default or c.generated or c.name in columns)]
    if empty:
        names = ", ".join(f"`{name}`" for name in empty)
        hint = "map them, or give them a default"
        raise SchemaMismatch(f"{target.name} needs values for {names}, which are not mapped", where=where, hint=hint)


def _decode_reason(name: str, bound: BoundColumn, target: Column) -> str | None:
    """Return why the values of this field must be decoded; None if its bytes may pass unchanged."""
    column = bound.source
    if column is None:
        return f"`{name}` is an expression"
    if column.type != target.type:
        return f"`{target.name}` is {target.type}, its source {column.type}"
    return None


def _check_fits(bound: BoundColumn, target: Column, where: str) -> None:
    kind, wanted = bound.type, column_type(target)
    if not fits(kind, wanted) and not (target.label and kind.text):
        cast = f"CAST(… AS {target.type})"
        hint = f"write sql: {cast}" if bound.source is None else f"map it by sql, {cast}"
        what = f"{kind} does not fit into `{target.name}` of type {target.type}"
        raise SchemaMismatch(what, where=where, hint=hint)
    if arrow_type(wanted) is None:
        raise SchemaMismatch(
            f"`{target.name}` of type {target.type} cannot be written by its values",
            where=where,
            hint="give source and target exactly the same types, and map no expressions",
        )


def _arrow_type_of(source: Table, name: str, where: str) -> pa.DataType:
    column = source.column(name)
    if column is None:
        raise _missing(name, source, where)
    decoded = arrow_type(column_type(column))
    if decoded is None:
        hint = "values of this type cannot be kept exactly once they are decoded"
        raise SchemaMismatch(f"`{name}` of type {column.type} cannot be mapped by value", where=where, hint=hint)
    return decoded
