"""Names that a server would shorten are refused before anything is created."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest

from dataflows.connectors.contract import Place
from dataflows.connectors.mysql.state import _name as lock_name
from dataflows.connectors.postgres.state import session_name
from dataflows.connectors.sql.checks import check_names
from dataflows.connectors.sql.names import ObjectName, shadow_name
from dataflows.connectors.sql.tombstones import Tombstones
from dataflows.data.tables import Column
from penstock.errors import Refused
from tests.dataflows.conftest import Copy, Launchers

PLACE = Place("orders", "warehouse", SimpleNamespace(type="postgres"), "t")


def test_a_name_may_fill_the_limit_and_not_exceed_it() -> None:
    check_names(PLACE, ObjectName("public", "t" * 63), [Column("ü" * 31, "text")], 63, "utf-8")
    with pytest.raises(Refused, match="the name of a column has 64 bytes, and the limit is 63") as refused:
        check_names(PLACE, ObjectName("public", "t"), [Column("ü" * 32, "text")], 63, "utf-8")
    assert "ü" * 31 in str(refused.value.hint)
    check_names(PLACE, ObjectName("public", "t"), [Column("ü" * 64, "text")], 64, None)
    with pytest.raises(Refused, match="the name of a table has 65 characters"):
        check_names(PLACE, ObjectName("public", "t" * 65), [], 64, None)


def test_two_long_names_that_share_a_beginning_are_refused_and_nothing_is_made(
    copy: Callable[..., Copy], launchers: Launchers
) -> None:
    made = copy("replace")
    made.session.execute(f"DROP TABLE {made.target}")
    task = made.task("r1")
    fields = [{"target": "x" * 63 + end, "from": "id"} for end in ("a", "b")]
    task["pipeline"]["spec"]["mapping"] = {"fields": fields}
    found = launchers.run(task)
    assert (found["status"], found["error"]["code"]) == ("failed", "refused"), found
    assert "the limit is 63" in found["error"]["what"]
    assert made.session.execute("SELECT to_regclass(%s)", (made.target,)).fetchone() == (None,)


def test_what_an_older_release_has_made_is_found_by_its_name() -> None:
    """Tables outlive a release, and two releases that write at once fence each other by these names."""
    sink = ObjectName("public", "t")
    deleted = Tombstones.of("u1", sink, ("id", "part"), "v", "gone")
    assert deleted is not None
    assert deleted.table.name == "_penstock_deleted_bb82030dbc2b_a713b2fbc7c81b87"
    assert shadow_name("u1", "r1", sink).name == "_penstock_bb82030dbc2b_9f2cebff886399d2"
    assert lock_name("u1", "00") == "_penstock_bb82030dbc2bcaba32a90bf2e207a84a_00"
    assert session_name("u1", 7) == "penstock:u1:7"
