"""A plug-in that does not fulfil the contract is refused by name when it is loaded or opened."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import invalidate_caches
from pathlib import Path
from typing import Any

import pytest

from dataflows.connectors.contract import Owner, Place
from dataflows.connectors.registry import BUILT_IN, connector, open_source, open_target
from penstock.errors import Refused
from penstock.models.connection import parse_connection
from penstock.models.pipeline import Sink

ENTRY_POINTS = "[penstock.connectors]\nstones = stones_plugin:Stones\n"
PLUGIN = '''
from typing import Literal
from dataflows.data.tables import Column, Table
from penstock.models.base import Model


class StonesConnection(Model):
    type: Literal["stones"]


class State:
    """A state with the right methods that stores nothing."""

    def make(self): ...
    def exists(self): return False
    def claim(self, slots, run): ...
    def loaded(self): ...
    def owned(self, generation): ...
    def run(self, run): ...
    def unfinished(self, run): ...
    def finished(self): ...
    def write_plan(self, plan, splits): ...
    def take_over(self, older, run): ...
    def supersede(self, older, run): ...
    def mark_partial(self): ...
    def forget(self, run): ...
    def next_split(self, run): ...
    def pending(self, run): ...
    def counters(self): ...
    def committed(self, run, generation): ...
    def finish(self, run, position, result): ...
    def drop(self): ...


class StonesSource:
    form = None
    def describe(self): return Table("stones", "r", (Column("id", "bigint"),))
    def split_key(self, table): return None
    def row_place(self, table): return None
    def window(self, table, cursor, last, lag): ...
    def plan(self, table, key, window, rows, first): ...
    def hold(self, table, limit): return None
    def reader(self, order): ...
    def close(self): ...


class StonesTarget:
    form = None
    reloads = ("replace",)
    def __init__(self): self.state = State()
    def describe(self): return None
    def check(self, table, columns): ...
    def column_types(self, columns): return columns
    def make(self, columns): ...
    def add_columns(self, columns): ...
    def create_load_table(self, run, generation): return run
    def load_table(self, run): return run
    def can_go_on(self, run): return False
    def abandon(self, run): ...
    def finishing(self, columns): return None
    def writer(self, order): ...
    def publish(self, order): return {}
    def drop(self, *, table): ...
    def close(self): ...


class Stones:
    model = StonesConnection
    takes_format = False

    @staticmethod
    def named(place): return place.object

    @staticmethod
    def source(place): return StonesSource()

    @staticmethod
    def target(place, owner): return StonesTarget()
'''
Plugged = Callable[[str, str], Place]


@pytest.fixture
def plugged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plugged:
    """Install the plug-in with a piece of its text replaced; return a place of its type."""

    def install(old: str, new: str) -> Place:
        assert old in PLUGIN
        (tmp_path / "stones_plugin.py").write_text(PLUGIN.replace(old, new))
        info = tmp_path / "stones-1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stones\nVersion: 1\n")
        (info / "entry_points.txt").write_text(ENTRY_POINTS)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "stones_plugin", raising=False)
        invalidate_caches()
        settings = parse_connection("pile", {"type": "stones"})
        return Place("build", "pile", settings, "stones")

    return install


def target_of(place: Place) -> Any:
    return open_target(place, Owner("u", "s", Sink(connection="pile", object="stones", write="replace")))


@pytest.mark.parametrize("kind", BUILT_IN)
def test_every_built_in_connector_fulfils_the_contract(kind: str) -> None:
    assert connector(kind, "here").model


def test_a_plug_in_that_fulfils_the_contract_is_opened(plugged: Plugged) -> None:
    place = plugged("class State", "class State")
    assert open_source(place).describe().name == "stones"
    assert target_of(place).describe() is None


WRONG_CLASSES = [
    ("    takes_format = False\n", "", "stones_plugin.Stones is not a Connector: it has no `takes_format`"),
    ("takes_format", "take_format", "it has no `takes_format` but `take_format`"),
    ("def named(place)", "def named()", "`named` is called as `named(place)`, this one takes `()`"),
    ("    @staticmethod\n    def source(place)", "    def source(self, place)", "this one takes `(self, place)`"),
]
WRONG_SOURCES = [
    ("row_place", "row_plase", "`row_plase` is not in the contract: call it `row_place`"),
    ("row_place(self, table)", "row_place(self)", "`row_place` is called as `row_place(table)`, this one takes `()`"),
    (", last, lag): ...", "): ...", "as `window(table, cursor, last, rule)`, this one takes `(table, cursor)`"),
    ("def window(self, table, cursor, last, lag): ...", "window = None", "`window` is not a method"),
    ("    def hold(self, table, limit): return None\n", "", "it has no `hold(table, limit)`"),
]  # fmt: skip
WRONG_TARGETS = [
    ("column_types", "columns_types", "call it `column_types`"),
    ("reloads", "reload", "call it `reloads`"),
    ("def add_columns(self, columns)", "def add_columns(self)", "`add_columns` is called as `add_columns(columns)`"),
    ("drop(self, *, table)", "drop(self, everything)", "`drop` is called as `drop(*, table)`"),
    ("    def mark_partial(self): ...\n", "", "stones_plugin.State is not a State: it has no `mark_partial()`"),
]


@pytest.mark.parametrize(("old", "new", "what"), WRONG_CLASSES)
def test_a_class_that_breaks_the_contract_is_refused(plugged: Plugged, old: str, new: str, what: str) -> None:
    place = plugged(old, new)
    with pytest.raises(Refused) as refused:
        open_source(place)
    assert what in str(refused.value)
    assert str(refused.value).startswith("build: connection pile: ")


@pytest.mark.parametrize(
    ("opened", "old", "new", "what"),
    [*((open_source, *one) for one in WRONG_SOURCES), *((target_of, *one) for one in WRONG_TARGETS)],
)
def test_a_source_or_target_that_breaks_the_contract_is_refused(
    plugged: Plugged, opened: Callable[[Place], Any], old: str, new: str, what: str
) -> None:
    place = plugged(old, new)
    with pytest.raises(Refused) as refused:
        opened(place)
    assert what in str(refused.value)


def test_a_plug_in_without_a_model_is_refused_when_connections_are_read(plugged: Plugged) -> None:
    with pytest.raises(Refused, match=r"stones_plugin\.Stones, has no `model`"):
        plugged("    model = StonesConnection\n", "")
