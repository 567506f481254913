# ruff: noqa: E501 - tables of statements, one a line; what is parametrized comes by position
"""Copies keep every value, and `replace` keeps the target's properties."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from dataflows.connectors.postgres.session import connect
from dataflows.connectors.postgres.swap import replace_method
from dataflows.connectors.postgres.tables import TableName, describe
from dataflows.data.counters import COUNTED
from dataflows.runs.job import Job
from dataflows.runs.publish import drop_state
from dataflows.transforms.mapping import FieldSpec, Rules, bind

if TYPE_CHECKING:
    from tests.dataflows.conftest import Copy, Launchers

ALL_TYPES = """
id bigint PRIMARY KEY, i2 smallint, i4 integer, f4 real, f8 double precision, n numeric(20,6), t text, v varchar(9), c char(4),
b boolean, d date, ts timestamp, tz timestamptz, u uuid, tm time, j json, jb jsonb, mood mood"""
VALUES = """
(1, -32768, 2147483647, 1.1, 0.1, -12345678901234.567891, E'a,"b"\\nc\\\\.', '', 'x', true, '2024-02-29', '0001-01-01 00:00:00.000001',
 '9999-12-31 23:59:59.999999+00', '00000000-0000-0000-0000-0000000000ff', '23:59:59.999999', '{"a": null}', '{"b": [1, "x"]}', 'so so'),
(2, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
(3, 0, 0, 'NaN', '-Infinity', 0, '', 'ß€𝄞', '', false, '1970-01-01', '1969-12-31 23:59:59.5', '1900-01-01 00:00:00+05', NULL, '00:00', 'null', 'null', 'good'),
(4, 1, 1, 3.4028235e38, 1e-307, 1, '\\N', 't', 'f', true, '0044-03-15', '2024-01-01', '2024-01-01', NULL, '12:00', '1', '"x"', 'so so')"""


def put(task: dict[str, Any], source: str, fields: list[dict[str, str]] | None = None, **sink: Any) -> dict[str, Any]:
    spec = task["pipeline"]["spec"]
    spec["source"] = {"connection": "shop", "object": source}
    spec["sink"] |= sink
    spec.pop("mapping", None)
    if fields:
        spec["mapping"] = {"fields": fields}
    return task


@pytest.mark.parametrize("how", ["raw", "arrow"])
def test_every_type_that_can_be_mapped_keeps_every_value(
    copy: Callable[..., Copy], launchers: Launchers, how: str
) -> None:
    made = copy("replace")
    run = made.session.execute
    run("DROP TYPE IF EXISTS mood CASCADE; CREATE TYPE mood AS ENUM ('so so', 'good')")
    run(f"DROP TABLE IF EXISTS every; CREATE TABLE every ({ALL_TYPES}); INSERT INTO every VALUES {VALUES}")
    wider = ALL_TYPES.replace("i2 smallint", "i2 integer") if how == "arrow" else ALL_TYPES
    run(f"DROP TABLE {made.target}; CREATE TABLE {made.target} ({wider})")
    done = launchers.run(put(made.task("r1"), "public.every"))
    assert done["status"] == "completed", done
    shown = "SELECT id, to_jsonb(x.*)::text, x.t IS NULL, x.v IS NULL, x.c::text, x.f4::text, x.f8::text FROM {} x ORDER BY id"
    assert run(shown.format(made.target)).fetchall() == run(shown.format("every")).fetchall()


def test_a_single_text_column_keeps_null_and_empty_apart(copy: Callable[..., Copy], launchers: Launchers) -> None:
    made = copy("replace")
    run = made.session.execute
    run(
        "DROP TABLE IF EXISTS one; CREATE TABLE one (t text); INSERT INTO one VALUES (NULL), (''), ('x'), (NULL), (E'\\n')"
    )
    done = launchers.run(put(made.task("r1"), "public.one", [{"target": "name", "sql": "lower(t)"}]))
    assert done["counters"]["rows_out"] == 5, done
    assert run(
        f"""SELECT array_agg(coalesce(name, 'null') ORDER BY coalesce(name, 'null') COLLATE "C") FROM {made.target}"""
    ).fetchone() == (["", "\n", "null", "null", "x"],)


def test_inexact_values_fail_and_change_nothing(copy: Callable[..., Copy], launchers: Launchers) -> None:
    made = copy("replace")
    made.session.execute(
        "DROP TABLE IF EXISTS odd; CREATE TABLE odd (id bigint, at timestamptz, n numeric); INSERT INTO odd VALUES (1, 'infinity', 1)"
    )
    fields = [{"target": "id", "sql": "id + 1"}, {"target": "at", "from": "at"}]
    error = launchers.run(put(made.task("r1"), "public.odd", fields))["error"]
    assert (error["code"], "`at`" in error["what"]) == ("data.bad", True)
    error = launchers.run(put(made.task("r2"), "public.odd", [{"target": "price", "from": "n"}]))["error"]
    assert (error["code"], "numeric" in error["what"]) == ("schema.mismatch", True)
    assert made.value(f"SELECT count(*) FROM {made.target}") == 0


def test_replace_by_rename_keeps_the_tables_properties(copy: Callable[..., Copy], launchers: Launchers) -> None:
    made = copy("replace")
    run = made.session.execute
    run("DROP ROLE IF EXISTS reader; CREATE ROLE reader")
    run(
        f"ALTER TABLE {made.target} ADD CONSTRAINT items_key PRIMARY KEY (id), ADD COLUMN loaded timestamptz DEFAULT now(), "
        "ALTER name SET STORAGE EXTERNAL, SET (fillfactor = 77), ADD CONSTRAINT dear CHECK (price < 1e6)"
    )
    run(
        f"CREATE INDEX items_by_name ON {made.target} (lower(name)) WHERE price > 1; COMMENT ON TABLE {made.target} IS 'kept'"
    )
    run(
        f"COMMENT ON COLUMN {made.target}.name IS 'its name'; GRANT SELECT ON {made.target} TO reader WITH GRANT OPTION"
    )
    before = around(made)
    oid = made.value(f"SELECT '{made.target}'::regclass::oid")
    for turn in ("r1", "r2"):
        assert launchers.run(made.task(turn))["status"] == "completed"
        assert made.differences() == {"lost": 0, "doubled": 0}
        assert around(made) == before
    assert made.value(f"SELECT '{made.target}'::regclass::oid") != oid
    run(f"REVOKE ALL ON {made.target} FROM reader; DROP ROLE reader")


def around(made: Copy) -> list[Any]:
    """Return indexes, constraints, options, comments and grants of the target."""
    table = f"'{made.target}'::regclass"
    return [
        made.session.execute(query).fetchall()
        for query in (
            f"SELECT pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid = {table} ORDER BY 1",
            f"SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = {table} AND contype <> 'n' ORDER BY 1",
            f"SELECT reloptions, obj_description(oid), relowner FROM pg_class WHERE oid = {table}",
            f"SELECT a::text FROM pg_class, unnest(relacl) a WHERE oid = {table} ORDER BY 1",
            f"SELECT attname, attstorage, attnotnull, col_description(attrelid, attnum) FROM pg_attribute WHERE attrelid = {table} AND attnum > 0",
        )
    ]


@pytest.mark.parametrize("obstacle", ["view", "trigger", "identity", "deferrable key"])
def test_replace_refills_a_table_that_others_depend_on(
    copy: Callable[..., Copy], launchers: Launchers, obstacle: str
) -> None:
    made = copy("replace")
    statements = {
        "view": f"CREATE VIEW w.seen AS SELECT * FROM {made.target}",
        "trigger": "CREATE OR REPLACE FUNCTION w.nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'; "
        f"CREATE TRIGGER t BEFORE UPDATE ON {made.target} FOR EACH ROW EXECUTE FUNCTION w.nothing()",
        "identity": f"ALTER TABLE {made.target} ADD COLUMN nr bigint GENERATED ALWAYS AS IDENTITY",
        "deferrable key": f"ALTER TABLE {made.target} ADD PRIMARY KEY (id); INSERT INTO {made.target} VALUES (1); "
        f"CREATE TABLE w.child (id bigint REFERENCES {made.target} DEFERRABLE); INSERT INTO w.child VALUES (1)",
    }
    made.session.execute(statements[obstacle])
    oid = made.value(f"SELECT '{made.target}'::regclass::oid")
    for turn in ("r1", "r2"):
        done = launchers.run(made.task(turn))
        assert done["status"] == "completed", done
        assert made.differences() == {"lost": 0, "doubled": 0}
    assert made.value(f"SELECT '{made.target}'::regclass::oid") == oid
    made.session.execute("DROP VIEW IF EXISTS w.seen; DROP TABLE IF EXISTS w.child")


def test_replace_of_a_table_that_a_plain_foreign_key_needs_is_refused(
    copy: Callable[..., Copy], launchers: Launchers
) -> None:
    made = copy("replace")
    made.session.execute(
        f"ALTER TABLE {made.target} ADD PRIMARY KEY (id); CREATE TABLE w.needs (id bigint REFERENCES {made.target} ON DELETE CASCADE)"
    )
    error = launchers.run(made.task("r1"))["error"]
    assert (error["code"], error["what"]) == ("refused", "`replace` would break foreign key needs_id_fkey of w.needs")
    made.session.execute("DROP TABLE w.needs")


def test_a_missing_target_is_made_from_the_mapping(copy: Callable[..., Copy], launchers: Launchers) -> None:
    for write in ("append", "replace"):
        made = copy(write, arrow=True)
        made.session.execute(f"DROP TABLE {made.target}")
        task = made.task("r1")
        task["pipeline"]["spec"]["sink"]["key"] = ["id"]
        done = launchers.run(task)
        assert done["status"] == "completed", done
        assert made.differences() == {"lost": 0, "doubled": 0}
        kinds = {column["name"]: column["type"] for column in done["schemas"]["target"]}
        assert kinds == {"id": "bigint", "name": "text", "price": "numeric(12,2)", "at": "timestamp with time zone"}


def test_a_deleted_pipeline_leaves_nothing(copy: Callable[..., Copy], launchers: Launchers) -> None:
    made = copy("replace")
    assert "killed" in launchers.run(made.task("r1"), "commit.done:1=kill")
    for _ in range(2):
        drop_state(Job.from_task(made.task("r1")), table=True)
    assert made.leftovers() == 0
    assert made.value(f"SELECT to_regclass('{made.target}')") is None
    assert made.value(f"SELECT count(*) FROM w._penstock_positions WHERE pipeline = '{made.uid}'") == 0


@pytest.mark.parametrize("kind", ["uuid", "text", "date", "timestamptz", "numeric(9,3)", "smallint"])
def test_tables_are_split_by_keys_of_other_types(copy: Callable[..., Copy], launchers: Launchers, kind: str) -> None:
    value = {
        "uuid": "md5(g::text)::uuid",
        "text": "'k ' || g || ''''",
        "date": "date '2000-01-01' + g",
        "timestamptz": "to_timestamp(g)",
    }.get(kind, f"g::{kind}")
    made = copy("replace", split_rows=100)
    run = made.session.execute
    run(
        f"DROP TABLE IF EXISTS keyed; CREATE TABLE keyed AS SELECT {value} AS k, g::bigint AS id FROM generate_series(1, 999) g; ALTER TABLE keyed ADD PRIMARY KEY (k); ANALYZE keyed"
    )
    done = launchers.run(put(made.task("r1"), "public.keyed", [{"target": "id", "from": "id"}]))
    assert done["status"] == "completed", done
    assert done["counters"]["splits"] == 10
    assert (
        made.value(f"SELECT count(DISTINCT id) FROM {made.target}")
        == made.value(f"SELECT count(*) FROM {made.target}")
        == 999
    )


@pytest.mark.parametrize("write", ["append", "replace"])
def test_names_with_special_characters(copy: Callable[..., Copy], launchers: Launchers, write: str) -> None:
    made = copy(write)
    made.session.execute(
        """CREATE TABLE IF NOT EXISTS "o'{d} %s ""x" AS SELECT id, name AS "a {b} %s ""c" FROM items"""
    )
    name = "o'{d} %s \"x"
    spec = (task := made.task("r'{1}"))["pipeline"]["spec"]
    spec["source"]["object"], spec["sink"]["object"] = f"public.{name}", f"w.{name} {write}"
    assert launchers.run(task)["status"] == "completed"
    target = f'w."{name.replace(chr(34), chr(34) * 2)} {write}"'.replace("%", "%%")
    assert (
        made.session.execute(f"SELECT count(*) FROM {target}", ()).fetchone()
        == made.session.execute("SELECT count(*) FROM items").fetchone()
    )


def test_append_by_a_uuid_that_only_grows(copy: Callable[..., Copy], launchers: Launchers) -> None:
    made = copy("append", split_rows=100)
    run = made.session.execute
    run(
        "CREATE TABLE grown AS SELECT lpad(to_hex(g), 32, '0')::uuid AS k, g::bigint AS id FROM generate_series(1, 300) g"
    )
    moved = []
    for turn in ("r1", "r2", "r3"):
        task = put(made.task(turn), "public.grown", [{"target": "id", "from": "id"}])
        task["pipeline"]["spec"]["source"]["cursor"] = {"field": "k", "ordered": True}
        done = launchers.run(task)
        assert done["status"] == "completed", done
        moved.append(done["counters"]["rows_in"])
        if turn == "r2":
            run("INSERT INTO grown SELECT lpad(to_hex(g), 32, '0')::uuid, g FROM generate_series(301, 307) g")
    assert moved == [300, 0, 7]


def test_a_trigger_that_drops_appended_rows_is_named(copy: Callable[..., Copy], launchers: Launchers) -> None:
    made = copy("append")
    made.session.execute(
        "CREATE TABLE dropping AS SELECT g::bigint AS id FROM generate_series(1, 9) g;"
        "CREATE OR REPLACE FUNCTION drop_5() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN IF new.id = 5 THEN RETURN NULL; END IF; RETURN new; END $$;"
        f"CREATE TRIGGER dropper BEFORE INSERT ON {made.target} FOR EACH ROW EXECUTE FUNCTION drop_5()"
    )
    task = put(made.task("r1"), "public.dropping", [{"target": "id", "from": "id"}])
    task["pipeline"]["spec"]["source"]["cursor"] = {"field": "id", "ordered": True}
    assert "trigger dropper" in launchers.run(task)["error"]["what"]
    assert made.value(f"SELECT count(*) FROM {made.target}") == 0


def test_a_lag_leaves_younger_rows_to_a_later_run(copy: Callable[..., Copy], launchers: Launchers) -> None:
    made = copy("append")
    run = made.session.execute
    run(
        "CREATE TABLE aging AS SELECT g::bigint AS id, now() - g * interval '1 hour' AS at FROM generate_series(0, 9) g"
    )
    moved = []
    for turn, lag in (("r1", "210m"), ("r2", "210m"), ("r3", "30m")):
        task = put(made.task(turn), "public.aging")
        task["pipeline"]["spec"]["source"]["cursor"] = {"field": "at", "lag": lag}
        done = launchers.run(task)
        assert done["status"] == "completed", done
        moved.append(done["counters"]["rows_in"])
    assert moved == [6, 0, 3]
    assert made.value(f"SELECT count(DISTINCT id) FROM {made.target}") == made.value(
        f"SELECT count(*) FROM {made.target}"
    )


def test_values_are_decoded_only_if_something_reads_them(copy: Callable[..., Copy]) -> None:
    made = copy("replace")
    with connect(made.dsn, where="shop", name="tests") as session:
        source, target = (describe(session, TableName.parse(name), "shop") for name in ("public.items", made.target))
        assert bind(Rules(), source, target, "items").raw
        assert bind(Rules((FieldSpec("id", "id"), FieldSpec("name", "name"))), source, target, "items").raw
        assert not bind(
            Rules((FieldSpec("id", "id"), FieldSpec("name", sql="lower(name)"))), source, target, "items"
        ).raw
        assert replace_method(session, TableName.parse(made.target), "lake").name == "rename"


def test_a_run_waits_for_a_writer_that_has_not_committed(copy: Callable[..., Copy], launchers: Launchers) -> None:
    """An append by number must not miss a lower number that is committed later."""
    made = copy("append")
    with psycopg.connect(made.dsn) as late:
        late.execute("INSERT INTO items (name) VALUES ('late')")
        made.add(1)
        pid = launchers.start(made.task("r1"))
        assert launchers.wait(pid, 1) == {"running": True}
        late.commit()
    assert launchers.wait(pid) == {"code": 0}
    assert made.differences() == {"lost": 0, "doubled": 0}


@pytest.fixture(scope="module")
def letters(new_catalog: Callable[[], str]) -> str:
    """Create a catalog for dead letters; return its DSN."""
    return new_catalog()


CUTS = [None, None, "commit.mid_copy:0", "commit.before_fence:1", "commit.done:0", "publish.begin", "publish.moved"]


@settings(
    max_examples=12, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
)
@given(
    write=st.sampled_from(["append", "replace", "merge", "scd2"]),
    arrow=st.booleans(),
    workers=st.sampled_from([1, 1, 1, 2]),
    rows=st.integers(0, 700),
    split_rows=st.integers(40, 400),
    batch_rows=st.integers(1, 300),
    dead=st.sampled_from([0, 0, 3, 50]),
    filtered=st.sampled_from([0, 0, 2, 7]),
    cut=st.sampled_from(CUTS),
)
def test_property_09_metrics_equal_what_was_processed(  # noqa: PLR0917 - what Hypothesis draws
    copy: Callable[..., Copy],
    launchers: Launchers,
    letters: str,
    write: str,
    arrow: bool,
    workers: int,
    rows: int,
    split_rows: int,
    batch_rows: int,
    dead: int,
    filtered: int,
    cut: str | None,
) -> None:
    """Execution metrics accurately reflect processed data: in each mode, with rows refused and filtered, after a crash.

    Validates: Requirements 1.4
    """
    made = copy(write, arrow=arrow, split_rows=split_rows, workers=workers)
    made.session.execute("CREATE TABLE IF NOT EXISTS some_items (LIKE items INCLUDING ALL); TRUNCATE some_items")
    made.session.execute("INSERT INTO some_items SELECT * FROM items ORDER BY id LIMIT %s", (rows,))
    task = made.task("r1", letters=letters)
    spec = task["pipeline"]["spec"]
    spec["source"]["object"] = "public.some_items"
    spec["limits"]["batch_rows"] = batch_rows
    spec["errors"] = {"dead_letter": {"fail_above": "100%"}}
    steps = [
        {"name": "some", "filter": f"id % {filtered} <> 0"} if filtered else None,
        {"name": "share", "set": {"price": f"CAST(1 / (id % {dead}) AS numeric(12,2))"}} if dead else None,
    ]
    spec["transforms"] = [step for step in steps if step]
    if write in {"merge", "scd2"}:
        made.session.execute(f"DROP TABLE {made.target}")
        spec["sink"] |= {"key": ["id"], "version": "id"}
    if cut:
        launchers.run(task, f"{cut}=kill")  # without such a split, the failpoint is not reached
    done = launchers.run(task | {"attempt": 2})
    assert done["status"] == "completed", done
    counters, ids = done["counters"], [row[0] for row in made.session.execute("SELECT id FROM some_items")]
    kept = [id_ for id_ in ids if not filtered or id_ % filtered]
    good = [id_ for id_ in kept if not dead or id_ % dead]
    assert sorted(row[0] for row in made.session.execute(f"SELECT id FROM {made.target}")) == sorted(good)
    assert counters["rows_in"] == len(ids)
    assert counters["filtered"] == len(ids) - len(kept)
    assert counters["dead"] == len(kept) - len(good)
    assert counters["rows_out"] == len(good)
    raw = not arrow and not spec["transforms"]
    assert (counters["bytes"] > 0) == (bool(good) or (raw and counters["splits"] > 0)), counters
    assert set(counters["seconds"]) <= {"prepare", "flow", "publish"}
    named = ", ".join(f"sum({name})::bigint" for name in ("rows_in", "rows_out", "filtered", "dead", "bytes"))
    query = f"SELECT {named} FROM w._penstock_positions WHERE pipeline = '{made.uid}'"
    assert made.session.execute(query).fetchone() == tuple(counters[name] for name in COUNTED)
    with psycopg.connect(letters) as session:
        have = session.execute("SELECT count(*) FROM ops.dead_letters WHERE pipeline = %s", (made.uid,)).fetchone()
    assert have == (counters["dead"],)


KEYS = """SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint
WHERE conrelid = '{}'::regclass AND contype = 'p'"""


@pytest.mark.parametrize("arrow", [False, True])
def test_a_target_that_a_replace_creates_has_the_sources_key_and_not_nulls(
    copy: Callable[..., Copy], launchers: Launchers, arrow: bool
) -> None:
    made = copy("replace", arrow=arrow)
    made.session.execute(f"DROP TABLE {made.target}")
    key = (f"{made.target.removeprefix('w.')}_pkey", "PRIMARY KEY (id)")
    for run in ("r1", "r2", "r3"):
        done = launchers.run(made.task(run))
        assert done["status"] == "completed", done["error"]
        assert made.session.execute(KEYS.format(made.target)).fetchall() == [key]
        assert made.value(
            f"SELECT attnotnull FROM pg_attribute WHERE attrelid = '{made.target}'::regclass AND attnum = 1"
        )
        assert made.differences() == {"lost": 0, "doubled": 0}
        if run == "r2":
            made.session.execute(f"CREATE INDEX ON {made.target} (name)")
    assert made.leftovers() == 0


def test_keys_of_any_type_that_an_index_holds_are_made(copy: Callable[..., Copy], launchers: Launchers) -> None:
    made = copy("replace")
    made.session.execute(f"DROP TABLE {made.target}")
    made.session.execute(
        "CREATE TYPE key_mood AS ENUM ('well'); CREATE DOMAIN key_short AS varchar(3); CREATE TABLE key_odd (m key_mood, s key_short, "
        "c character(2), b bytea, t boolean, i inet, PRIMARY KEY (m, s, c, b, t, i))"
    )
    made.session.execute("INSERT INTO key_odd VALUES ('well', 'a', 'b', '\\x00', true, '::1')")
    for run, named, key in (("r1", [], "m, s, c, b, t, i"), ("r2", ["s", "c"], "s, c")):
        task = made.task(run)
        task["pipeline"]["spec"]["source"]["object"] = "public.key_odd"
        task["pipeline"]["spec"]["sink"]["key"] = named
        task["uid"] = task["uid"].replace("0-4000", f"{len(named)}-4000")
        done = launchers.run(task)
        assert done["status"] == "completed", done["error"]
        definition = made.session.execute(KEYS.format(made.target)).fetchall()
        assert [row[1] for row in definition] == [f"PRIMARY KEY ({key})"]
        made.session.execute(f"DROP TABLE {made.target}")
    made.session.execute("DROP TABLE key_odd; DROP DOMAIN key_short; DROP TYPE key_mood")


def test_a_key_that_cannot_be_made_fails_by_name_before_the_swap(
    copy: Callable[..., Copy], launchers: Launchers
) -> None:
    made = copy("replace")
    made.session.execute(f"DROP TABLE {made.target}")
    done = launchers.run(made.task("r1"))
    assert done["status"] == "completed", done["error"]
    made.session.execute(
        "CREATE TABLE twice AS SELECT * FROM items; INSERT INTO twice SELECT * FROM items WHERE id = 7;"
        "ALTER TABLE twice ALTER id SET NOT NULL"
    )
    task = made.task("r2")
    task["pipeline"]["spec"]["source"]["object"] = "public.twice"
    error = launchers.run(task)["error"]
    made.session.execute("DROP TABLE twice")
    assert (error["code"], "the key (id) cannot be made" in error["what"]) == ("data.bad", True), error
    assert made.differences() == {"lost": 0, "doubled": 0}


def test_rows_that_a_step_multiplies_get_no_key(copy: Callable[..., Copy], launchers: Launchers) -> None:
    made = copy("replace", arrow=True)
    made.session.execute(f"DROP TABLE {made.target}")
    task = made.task("r1")
    spec = task["pipeline"]["spec"]
    spec["mapping"] = {"fields": [{"target": "id", "from": "id"}, {"target": "name", "sql": "'[1, 2]'"}]}
    spec["transforms"] = [{"name": "each", "explode": {"column": "name", "as": "integer"}}]
    done = launchers.run(task)
    assert done["status"] == "completed", done["error"]
    assert made.session.execute(KEYS.format(made.target)).fetchall() == []
    assert made.value(f"SELECT count(*) FROM {made.target}") == 2 * made.value("SELECT count(*) FROM items")


@pytest.mark.parametrize("cut", ["commit.before_fence:0", "flow.end"])
def test_a_large_table_that_goes_around_the_servers_log_survives_a_kill(
    copy: Callable[..., Copy], launchers: Launchers, cut: str
) -> None:
    made = copy("replace")
    run = made.session.execute
    run("DROP TABLE IF EXISTS large; CREATE TABLE large (id int PRIMARY KEY, name text)")
    run("INSERT INTO large SELECT n, 'name ' || n FROM generate_series(1, 60000) n; ANALYZE large")
    run(f"DROP TABLE {made.target}; CREATE TABLE {made.target} (LIKE large INCLUDING ALL)")
    assert made.value("SELECT current_setting('wal_level')") == "minimal"
    killed = launchers.run(put(made.task("r1", split_rows=None), "public.large"), f"{cut}=kill")
    assert killed == {"killed": signal.SIGKILL}
    emptied = "relfilenode <> oid AND relkind = 'r' AND starts_with(relname, '_penstock_')"
    assert made.value(f"SELECT count(*) FROM pg_class WHERE {emptied}") == (cut == "flow.end")
    done = launchers.run(put(made.task("r1", split_rows=None, attempt=2), "public.large"))
    assert (done["status"], done["counters"]["rows_out"], done["resumed"]) == ("completed", 60000, cut == "flow.end")
    assert made.value(f"SELECT count(*) FROM large FULL JOIN {made.target} t USING (id, name) WHERE t.id IS NULL") == 0
