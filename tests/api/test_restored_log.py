"""A log that was restored older than its catalog, or that is another one, is refused by name until a rebuild."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from api.starter import SHOP, WAREHOUSE
from tests.api.project import Project, ending

MORE = "INSERT INTO orders (customer, price, quantity, placed_at) SELECT 'x', 1, 1, now() FROM generate_series(1, 500)"
LOG, COPY, CATALOG = "penstock_log", "old_log", "penstock"


@pytest.fixture(scope="module")
def ran(sample: Project) -> Iterator[Project]:
    """A project whose pipeline has run once."""
    with ending(sample.copied(sample.folder.with_name("ran"))) as made:
        with made.server.lease():
            made.done("apply")
            made.done("run", "orders", "--watch")
        yield made


@pytest.fixture
def applied(ran: Project, folder: Path) -> Iterator[Project]:
    """A copy of that project; `COPY` is its log at that time. Its server is kept running."""
    with ending(ran.copied(folder / "p")) as made, made.server.lease():
        made.done("apply")  # the databases of its connections are in another folder now
        made.sql("postgres", f"CREATE DATABASE {COPY} TEMPLATE {LOG}")
        yield made


def _restored(project: Project) -> None:
    project.sql("postgres", f"DROP DATABASE {LOG}")
    project.sql("postgres", f"CREATE DATABASE {LOG} TEMPLATE {COPY}")


EVERY = (["run", "orders"], ["apply"], ["pause", "orders"], ["up", "--port", "0"], ["flow", "control"],
         ["flow", "pipeline", "orders"])  # fmt: skip


def _refused(project: Project, what: str, commands: Sequence[list[str]] = EVERY[2:4]) -> None:
    for command in commands:
        said = project.do(*command)
        assert said.code == 1, command
        assert what in said.error, said.error
        assert "penstock catalog rebuild" in said.err
    assert project.do("list").code == 0, "reading goes on"
    (found,) = [one for one in project.do("doctor", "--json").json if one["check"] == "installation"]
    assert what in found["seen"]


def _healed(project: Project) -> None:
    """Rebuild; then runs read what is new, from the positions at the sink."""
    assert project.done("catalog", "rebuild")["pipelines"] == 1
    project.sql(SHOP, MORE)
    assert project.done("run", "orders", "--watch")["status"] == "completed"
    assert project.differences() == {"lost": 0, "doubled": 0}
    assert project.do("doctor").code == 0


def test_an_older_copy_of_the_log_is_refused_until_the_catalog_is_rebuilt(applied: Project) -> None:
    applied.sql(SHOP, MORE)
    applied.done("run", "orders", "--watch")
    _restored(applied)
    _refused(applied, "an older copy was restored", EVERY)
    _healed(applied)


def test_an_older_copy_that_was_written_to_is_refused(applied: Project) -> None:
    """The log is as long as the catalog's position again, but has other records there."""
    applied.done("pause", "orders")
    _restored(applied)
    applied.sql("postgres", f"ALTER DATABASE {CATALOG} RENAME TO away")
    for verb in ("pause", "resume"):
        applied.done(verb, "orders")
    applied.sql("postgres", f"DROP DATABASE {CATALOG}")
    applied.sql("postgres", f"ALTER DATABASE away RENAME TO {CATALOG}")
    _refused(applied, "another record")
    _healed(applied)


def test_a_catalog_of_another_log_is_refused(applied: Project) -> None:
    applied.sql(COPY, "UPDATE topics._identity SET id = gen_random_uuid()")
    _restored(applied)
    _refused(applied, "another log")
    _healed(applied)


def test_an_installation_of_an_older_release_gets_an_identity(applied: Project) -> None:
    applied.sql(LOG, "DROP TABLE topics._identity; ALTER TABLE topics.control DROP COLUMN lock")
    applied.sql(LOG, "ALTER TABLE topics.metrics DROP COLUMN lock")
    applied.sql(CATALOG, "DELETE FROM ops.settings; UPDATE catalog.position SET reading = reading - 'last'")
    applied.sql(SHOP, MORE)
    applied.done("run", "orders", "--watch")
    assert applied.sql(CATALOG, "SELECT count(*) FROM ops.settings WHERE name = 'log'") == [(1,)]
    assert applied.differences() == {"lost": 0, "doubled": 0}
    _restored(applied)
    _refused(applied, "another log")


def test_a_rebuild_is_refused_while_something_runs(running: Project) -> None:
    said = running.do("catalog", "rebuild")
    assert said.code == 1
    assert "stop `penstock up`" in said.err
    assert running.sql(WAREHOUSE, "SELECT 1") == [(1,)]
