"""Pipelines that a change of a dataset touches: by the columns that each reads and writes, from its document alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from catalog.evolution import Change
from penstock.models.domain import DatasetRef
from penstock.models.pipeline import Pipeline, PipelineSpec
from penstock.models.sql import parsed
from penstock.models.transforms import TransformStep

__all__ = ["Touched", "Uses", "columns_of", "touched", "uses"]

_QUIET = {"comment", "reordered", "default", "foreign", "unique"}
"""Kinds of changes by which no pipeline reads or writes anything else."""


@dataclass(frozen=True, slots=True)
class Uses:
    """Columns that a pipeline reads from its source and writes to its sink; None is every column of the source."""

    pipeline: str
    source: DatasetRef
    sink: DatasetRef
    reads: frozenset[str] | None
    writes: frozenset[str] | None
    key: frozenset[str]
    """Columns of the sink by which rows are found."""


@dataclass(frozen=True, slots=True)
class Touched:
    """A pipeline that a change touches, and on which side."""

    pipeline: str
    side: Literal["reads", "writes"]


def uses(pipeline: Pipeline) -> Uses:
    """Return the columns that the pipeline reads and writes, as far as its document names them."""
    spec = pipeline.spec
    reads, writes = columns_of(spec)
    if reads is not None and spec.source.cursor is not None:
        reads |= {spec.source.cursor.field}
    ends = DatasetRef.of(spec.source), DatasetRef.of(spec.sink)
    return Uses(pipeline.name, *ends, _frozen(reads), _frozen(writes), frozenset(spec.sink.key))


def touched(dataset: DatasetRef, change: Change, pipelines: Iterable[Uses]) -> tuple[Touched, ...]:
    """Return the pipelines that read or write what the change is about, in their order."""
    found = []
    for one in pipelines:
        if one.source == dataset and _reads(one, change):
            found.append(Touched(one.pipeline, "reads"))
        elif one.sink == dataset and _writes(one, change):
            found.append(Touched(one.pipeline, "writes"))
    return tuple(found)


def _reads(one: Uses, change: Change) -> bool:
    if change.kind in _QUIET:
        return False
    return one.reads is None or bool(one.reads & _names(change))


def _writes(one: Uses, change: Change) -> bool:
    if change.kind == "key":
        return bool(one.key)
    if change.kind in _QUIET:
        return False
    if change.kind == "added":  # a column without a default that nobody fills is refused by the server
        return not change.after.nullable and change.after.default is None
    return one.writes is None or bool(one.writes & _names(change))


def _names(change: Change) -> set[str]:
    """Return the columns that the change is about, by their old and new names."""
    if change.kind == "key":
        return {*change.before, *change.after}
    if change.kind == "renamed" and len(change.path) == 1:
        return {change.before, change.after}
    return {change.path[0]}


def _frozen(names: set[str] | None) -> frozenset[str] | None:
    return None if names is None else frozenset(names)


def columns_of(spec: PipelineSpec) -> tuple[set[str] | None, set[str] | None]:
    """Return the source's columns that are read, and the sink's that are written; None for all."""
    origins: dict[str, set[str]] | None = None
    if spec.mapping is not None and spec.mapping.fields is not None:
        origins = {rule.target: {rule.from_} if rule.from_ else _in(rule.sql) for rule in spec.mapping.fields}
    used: set[str] = set() if origins is None else set().union(*origins.values())
    names: dict[str, str] = {}
    made = set[str]()
    for step in spec.transforms:
        if origins is None:
            used |= {names.get(name, name) for name in _needs(step)}
            if step.rename:
                names = {name: old for name, old in names.items() if name not in step.rename}
                names |= {new: old for old, new in step.rename.items()}
            made |= {*(step.set or ())}
            if step.select is not None:
                origins = {name: set() if name in made else {names.get(name, name)} for name in step.select}
                used |= set().union(*origins.values())
        origins = _after(origins, step)
    return (None, None) if origins is None else (used, set(origins))


def _after(origins: dict[str, set[str]] | None, step: TransformStep) -> dict[str, set[str]] | None:
    """Return the columns after a step that names its columns."""
    if origins is None:
        return None
    renames = step.rename or {}
    kept = {renames.get(name, name): found for name, found in origins.items()}
    made = {
        *(step.set or {}),
        *(step.lookup.take if step.lookup else ()),
        *(step.python.columns if step.python else ()),
    }
    if step.select is not None:
        kept = {name: found for name, found in kept.items() if name in step.select}
    if step.window is not None:
        return None
    return kept | {name: kept.get(name, set()) for name in made}


def _needs(step: TransformStep) -> set[str]:
    """Return the columns that a step's expressions and keys name."""
    texts = [step.when, step.filter, *(step.set or {}).values()]
    found = set[str]().union(*(_in(text) for text in texts))
    return found | {
        *(step.rename or ()),
        *(step.cast or ()),
        *(step.mask or ()),
        *(step.lookup.on if step.lookup else ()),
    }


def _in(sql: str | None) -> set[str]:
    if sql is None:
        return set()
    names = {node.name for node in parsed(sql).walk() if node.key == "column"}
    return names | {name.lower() for name in names}  # as the compiler folds them
