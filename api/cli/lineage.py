"""`penstock lineage`: where the values of an object or a column come from, and where they go."""

from __future__ import annotations

from shlex import quote
from typing import TYPE_CHECKING, Any

import click

from api.cli.main import State, command
from api.cli.schemas import dataset
from api.client import Client, connected
from catalog.lineage import DEEPEST, Node, Step
from penstock.errors import NotFound
from penstock.models import DatasetRef

if TYPE_CHECKING:
    from collections.abc import Sequence


@command(name="lineage")
@click.argument("name", metavar="CONNECTION:OBJECT[.COLUMN]")
@click.option("--up", is_flag=True, help="Only what it comes from.")
@click.option("--down", is_flag=True, help="Only what it goes to.")
@click.option("--depth", type=click.IntRange(1, DEEPEST), default=1, show_default=True, help="Pipelines in a row.")
def lineage_(state: State, name: str, *, up: bool, down: bool, depth: int) -> None:
    """Show where values come from and go to, by the current versions of the pipelines.

    Of an object, all its columns are shown. The columns are those that mappings and steps name; of a pipeline without a
    mapping they are the columns of its source.
    """
    wanted = [way for way, is_on in (("up", up), ("down", down)) if is_on] or ["up", "down"]
    with connected(state.settings, runs=False) as client:
        begin = _node(client, name)
        found = {way: client.store.lineage(begin, up=way == "up", depth=depth) for way in wanted}
    rows = [
        (way, step.depth, step.edge.source, step.edge.target, step.edge.pipeline)
        for way, steps in found.items()
        for step in steps
    ]
    state.output.table(("", "#depth", "from", "to", "pipeline"), rows, empty="No pipeline reads or writes it.")
    shown = {way: _plain(steps) for way, steps in found.items()}
    state.output.data({"dataset": str(begin.dataset), "column": begin.column, **shown})
    state.output.hint(f"penstock catalog show {quote(str(begin.dataset))}")


def _node(client: Client, name: str) -> Node:
    """Return the object or column of that name; a name that is an object as a whole is taken as one."""
    try:
        found, column = dataset(client, name), None
    except NotFound as error:
        object_, dot, last = name.rpartition(".")
        if not dot or ":" not in object_:
            raise
        try:
            found, column = dataset(client, object_), last
        except NotFound:
            raise error from None  # it names all that was typed
    return Node(DatasetRef(connection=found.connection, object=found.object), column)


def _plain(steps: Sequence[Step]) -> list[dict[str, Any]]:
    return [
        {
            "depth": step.depth,
            "from": _shown(step.edge.source),
            "to": _shown(step.edge.target),
            "pipeline": step.edge.pipeline,
        }
        for step in steps
    ]


def _shown(node: Node) -> dict[str, Any]:
    return {"dataset": str(node.dataset), "column": node.column}
