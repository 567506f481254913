"""Text on a terminal: data cannot move the cursor, set a title, or reorder what is read."""

from __future__ import annotations

import io
import re
import unicodedata
from contextlib import redirect_stdout

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.cli.console import Output, escape, visible
from api.starter import SHOP
from tests.api.project import Project

_STYLES = re.compile(r"\x1b\[[0-9;]*m")
TITLE = "\x1b]0;pwned\x07"


@given(st.text())
def test_nothing_reaches_a_terminal_but_what_can_be_seen(text: str) -> None:
    kinds = {unicodedata.category(character) for character in visible(text) if character not in "\n\t"}
    assert not kinds & {"Cc", "Cs", "Zl", "Zp"}
    assert not {*visible(text)} & {*"\u061c\u200e\u200f\u202a\u202b\u202d\u202e\u2066\u2067\u2068\u2069"}


def test_what_is_spelled_out_is_the_same_text() -> None:
    assert visible("a\x1b[2J \u202eb") == "a\\x1b[2J \\u202eb"
    assert visible("Zürich\t東京\n") == "Zürich\t東京\n"
    assert escape("[red]") == "\\[red]"


def test_tables_and_json_hold_no_controls(capsys: object) -> None:
    Output().table(("a\x1b", "#b"), [("x\ny", TITLE)], empty="", title=f"t{TITLE}")
    out = capsys.readouterr().out  # type: ignore[attr-defined]
    assert "\x1b" not in out
    assert "\x07" not in out
    assert "x\\ny" in out


_CELL = st.text(st.sampled_from("aB1[]/# 日é€"), max_size=8).map(str.strip)


@settings(deadline=None)  # Rich is loaded by the first one
@given(st.data(), st.lists(st.sampled_from(["name", "#rows", "日本", "é"]), min_size=1, max_size=4), st.booleans())
def test_a_table_in_a_pipe_is_the_one_on_a_terminal(data: st.DataObject, columns: list[str], titled: bool) -> None:
    rows = data.draw(st.lists(st.tuples(*(_CELL for _ in columns)), min_size=1, max_size=4))
    shown = {}
    for colours in ("", "1"):
        out = io.StringIO()
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out):
            patch.setenv("FORCE_COLOR", colours)
            patch.setenv("TERM", "dumb")
            Output().table(columns, rows, empty="", title="[the] title" if titled else None)
        shown[colours] = [_STYLES.sub("", line).rstrip() for line in out.getvalue().splitlines()]
    assert shown[""] == shown["1"]


def test_data_and_names_of_a_source_are_shown_spelled_out(running: Project) -> None:
    running.sql(SHOP, 'CREATE TABLE odd (id int PRIMARY KEY, "v\x1b[1m" text)')
    running.sql(SHOP, f"INSERT INTO odd VALUES (1, '{TITLE}')")
    pipeline = """
apiVersion: penstock/v1
kind: Pipeline
metadata: {name: odd}
spec:
  source: {connection: shop, object: public.odd}
  sink: {connection: warehouse, object: public.odd, write: replace}
"""
    file = running.folder / "odd.yaml"
    file.write_text(pipeline)
    shown = running.do("preview", file)
    file.unlink()
    assert shown.code == 0, shown.err
    assert "\x1b" not in shown.out
    assert "\\x1b]0;pwned\\x07" in shown.out
    assert "v\\x1b" in shown.out
