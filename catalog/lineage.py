"""Lineage by column: where the values of a column come from, and where they go, from the pipelines' documents.

Nothing is recorded for it: what a pipeline's current version says, and the columns that its source has now, decide.
Columns that a step of Python makes come from every column that the step gets. A pipeline whose columns are not known
(its source has no schema yet) connects whole objects.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from penstock.models.domain import DatasetRef
from penstock.models.pipeline import Pipeline, PipelineSpec
from penstock.models.sql import parsed
from penstock.models.transforms import TransformStep
from penstock.models.windows import MADE, Window, parse_aggregate

__all__ = ["DEEPEST", "Edge", "Node", "Step", "edges", "trace"]

DEEPEST: Final = 50
"""Pipelines in a row that are followed, at most."""


@dataclass(frozen=True, slots=True)
class Node:
    """A column of an object; the object as a whole if `column` is None."""

    dataset: DatasetRef
    column: str | None = None

    def __str__(self) -> str:
        return str(self.dataset) if self.column is None else f"{self.dataset}.{self.column}"


@dataclass(frozen=True, slots=True)
class Edge:
    """Values of `source` become values of `target`, by a pipeline."""

    source: Node
    target: Node
    pipeline: str


@dataclass(frozen=True, slots=True)
class Step:
    """An edge that was reached from the column asked for, over `depth` pipelines."""

    depth: int
    edge: Edge


Flows = dict[str, frozenset[Node]]
"""The origins of each column, between two steps."""


def edges(pipeline: Pipeline, columns: Sequence[str] | None) -> tuple[Edge, ...]:
    """Return the edges of a pipeline whose source has `columns`; those of whole objects if they are not known."""
    spec = pipeline.spec
    source, sink = DatasetRef.of(spec.source), DatasetRef.of(spec.sink)
    flows = _mapped(spec, source, columns)
    if flows is None:
        return (Edge(Node(source), Node(sink), pipeline.name),)
    for step in spec.transforms:
        flows = _after(flows, step)
    return tuple(
        Edge(origin, Node(sink, name), pipeline.name)
        for name, origins in flows.items()
        for origin in sorted(origins, key=str)
    )


def _mapped(spec: PipelineSpec, source: DatasetRef, columns: Sequence[str] | None) -> Flows | None:
    """Return the columns after the mapping."""
    if spec.mapping is not None and spec.mapping.fields is not None:
        known = None if columns is None else set(columns)
        named = {rule.target: {rule.from_} if rule.from_ else _read_by(rule.sql, known) for rule in spec.mapping.fields}
        return {
            target: frozenset(Node(source, name) for name in names if known is None or name in known)
            for target, names in named.items()
        }
    if spec.mapping is not None or columns is None:
        return None
    return {name: frozenset({Node(source, name)}) for name in columns}


def _after(flows: Flows, step: TransformStep) -> Flows:
    """Return the columns after a step; those whose values it leaves alone keep their origins."""
    if step.rename is not None:
        return {step.rename.get(name, name): found for name, found in flows.items()}
    if step.select is not None:
        return {name: flows[name] for name in step.select if name in flows}
    if step.window is not None:
        return _windowed(flows, step.window)
    return flows | _made(flows, step)


def _made(flows: Flows, step: TransformStep) -> Flows:
    """Return the columns that a step makes or changes."""
    if step.set is not None:
        kept = flows if step.when is not None else {}  # where the condition is not true, the old value stays
        return {
            name: _origins(flows, _read_by(text, flows)) | kept.get(name, frozenset())
            for name, text in step.set.items()
        }
    if step.lookup is not None:
        table = DatasetRef(connection=step.lookup.connection, object=step.lookup.object)
        return {name: frozenset({Node(table, column)}) for name, column in step.lookup.take.items()}
    if step.python is not None:
        every = _origins(flows, flows)
        return dict.fromkeys(step.python.columns, every)
    return {}


def _windowed(flows: Flows, window: Window) -> Flows:
    kept = {name: flows[name] for name in window.by if name in flows}
    times = dict.fromkeys(MADE, _origins(flows, [window.time]))
    read = {name: parse_aggregate(text)[1] for name, text in window.aggregates.items()}
    return kept | times | {name: _origins(flows, [column] if column else []) for name, column in read.items()}


def _read_by(sql: str | None, known: Collection[str] | None) -> set[str]:
    """Return the columns that an expression reads; unquoted names fold to lower case if that is one."""
    found = set[str]()
    for node in () if sql is None else parsed(sql).walk():
        if node.key == "column":
            folded = node.name.lower()
            exact = node.this.args.get("quoted") or (known is not None and folded not in known)
            found.add(node.name if exact else folded)
    return found


def _origins(flows: Flows, names: Iterable[str]) -> frozenset[Node]:
    return frozenset[Node]().union(*(flows[name] for name in names if name in flows))


def trace(
    begin: Node, near: Callable[[Sequence[DatasetRef]], Iterable[Edge]], *, up: bool, depth: int
) -> tuple[Step, ...]:
    """Follow `begin` over at most `depth` pipelines, nearest first; each edge is there once, also in a circle.

    `near` returns edges of the pipelines that write objects (`up`) or read them.
    """
    found: dict[Edge, int] = {}
    open_ = {begin}
    for level in range(1, min(depth, DEEPEST) + 1):
        objects = sorted({node.dataset for node in open_}, key=str)
        reached = [edge for edge in near(objects) if edge not in found and _touches(edge, open_, up=up)]
        found |= dict.fromkeys(reached, level)
        open_ = {edge.source if up else edge.target for edge in reached}
        if not open_:
            break
    return tuple(Step(level, edge) for edge, level in found.items())


def _touches(edge: Edge, nodes: Collection[Node], *, up: bool) -> bool:
    """True if the edge ends at one of the nodes, or at a column of one that is a whole object, or the reverse."""
    end = edge.target if up else edge.source
    whole = Node(end.dataset)
    return end in nodes or whole in nodes or (end.column is None and any(one.dataset == end.dataset for one in nodes))
