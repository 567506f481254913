"""Plans of steps: each step of a pipeline file is checked against the columns before it, and becomes stages."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from dataflows.data.changes import CHANGE, COMMITTED
from dataflows.data.types import SqlType, arrow_type, parse_type
from dataflows.transforms.scope import BoundColumn, BoundExpression, Scope
from penstock.errors import Refused, SchemaMismatch, Unavailable, did_you_mean
from penstock.models.transforms import Lookup as LookupRule
from penstock.models.transforms import TransformStep, Validation

if TYPE_CHECKING:
    import polars as pl

    from dataflows.transforms.stages import JoinKey, Stage

__all__ = ["LookupTable", "Resources", "plan_checks", "plan_steps", "step_place"]

_TYPE: Final = re.compile(r"[a-z0-9_ ]+(\(\d+(, ?\d+)?\))?( with(out)? time zone)?", re.IGNORECASE)
TEXT: Final = SqlType("text")
BOOLEAN: Final = SqlType("boolean")


@dataclass(frozen=True, slots=True)
class LookupTable:
    """A small table in memory: column types and rows."""

    types: Mapping[str, SqlType]
    frame: pl.DataFrame


@dataclass(frozen=True, slots=True)
class Resources:
    """Inputs of steps other than the chunk.

    `load` reads a lookup table by connection and object; `modules` are the Python modules that may be called;
    `mask_key` returns the key of `mask: hash`.
    """

    load: Callable[[str, str], LookupTable] | None = None
    modules: frozenset[str] = frozenset()
    mask_key: Callable[[], bytes] | None = None
    reload: Callable[[str, str], LookupTable] | None = None
    """Reads a lookup table again, as it is now."""


def plan_steps(
    scope: Scope, steps: Sequence[TransformStep], where: str, resources: Resources, first: int = 0
) -> list[Stage]:
    """Return the stages of the steps, and update `scope` to the columns after the last step.

    `first` is the number of the first of them in the pipeline file.

    Raises:
        MissingColumn, SchemaMismatch, Refused: the step, the column, and a suggestion.
    """
    stages: list[Stage] = []
    for at, step in enumerate(steps, first):
        place = step_place(where, at, step)
        stages += _PLANS[step.operation](scope, step, place, resources)
    return stages


def step_place(where: str, at: int, step: TransformStep) -> str:
    """Return the place of a step in the pipeline file."""
    return f"{where}: spec.transforms[{at}] ({step.name}).{step.operation}"


def _rename(scope: Scope, step: TransformStep, where: str, _: Resources) -> list[Stage]:
    names = step.rename or {}
    for old in names:
        scope.require(old, where)
    kept = [names.get(name, name) for name in scope.columns]
    for name in kept:
        if kept.count(name) > 1:
            raise SchemaMismatch(
                "two columns would have this name", where=where, value=name, hint="choose another name"
            )
    scope.columns = {names.get(name, name): bound for name, bound in scope.columns.items()}
    return []


def _select(scope: Scope, step: TransformStep, where: str, _: Resources) -> list[Stage]:
    carried = [name for name in (COMMITTED, CHANGE) if name in scope.columns]
    scope.columns = {name: scope.require(name, where) for name in (*(step.select or ()), *carried)}
    return []


def _cast(scope: Scope, step: TransformStep, where: str, _: Resources) -> list[Stage]:
    texts = {}
    for name, written in (step.cast or {}).items():
        scope.require(name, f"{where}.{name}")
        texts[name] = f"CAST({_quoted(name)} AS {known_type(written, f'{where}.{name}')})"
    return _computed(scope, step, texts, where)


def _set(scope: Scope, step: TransformStep, where: str, _: Resources) -> list[Stage]:
    if step.when is None:
        return _computed(scope, step, dict(step.set or {}), where)
    _condition(scope, step.when, where)
    texts = {}
    for name, text in (step.set or {}).items():
        scope.compute(text, f"{where}.{name}")  # compiled alone first, so that errors name the right path
        kept = _quoted(name) if name in scope.columns else "NULL"
        texts[name] = f"CASE WHEN ({step.when}\n) THEN ({text}\n) ELSE {kept} END"
    return _computed(scope, step, texts, where)


def _computed(scope: Scope, step: TransformStep, texts: Mapping[str, str], where: str) -> list[Stage]:
    """Plan new values for columns, all computed from the columns before the step."""
    from dataflows.transforms.stages import Compute

    computed = {name: scope.compute(text, f"{where}.{name}") for name, text in texts.items()}
    values = {scope.new_id(): (name, one) for name, one in computed.items()}
    bound = {
        name: BoundColumn(one.compiled.type, nullable=True, origins=scope.origins(one.compiled.columns), id=id_)
        for id_, (name, one) in values.items()
    }
    for name, one in bound.items():
        scope.put(name, one, step.name)
    return [Compute(step.name, {id_: one for id_, (_, one) in values.items()})]


def _filter(scope: Scope, step: TransformStep, where: str, _: Resources) -> list[Stage]:
    from dataflows.transforms.stages import Filter

    condition = _condition(scope, step.filter or "", where)
    if step.when is not None:
        _condition(scope, step.when, where)
        text = f"CASE WHEN ({step.when}\n) THEN ({step.filter}\n) ELSE TRUE END"
        condition = scope.compute(text, where)
    return [Filter(step.name, condition)]


def _condition(scope: Scope, text: str, where: str) -> BoundExpression:
    condition = scope.compute(text, where)
    if condition.compiled.type != BOOLEAN:
        hint = "compare something, such as status <> 'draft'"
        raise SchemaMismatch(
            f"a condition must be true or false, this is {condition.compiled.type}", where=where, hint=hint
        )
    return condition


def _mask(scope: Scope, step: TransformStep, where: str, resources: Resources) -> list[Stage]:
    from dataflows.transforms.masks import Mask

    condition = None if step.when is None else _condition(scope, step.when, where)
    values: dict[str, tuple[BoundExpression, str]] = {}
    made: dict[str, BoundColumn] = {}
    for name, how in (step.mask or {}).items():
        bound = scope.require(name, f"{where}.{name}")
        if condition is not None and not bound.type.text:
            hint = "cast it to text in an earlier step"
            raise SchemaMismatch(
                f"only text can be masked in some rows, this is {bound.type}", where=where, value=name, hint=hint
            )
        id_ = scope.new_id()
        values[id_] = (scope.compute(f"CAST({_quoted(name)} AS text)", f"{where}.{name}"), how)
        made[name] = BoundColumn(TEXT, nullable=bound.nullable, origins=bound.origins, id=id_)
    scope.masked |= scope.origins(made)
    for name, one in made.items():
        scope.put(name, one, step.name)
    key = b""
    if "hash" in (step.mask or {}).values():
        if resources.mask_key is None:
            hint = (
                "set `mask_key` in penstock.toml to ${env:PENSTOCK_SECRET_MASK_KEY}, or write `sha256`: without a key"
            )
            raise Refused(
                "`hash` needs a key", where=where, hint=f"{hint}, whoever guesses a value can check the guess"
            )
        key = resources.mask_key()
    return [Mask(step.name, values, condition, key)]


def _deduplicate(scope: Scope, step: TransformStep, where: str, _: Resources) -> list[Stage]:
    from dataflows.transforms.stages import Deduplicate, comparable

    rule = step.deduplicate
    if rule is None:
        return []
    types = {name: scope.require(name, f"{where}.by").type for name in rule.by}
    keys = tuple(comparable(scope.read(name), kind, kind) for name, kind in types.items())
    return [Deduplicate(keys, rule.keep)]


def _lookup(scope: Scope, step: TransformStep, where: str, resources: Resources) -> list[Stage]:
    from dataflows.transforms.stages import JoinKey, Lookup, comparable

    rule = step.lookup
    if rule is None or resources.load is None:
        raise Refused("no lookup table is available here", where=where, hint="try it with a run")
    table = resources.load(rule.connection, rule.object)
    for name, key in rule.on.items():
        bound, table_type = scope.require(name, f"{where}.on"), _type_of(table, key, f"{where}.on.{name}")
        if _family(bound.type) != _family(table_type):
            hint = f"cast `{name}` to {table_type} in an earlier step"
            raise SchemaMismatch(f"{bound.type} is never equal to {table_type}", where=f"{where}.on.{name}", hint=hint)
    pairs = [(scope.read(name), scope[name].type, key, _type_of(table, key, where)) for name, key in rule.on.items()]
    keys = tuple(JoinKey(comparable(id_, a, b), comparable(key, b, a)) for id_, a, key, b in pairs)
    _check_unique(table, keys, rule, where)
    origins = scope.origins(rule.on)
    taken = {}
    for name, column in rule.take.items():
        kind, id_ = _type_of(table, column, f"{where}.take.{name}"), scope.new_id()
        scope.put(name, BoundColumn(kind, nullable=True, origins=origins, id=id_), step.name)
        taken[id_] = column
    current = None
    if rule.refresh is not None and resources.reload is not None:
        current = Refreshed(partial(_reloaded, resources.reload, table.types, keys, rule, where), rule.refresh, table)
    return [Lookup(step.name, table.frame, keys, taken, rule.missing, current)]


def _check_unique(table: LookupTable, keys: Sequence[JoinKey], rule: LookupRule, where: str) -> None:
    if table.frame.select(one.table.alias(str(at)) for at, one in enumerate(keys)).is_duplicated().any():
        names, hint = ", ".join(rule.on.values()), "name columns that are unique together"
        raise SchemaMismatch(f"{names} is not unique in {rule.object}", where=f"{where}.on", hint=hint)


def _reloaded(
    reload: Callable[[str, str], LookupTable],
    types: Mapping[str, SqlType],
    keys: Sequence[JoinKey],
    rule: LookupRule,
    where: str,
) -> LookupTable:
    """Read a lookup table again.

    Raises:
        Unavailable: its columns have changed; the next attempt takes them as they are, or refuses them by name.
        SchemaMismatch: its key is not unique any more.
    """
    table = reload(rule.connection, rule.object)
    for name in (*rule.on.values(), *rule.take.values()):
        if table.types.get(name) != types[name]:
            hint = "nothing to do if it still fits: the next attempt reads it as it is now"
            raise Unavailable(f"the type of `{name}` in {rule.object} has changed", where=where, hint=hint)
    _check_unique(table, keys, rule, where)
    return table


@dataclass(slots=True)
class Refreshed:
    """A lookup table of a stream, which is read again once it is older than `every`."""

    load: Callable[[], LookupTable]
    every: timedelta
    table: LookupTable
    at: float = field(default_factory=time.monotonic)

    def __call__(self) -> pl.DataFrame:
        """Return the table."""
        if time.monotonic() - self.at >= self.every.total_seconds():
            self.table, self.at = self.load(), time.monotonic()
        return self.table.frame


def _family(kind: SqlType) -> object:
    """Return the family of a type; values of two types can be equal if their families are."""
    return "text" if kind.text else "integer" if kind.integer else (kind.name, kind.scale)


def _type_of(table: LookupTable, name: str, where: str) -> SqlType:
    if name not in table.types:
        near = did_you_mean(name, table.types) or f"known are {', '.join(table.types)}"
        raise SchemaMismatch("the lookup table has no such column", where=where, value=name, hint=near)
    return table.types[name]


def _explode(scope: Scope, step: TransformStep, where: str, _: Resources) -> list[Stage]:
    from dataflows.transforms.stages import Compute, Explode

    rule = step.explode
    if rule is None:
        return []
    bound = scope.require(rule.column, f"{where}.column")
    if not (bound.type.text or bound.type.name in {"json", "jsonb"}):
        hint = "name a text or JSON column"
        raise SchemaMismatch(f"a JSON array is needed, this is {bound.type}", where=where, value=rule.column, hint=hint)
    read, id_ = scope.read(rule.column), scope.new_id()
    stages: list[Stage] = [Explode(step.name, read, id_)]
    scope.put(rule.column, BoundColumn(TEXT, nullable=True, origins=bound.origins, id=id_), step.name)
    kind = known_type(rule.as_, f"{where}.as")
    if parse_type(kind) != TEXT:
        stages += _computed(scope, step, {rule.column: f"CAST({_quoted(rule.column)} AS {kind})"}, where)
    return [one for one in stages if isinstance(one, Explode | Compute)]


def _python(scope: Scope, step: TransformStep, where: str, resources: Resources) -> list[Stage]:
    from dataflows.transforms.stages import PythonCall

    rule = step.python
    if rule is None:
        return []
    function = _function(rule.call, where, resources)
    given = {name: (scope.read(name), bound.type) for name, bound in scope.columns.items()}
    origins, made = scope.origins(scope.columns), {}
    for name, written in rule.columns.items():
        kind, id_ = parse_type(known_type(written, f"{where}.columns.{name}")), scope.new_id()
        made[name] = (id_, kind)
        scope.put(name, BoundColumn(kind, nullable=True, origins=origins, id=id_), step.name)
    return [PythonCall(step.name, function, given, made, where)]


def _function(call: str, where: str, resources: Resources) -> Callable[[Any], Any]:
    module, _, name = call.partition(":")
    if not any(module == allowed or module.startswith(f"{allowed}.") for allowed in resources.modules):
        hint = f'add it to the settings: python_modules = "{module}"'
        raise Refused("only modules named in the settings may be called", where=where, value=module, hint=hint)
    try:
        function: Callable[[Any], Any] = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        hint = f"install the package of {module} next to Penstock, or name its folder in PYTHONPATH"
        raise Refused("there is no such function", where=where, value=call, hint=hint) from error
    return function


_PLANS: Final[dict[str, Callable[[Scope, TransformStep, str, Resources], list[Any]]]] = {
    "rename": _rename, "select": _select, "cast": _cast, "set": _set, "filter": _filter, "mask": _mask,
    "deduplicate": _deduplicate, "lookup": _lookup, "explode": _explode, "python": _python,
}  # fmt: skip


def plan_checks(scope: Scope, rules: Validation, where: str) -> list[Stage]:
    """Return the stages that refuse rows which violate the pipeline's own rules.

    Raises:
        MissingColumn, SchemaMismatch: a rule about a missing column, or a rule that is not a condition.
    """
    if not (rules.not_null or rules.checks):
        return []
    from dataflows.transforms.stages import Check

    stages: list[Stage] = []
    for name in rules.not_null:
        scope.require(name, f"{where}: spec.validate.not_null")
        rule = scope.compute(f"{_quoted(name)} IS NOT NULL", f"{where}: spec.validate.not_null")
        stages.append(Check("validate", f"`{name}` is NULL", rule))
    for name, text in rules.checks.items():
        rule = _condition(scope, text, f"{where}: spec.validate.checks.{name}")
        stages.append(Check("validate", f"check `{name}` failed", rule))
    return stages


def known_type(text: str, where: str) -> str:
    """Return a type's name as the compiler of expressions spells it.

    Raises:
        SchemaMismatch: not a type that expressions can compute.
    """
    kind = parse_type(text)
    if not _TYPE.fullmatch(text.strip()) or (arrow_type(kind) is None and kind.name != "numeric"):
        hint = did_you_mean(text, NAMES) or f"use one of {', '.join(NAMES)}"
        raise SchemaMismatch("there is no such type", where=where, value=text, hint=hint)
    return str(kind)


NAMES: Final = (
    "text", "varchar(n)", "smallint", "integer", "bigint", "numeric(p,s)", "real", "double precision", "boolean",
    "date", "timestamp", "timestamptz", "uuid",
)  # fmt: skip


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
