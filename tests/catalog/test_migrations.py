"""Migrations: of an empty database, repeated, two at once, and refused ones."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from importlib import resources

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from catalog.compare import digest
from catalog.database import engine, migrate, reset
from catalog.migrations import REVISIONS
from catalog.tables import CATALOG, OPS, metadata
from penstock.errors import SettingsError, Unreachable
from penstock.postgres import connect


def tables(dsn: str) -> set[str]:
    query = "SELECT table_schema || '.' || table_name FROM information_schema.tables WHERE table_schema = ANY(%s)"
    with closing(connect(dsn, "tests")) as session:
        return {row[0] for row in session.execute(query, [[CATALOG, OPS]])}


def test_migrations_create_every_table_once(database: str) -> None:
    assert migrate(database) is True
    assert tables(database) == set(metadata.tables) | {"ops.alembic_version"}
    assert migrate(database) is False


def test_migrated_tables_equal_the_models(database: str) -> None:
    migrate(database)
    assert _differences(database) == []
    reset(database)
    assert _differences(database) == []


def _differences(dsn: str) -> list[object]:
    source = engine(dsn, pool_size=1)
    try:
        with source.connect() as connection:
            options = {"include_schemas": True, "include_name": _ours, "version_table_schema": OPS}
            found: list[object] = compare_metadata(MigrationContext.configure(connection, opts=options), metadata)
            return found
    finally:
        source.dispose()


def _ours(name: str | None, kind: str, _parents: object) -> bool:
    return kind != "schema" or name in {CATALOG, OPS}


def test_the_list_of_revisions_is_complete() -> None:
    config = Config()
    config.set_main_option("script_location", "catalog:migrations")
    found = [script.revision for script in ScriptDirectory.from_config(config).walk_revisions()]
    assert tuple(reversed(found)) == REVISIONS


def test_migrations_at_once_wait_for_each_other(new_database: Callable[[], str]) -> None:
    dsn = new_database()
    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(migrate, [dsn] * 4)) == [False, False, False, True]
    assert "workers" in digest(dsn)


def test_a_start_with_nothing_to_do_loads_no_alembic(database: str) -> None:
    migrate(database)
    program = "import sys; from catalog.database import migrate; print(migrate(sys.argv[1]), 'alembic' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", program, database], capture_output=True, text=True, check=True)
    assert told.stdout.split() == ["False", "False"]


def test_a_database_of_a_newer_release_is_refused(database: str) -> None:
    migrate(database)
    with closing(connect(database, "tests")) as session:
        session.execute("UPDATE ops.alembic_version SET version_num = '9999'")
    for action in (migrate, reset):
        with pytest.raises(SettingsError, match=r"newer release of Penstock, got '9999'"):
            action(database)
    assert "catalog.workers" in tables(database)


def test_a_server_that_is_too_old_is_refused(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("catalog.database.OLDEST_SERVER", 990000)
    with pytest.raises(SettingsError, match="is an unsupported version"):
        migrate(database)
    assert tables(database) == set()


def test_an_unreachable_server_is_reported(tmp_path: object) -> None:
    with pytest.raises(Unreachable):
        migrate(f"host={tmp_path} dbname=x")


def test_a_failed_migration_leaves_nothing(database: str) -> None:
    with closing(connect(database, "tests")) as session:
        session.execute("CREATE SCHEMA catalog; CREATE TABLE catalog.workers (x int)")
    with pytest.raises(Exception, match="already exists"):
        migrate(database)
    assert tables(database) == {"catalog.workers"}


def test_the_scripts_are_part_of_the_package() -> None:
    assert (resources.files("catalog.migrations") / "env.py").is_file()
    assert (resources.files("catalog.migrations") / "versions" / "0001_first.py").is_file()
