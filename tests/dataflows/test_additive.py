"""Changes of the source: followed at the target, left out, or refused, as the pipeline says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from agents.proposals import applied, following
from penstock.models.moves import moved
from penstock.models.proposals import Proposal
from tests.dataflows.conftest import Copy, Launchers


@pytest.fixture
def grown(copy: Callable[..., Copy]) -> Callable[..., tuple[Copy, Callable[..., dict[str, Any]]]]:
    """Make a pipeline with a table of its own; after its first run the source gains two columns."""

    def make(write: str, rule: str | dict[str, str] | None, **spec: Any) -> Any:
        made = copy(write)
        run = made.session.execute
        run("DROP TABLE IF EXISTS growing")
        run("CREATE TABLE growing (id bigserial PRIMARY KEY, name text NOT NULL)")
        run("INSERT INTO growing (name) SELECT 'n' || g FROM generate_series(1, 300) g")
        run(f"DROP TABLE {made.target}")

        def task(run: str) -> dict[str, Any]:
            found = made.task(run)
            rules = {"additive": rule} if isinstance(rule, str) else rule
            found["pipeline"]["spec"] |= {"schema": rules} if rules else {}
            found["pipeline"]["spec"] |= spec
            found["pipeline"]["spec"]["source"]["object"] = "public.growing"
            return found

        return made, task

    return make


def gain(made: Copy) -> None:
    made.session.execute("ALTER TABLE growing ADD COLUMN size numeric(8,2) NOT NULL DEFAULT 1.5, ADD COLUMN tag text")
    made.session.execute("INSERT INTO growing (name, size, tag) SELECT 'late', 7, 'x' FROM generate_series(1, 50)")


@pytest.mark.parametrize("write", ["append", "replace"])
def test_columns_are_added_if_the_rule_says_so(grown: Any, launchers: Launchers, write: str) -> None:
    made, task = grown(write, "apply")
    assert launchers.run(task("r1"))["status"] == "completed"
    gain(made)
    found = launchers.run(task("r2"))
    assert (found["status"], found["counters"]["rows_in"]) == ("completed", 50 if write == "append" else 350), found
    rows = f"SELECT count(*), count(size), sum(size), count(tag) FROM {made.target}"
    assert made.session.execute(rows).fetchone() == (350, 350, 50 * 7 + 300 * 1.5, 50)
    assert any("that all of them have" in note for note in found["notes"]) == (write == "append")
    assert launchers.run(task("r3"))["status"] == "completed"


def test_a_step_sees_the_new_columns_too(grown: Any, launchers: Launchers) -> None:
    made, task = grown("append", "apply", transforms=[{"name": "loud", "set": {"loud": "upper(name)"}}])
    made.session.execute(f"CREATE TABLE {made.target} (id bigint, name text)")
    found = launchers.run(task("r1"))
    assert found["status"] == "completed", found["error"]
    assert made.value(f"SELECT count(*) FROM {made.target} WHERE loud = upper(name)") == 300


def test_killed_after_the_columns_were_added(grown: Any, launchers: Launchers) -> None:
    made, task = grown("append", "apply")
    assert launchers.run(task("r1"))["status"] == "completed"
    gain(made)
    for cut in ("prepare.before_plan", "commit.mid_copy:0"):
        assert "killed" in launchers.run(task("r2"), f"{cut}=kill")
    assert launchers.run(task("r2"))["status"] == "completed"
    rows = f"SELECT count(*), count(size), sum(size) FROM {made.target}"
    assert made.session.execute(rows).fetchone() == (350, 350, 50 * 7 + 300 * 1.5)


@pytest.mark.parametrize(
    ("column", "transforms"),
    [
        ("size real DEFAULT random()", []),
        ("size real; UPDATE growing SET size = id WHERE id = 7", []),
        ("size real", [{"name": "sized", "set": {"size": "coalesce(size, 1)"}}]),
    ],
)
def test_values_that_rows_of_before_lack_are_noted(
    grown: Any, launchers: Launchers, column: str, transforms: list[Any]
) -> None:
    made, task = grown("append", "apply")
    assert launchers.run(task("r1"))["status"] == "completed"
    made.session.execute(f"ALTER TABLE growing ADD {column}")
    changed = task("r2")
    changed["pipeline"]["spec"]["transforms"] = transforms
    found = launchers.run(changed)
    assert found["status"] == "completed", found["error"]
    assert any("no value in `size`: `penstock run items --full`" in note for note in found["notes"])
    assert made.value(f"SELECT count(size) FROM {made.target}") == 0


def test_columns_are_left_out_if_the_rule_says_so(grown: Any, launchers: Launchers) -> None:
    made, task = grown("append", "ignore")
    assert launchers.run(task("r1"))["status"] == "completed"
    gain(made)
    assert launchers.run(task("r2"))["counters"]["rows_out"] == 50
    query = "SELECT string_agg(attname, ' ' ORDER BY attnum) FROM pg_attribute WHERE attnum > 0 AND attrelid = "
    assert made.value(f"{query}'{made.target}'::regclass") == "id name"


@pytest.mark.parametrize("rule", [None, "propose", "pause"])
def test_refused_by_name_otherwise(grown: Any, launchers: Launchers, rule: str | None) -> None:
    made, task = grown("append", rule)
    assert launchers.run(task("r1"))["status"] == "completed"
    gain(made)
    error = launchers.run(task("r2"))["error"]
    assert error["code"] == ("schema.broken" if rule == "pause" else "schema.missing_column")
    assert "size" in error["what"]
    assert ("penstock resume" if rule == "pause" else "additive: apply") in error["hint"]
    assert made.value(f"SELECT count(*) FROM {made.target}") == 300


@pytest.mark.parametrize("write", ["append", "replace"])
@pytest.mark.parametrize("change", ["DROP COLUMN note", "RENAME COLUMN note TO remark"])
def test_a_column_that_disappeared_never_becomes_null_silently(
    grown: Any, launchers: Launchers, write: str, change: str
) -> None:
    made, task = grown(write, "ignore")
    made.session.execute("ALTER TABLE growing ADD note text DEFAULT 'kept'")
    assert launchers.run(task("r1"))["status"] == "completed"
    made.session.execute(f"ALTER TABLE growing {change}")
    made.session.execute("INSERT INTO growing (name) VALUES ('late')")
    error = launchers.run(task("r2"))["error"]
    assert (error["code"], "`note`" in error["what"]) == ("schema.broken", True), error
    assert made.session.execute(f"SELECT count(*), count(note) FROM {made.target}").fetchone() == (300, 300)
    wanted = task("r3")
    wanted["pipeline"]["spec"]["transforms"] = [{"name": "wanted", "select": ["id", "name"]}]
    assert launchers.run(wanted)["status"] == "completed"
    assert made.session.execute(f"SELECT count(*) FROM {made.target}").fetchone() == (301,)


@pytest.mark.parametrize(
    ("rules", "code"),
    [
        ({"lost": "pause"}, "schema.broken"),
        ({"breaking": "pause"}, "schema.broken"),
        ({"lost": "propose"}, "schema.missing_column"),
        ({"breaking": "propose"}, "schema.missing_column"),
    ],
    ids=str,
)
def test_a_lost_column_fails_the_run_by_the_rule(grown: Any, launchers: Launchers, rules: Any, code: str) -> None:
    made, task = grown("append", rules)
    assert launchers.run(task("r1"))["status"] == "completed"
    made.session.execute("ALTER TABLE growing DROP COLUMN name")
    error = launchers.run(task("r2"))["error"]
    assert (error["code"], "`name`" in error["what"]) == (code, True), error


@pytest.mark.parametrize("rule", ["apply", "ignore"])
def test_a_run_goes_on_without_a_lost_column_only_if_the_rule_says_so(
    grown: Any, launchers: Launchers, rule: str
) -> None:
    made, task = grown("append", {"lost": rule})
    made.session.execute("ALTER TABLE growing ADD note text DEFAULT 'kept'")
    assert launchers.run(task("r1"))["status"] == "completed"
    made.session.execute("ALTER TABLE growing DROP COLUMN note")
    made.session.execute("INSERT INTO growing (name) VALUES ('late')")
    found = launchers.run(task("r2"))
    assert found["status"] == "completed", found["error"]
    assert any("`note` has disappeared" in note for note in found["notes"]) == (rule == "apply")
    assert made.session.execute(f"SELECT count(*), count(note) FROM {made.target}").fetchone() == (301, 300)


def test_a_lost_column_that_a_mapping_names_fails_the_run_in_any_case(grown: Any, launchers: Launchers) -> None:
    fields = [{"target": "id", "from": "id"}, {"target": "loud", "sql": "upper(name)"}]
    made, task = grown("append", {"lost": "apply"}, mapping={"fields": fields})
    assert launchers.run(task("r1"))["status"] == "completed"
    made.session.execute("ALTER TABLE growing DROP COLUMN name")
    error = launchers.run(task("r2"))["error"]
    assert (error["code"], "`name`" in error["what"]) == ("schema.missing_column", True), error


@pytest.mark.parametrize("write", ["append", "replace"])
def test_a_type_that_grows_grows_at_the_target_too(grown: Any, launchers: Launchers, write: str) -> None:
    made, task = grown(write, {"types": "apply"})
    made.session.execute("ALTER TABLE growing ADD size integer NOT NULL DEFAULT 7, ADD price numeric(6,2) DEFAULT 1.25")
    made.session.execute("ALTER TABLE growing ALTER name TYPE varchar(10)")
    assert launchers.run(task("r1"))["status"] == "completed"
    made.session.execute(
        "ALTER TABLE growing ALTER size TYPE bigint, ALTER price TYPE numeric(8,4), ALTER name TYPE text"
    )
    made.session.execute("INSERT INTO growing (name, size, price) VALUES ('a longer name', 5000000000, 9999.1234)")
    found = launchers.run(task("r2"))
    assert found["status"] == "completed", found["error"]
    rows = f"SELECT count(*), max(size), max(price), max(length(name)), min(price) FROM {made.target}"
    assert [str(one) for one in made.session.execute(rows).fetchone()] == [
        "301",
        "5000000000",
        "9999.1234",
        "13",
        "1.2500",
    ]
    types = "SELECT string_agg(format_type(atttypid, atttypmod), ' ' ORDER BY attnum) FROM pg_attribute "
    assert (
        made.value(f"{types} WHERE attnum > 0 AND attrelid = '{made.target}'::regclass")
        == "bigint text bigint numeric(8,4)"
    )


@pytest.mark.parametrize(
    ("rule", "change", "code"),
    [
        ("propose", "ALTER id TYPE numeric", "schema.mismatch"),
        ("pause", "ALTER id TYPE numeric", "schema.broken"),
        ("apply", "ALTER name TYPE bytea USING name::bytea", "schema.broken"),
        ("pause", "ALTER name DROP NOT NULL", "schema.broken"),
        ("pause", "ALTER name TYPE bytea USING name::bytea", "schema.broken"),
    ],
)
def test_a_type_that_does_not_fit_fails_the_run_otherwise(
    grown: Any, launchers: Launchers, rule: str, change: str, code: str
) -> None:
    made, task = grown("replace", {"types": rule})
    assert launchers.run(task("r1"))["status"] == "completed"
    made.session.execute(f"ALTER TABLE growing {change}")
    error = launchers.run(task("r2"))["error"]
    assert error["code"] == code, error
    assert made.value(f"SELECT count(*) FROM {made.target}") == 300


@pytest.mark.parametrize(
    ("kind", "values", "failing"),
    [
        ("text USING size::text", "g::text", "21 of 400 rows would fail as integer (21 are no integer)"),
        ("numeric(8,2)", "g / 2.0", "50 of 400 rows would fail as integer (50 would be cut or rounded)"),
        ("bigint", "g::bigint << 31", "99 of 400 rows would fail as integer (99 are no integer)"),
    ],
)
def test_a_type_that_does_not_fit_is_tried_on_a_sample(
    grown: Any, launchers: Launchers, kind: str, values: str, failing: str
) -> None:
    made, task = grown("replace", {"types": "pause"})
    made.session.execute("ALTER TABLE growing ADD size integer DEFAULT 7")
    assert launchers.run(task("r1"))["status"] == "completed"
    made.session.execute(f"ALTER TABLE growing ALTER size DROP DEFAULT, ALTER size TYPE {kind}")
    made.session.execute(
        f"INSERT INTO growing (name, size) SELECT 'late', {values} FROM generate_series(0, 99) g"
        if not values.endswith("text")
        else "INSERT INTO growing (name, size) SELECT 'late', CASE WHEN g < 21 THEN 'x' ELSE g::text END "
        "FROM generate_series(0, 99) g"
    )
    error = launchers.run(task("r2"))["error"]
    assert f"tried on a sample, {failing}" in error["what"], error
    casts = [one for one in map(Proposal.parse, error.get("proposed", ())) if one.rule == "casts"]
    assert bool(casts) == kind.startswith("text"), "else the target's type can grow, or values would be rounded"


@pytest.mark.parametrize(
    ("first", "then", "plan", "rows"),
    [
        ("text DEFAULT '7'", "integer USING size::integer", "cast `size` to text: 0 of 302 rows would be refused", 302),
        ("integer DEFAULT 7", "text", "cast `size` to integer: 1 of 302 rows would be refused", 301),
        ("integer DEFAULT 7", "boolean USING true", None, None),
    ],
)
def test_a_cast_is_proposed_with_what_it_would_refuse(
    grown: Any, launchers: Launchers, first: str, then: str, plan: str | None, rows: int | None
) -> None:
    made, task = grown("replace", {"types": "propose"})
    made.session.execute(f"ALTER TABLE growing ADD size {first}")
    assert launchers.run(task("r1"))["status"] == "completed"
    made.session.execute(f"ALTER TABLE growing ALTER size DROP DEFAULT, ALTER size TYPE {then}")
    if rows is not None:
        late = "'x'" if then == "text" else "8"
        made.session.execute(f"INSERT INTO growing (name, size) VALUES ('late', {late}), ('later', '9')")
    error = launchers.run(task("r2"))["error"]
    found = [Proposal.parse(one) for one in error.get("proposed", ())]
    assert [str(one) for one in found] == ([] if plan is None else [plan])
    if plan is None:
        return
    assert f"`penstock approve items` would {plan}" in error["hint"]
    approved = task("r3")
    approved["pipeline"] = applied(approved["pipeline"], found)
    if then == "text":
        assert "cannot take a row" in launchers.run(approved)["error"]["what"], "there is no place for dead letters"
        made.session.execute("DELETE FROM growing WHERE size = 'x'")
    result = launchers.run(approved)
    assert result["status"] == "completed", result["error"]
    assert made.value(f"SELECT count(size) FROM {made.target}") == rows


def test_the_sample_begins_with_what_the_next_run_reads(grown: Any, launchers: Launchers) -> None:
    made, task = grown("append", {"types": "propose"})
    made.session.execute("ALTER TABLE growing ADD size integer DEFAULT 7")
    assert launchers.run(task("r1"))["status"] == "completed"
    made.session.execute("ALTER TABLE growing ALTER size TYPE bigint")
    made.session.execute("INSERT INTO growing (name, size) VALUES ('a', 1), ('b', 5000000000)")
    assert "1 of 2 rows would fail" in launchers.run(task("r2"))["error"]["what"]


@pytest.mark.parametrize("write", ["append", "replace"])
def test_null_comes_to_a_column_that_was_not_null(grown: Any, launchers: Launchers, write: str) -> None:
    made, task = grown(write, {"types": "apply"})
    assert launchers.run(task("r1"))["status"] == "completed"
    made.session.execute("ALTER TABLE growing ALTER name DROP NOT NULL")
    made.session.execute("INSERT INTO growing (name) VALUES (NULL)")
    found = launchers.run(task("r2"))
    assert found["status"] == "completed", found["error"]
    assert made.session.execute(f"SELECT count(*), count(name) FROM {made.target}").fetchone() == (301, 300)


@pytest.mark.parametrize(
    ("rule", "code"),
    [("propose", "schema.missing_column"), ("pause", "schema.broken"), ("apply", "schema.renamed")],
)
def test_a_renamed_column_is_recognised(grown: Any, launchers: Launchers, rule: str, code: str) -> None:
    made, task = grown("append", {"renames": rule, "additive": "apply"})
    made.session.execute("ALTER TABLE growing ADD phone text DEFAULT '1'")
    assert launchers.run(task("r1"))["status"] == "completed"
    made.session.execute("ALTER TABLE growing RENAME phone TO phone_number")
    made.session.execute("INSERT INTO growing (name) VALUES ('late')")
    error = launchers.run(task("r2"))["error"]
    assert (error["code"], "`phone` is called `phone_number` now" in error["what"]) == (code, True), error
    assert error.get("renamed") == ({"phone": "phone_number"} if rule == "apply" else None)
    followed = task("r3")
    followed["pipeline"] = following(followed["pipeline"], {"phone": "phone_number"})
    found = launchers.run(followed)
    assert found["status"] == "completed", found["error"]
    assert made.session.execute(f"SELECT count(*), count(phone) FROM {made.target}").fetchone() == (301, 301)


def test_a_renamed_column_may_be_a_lost_and_a_new_one(grown: Any, launchers: Launchers) -> None:
    made, task = grown("append", {"renames": "ignore", "additive": "apply", "lost": "apply"})
    made.session.execute("ALTER TABLE growing ADD phone text DEFAULT '1'")
    assert launchers.run(task("r1"))["status"] == "completed"
    made.session.execute("ALTER TABLE growing RENAME phone TO phone_number")
    made.session.execute("INSERT INTO growing (name) VALUES ('late')")
    assert launchers.run(task("r2"))["status"] == "completed"
    rows = f"SELECT count(*), count(phone), count(phone_number) FROM {made.target}"
    assert made.session.execute(rows).fetchone() == (301, 300, 301)


@pytest.mark.parametrize(
    ("rules", "change", "proposed", "check"),
    [
        ({"types": "propose"}, "ALTER size TYPE bigint", "types size bigint", "SELECT max(size) = 5000000000 FROM {t}"),
        ({"types": "pause"}, "ALTER size TYPE bigint", "types size bigint", "SELECT max(size) = 5000000000 FROM {t}"),
        ({}, "ADD tag text DEFAULT 'x'", "additive tag text", "SELECT count(tag) = 301 FROM {t}"),
        ({"additive": "pause"}, "ADD tag text DEFAULT 'x'", "additive tag text", "SELECT count(tag) = 301 FROM {t}"),
        ({"renames": "ignore"}, "DROP note", "lost note", "SELECT count(note) = 300 FROM {t}"),
    ],
)
def test_what_is_proposed_is_carried_out_once_it_is_approved(
    grown: Any, launchers: Launchers, rules: dict[str, str], change: str, proposed: str, check: str
) -> None:
    made, task = grown("append", rules)
    made.session.execute("ALTER TABLE growing ADD size integer DEFAULT 7, ADD note text DEFAULT 'n'")
    assert launchers.run(task("r1"))["status"] == "completed"
    made.session.execute(f"ALTER TABLE growing {change}")
    made.session.execute("INSERT INTO growing (name) VALUES ('late')")
    if "bigint" in change:
        made.session.execute("UPDATE growing SET size = 5000000000 WHERE name = 'late'")
    error = launchers.run(task("r2"))["error"]
    (found,) = (Proposal.parse(one) for one in error["proposed"])
    assert found.key == proposed
    for words in ("penstock approve items", f"{found.rule}: apply"):
        assert words in error["hint"], error
    approved = task("r3")
    approved["pipeline"]["spec"]["schema"] = {**rules, "approved": [found.key]}
    result = launchers.run(approved)
    assert result["status"] == "completed", result["error"]
    assert made.value(check.format(t=made.target))
    assert launchers.run(task("r4"))["status"] == "completed", "it is done"


def test_a_change_that_was_not_approved_stops_the_run(grown: Any, launchers: Launchers) -> None:
    made, task = grown("append", {"types": "pause"})
    made.session.execute("ALTER TABLE growing ADD size integer, ADD count integer")
    assert launchers.run(task("r1"))["status"] == "completed"
    made.session.execute("ALTER TABLE growing ALTER size TYPE bigint, ALTER count TYPE bigint")
    approved = task("r2")
    approved["pipeline"]["spec"]["schema"] |= {"approved": ["types size bigint"]}
    error = launchers.run(approved)["error"]
    assert (error["code"], [one["subject"] for one in error["proposed"]]) == ("schema.broken", ["count"])


@pytest.mark.parametrize(
    ("rule", "code"), [("propose", "schema.missing_table"), ("pause", "schema.broken"), ("apply", "schema.moved")]
)
def test_a_source_that_is_gone_fails_the_run_by_the_rule(
    grown: Any, launchers: Launchers, rule: str, code: str
) -> None:
    made, task = grown("append", {"tables": rule})
    assert launchers.run(task("r1"))["status"] == "completed"
    made.session.execute("CREATE SCHEMA IF NOT EXISTS crm; DROP TABLE IF EXISTS crm.grown")
    made.session.execute("ALTER TABLE growing RENAME TO grown; ALTER TABLE grown SET SCHEMA crm")
    made.session.execute("INSERT INTO crm.grown (name) VALUES ('late')")
    error = launchers.run(task("r2"))["error"]
    assert (error["code"], "public.growing is called crm.grown now" in error["what"]) == (code, True), error
    assert ("proposed" in error, error.get("moved")) == ((rule != "apply"), "crm.grown" if rule == "apply" else None)
    followed = task("r3")
    followed["pipeline"] = moved(followed["pipeline"], "crm.grown")
    found = launchers.run(followed)
    assert found["status"] == "completed", found["error"]
    assert found["counters"]["rows_in"] == 1, "it goes on from its position"
    assert made.value(f"SELECT count(*) FROM {made.target}") == 301
    made.session.execute("DROP TABLE crm.grown")
    error = launchers.run({**followed, "run": "r4"})["error"]
    expected = "schema.broken" if rule == "pause" else "schema.missing_table"
    assert (error["code"], "proposed" in error) == (expected, False), error


@pytest.mark.parametrize(
    ("noted", "follows"),
    [
        ("{other}", None),
        ("{other}@1:7:elsewhere", None),
        ("{other}@{here}", None),
        ("{other}@1:7:elsewhere", "public.growing_up"),
        ("{own}@{here}", "public.growing_up"),
    ],
)
def test_a_number_counts_in_its_own_database_and_for_the_same_columns_only(
    grown: Any, launchers: Launchers, noted: str, follows: str | None
) -> None:
    made, task = grown("append", {"tables": "apply"})
    made.session.execute("DROP TABLE IF EXISTS invoices; CREATE TABLE invoices (code uuid, total numeric)")
    assert launchers.run(task("r1"))["status"] == "completed"
    mine = f"pipeline = '{made.uid}' AND run = 'r1'"
    identity = made.value(f"SELECT result #>> '{{schemas,identity}}' FROM w._penstock_runs WHERE {mine}")
    number, _, here = identity.partition("@")
    other = made.value("SELECT 'invoices'::regclass::oid")
    text = noted.format(other=other, own=number, here=here)
    given = f"jsonb_set(result, '{{schemas,identity}}', to_jsonb('{text}'::text))"
    made.session.execute(f"UPDATE w._penstock_runs SET result = {given} WHERE {mine}")
    made.session.execute("DROP TABLE IF EXISTS growing_up")
    made.session.execute("ALTER TABLE growing RENAME TO growing_up" if follows else "DROP TABLE growing")
    error = launchers.run(task("r2"))["error"]
    code = "schema.moved" if follows else "schema.missing_table"
    assert (error.get("moved"), error["code"]) == (follows, code), error
    made.session.execute("DROP TABLE IF EXISTS growing_up, invoices")


def test_a_source_that_comes_and_goes_may_be_ignored(grown: Any, launchers: Launchers) -> None:
    made, task = grown("replace", {"tables": "ignore"})
    made.session.execute("ALTER TABLE growing RENAME TO growing_away")
    assert launchers.run(task("r0"))["error"]["code"] == "schema.missing_table", "no run has ever read it"
    made.session.execute("ALTER TABLE growing_away RENAME TO growing")
    assert launchers.run(task("r1"))["status"] == "completed"
    made.session.execute("DROP TABLE growing")
    found = launchers.run(task("r2"))
    assert (found["status"], found["counters"]["rows_in"]) == ("completed", 0), found
    assert "nothing was read" in found["notes"][0]
    assert made.value(f"SELECT count(*) FROM {made.target}") == 300


def test_only_the_source_itself_may_be_ignored_and_not_a_table_that_is_looked_up(
    grown: Any, launchers: Launchers
) -> None:
    lookup = {"connection": "shop", "object": "public.sizes", "on": {"name": "name"}, "take": {"size": "size"}}
    steps = [{"name": "sizes", "lookup": lookup}]
    made, task = grown("replace", {"tables": "ignore"}, transforms=steps)
    made.session.execute("DROP TABLE IF EXISTS sizes; CREATE TABLE sizes (name text PRIMARY KEY, size int)")
    found = launchers.run(task("r1"))
    assert found["status"] == "completed", found
    made.session.execute("DROP TABLE sizes")
    found = launchers.run(task("r2"))
    assert found["status"] == "failed", found
    assert "sizes" in str(found["error"])
