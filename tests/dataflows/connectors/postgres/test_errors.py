# ruff: noqa: E501 - a table of statements, one a line
"""What a real server refuses is told in words that name the cause, and is classified rightly."""

from __future__ import annotations

import psycopg
import pytest
from psycopg import conninfo

from dataflows.connectors.postgres.errors import translate
from dataflows.process.reports import error_of
from dataflows.work.classify.classifier import classified
from penstock.errors import Unavailable
from penstock.models.domain import Error

MADE = """
CREATE TABLE days (id int) PARTITION BY RANGE (id);
CREATE SEQUENCE few START 2 MAXVALUE 2; SELECT nextval('few');
CREATE TABLE numbered (id int DEFAULT nextval('few'), name varchar(3) CHECK (name <> 'no'), size int, EXCLUDE (size WITH =));
INSERT INTO numbered VALUES (1, 'one', 1);
CREATE FUNCTION inner_one(int) RETURNS int LANGUAGE sql AS 'SELECT $1';
CREATE FUNCTION outer_one(int) RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN inner_one($1); END';
CREATE VIEW calls AS SELECT outer_one(1); DROP FUNCTION inner_one;
CREATE VIEW shares AS SELECT 1 / (id - 1) FROM numbered;
CREATE EXTENSION postgres_fdw;
CREATE SERVER other_shop FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '127.0.0.1', port '1');
CREATE USER MAPPING FOR PUBLIC SERVER other_shop OPTIONS (user 'a', password 'b');
CREATE FOREIGN TABLE far (id int) SERVER other_shop;
"""
ROLE = "guest_of_errors"
REFUSED = [
    ("SELECT * FROM shares", "data", "a division by zero"),
    ("SELECT * FROM calls", "schema", "there is no such function (function inner_one(integer) does not exist)"),
    ("SELECT * FROM far", "transient", 'the server cannot reach another one (could not connect to server "other_shop")'),
    ("INSERT INTO days VALUES (1)", "data", "no partition of the target takes a row"),
    ("INSERT INTO numbered (size) VALUES (7)", "resource", 'maximum value of sequence "few"'),
    ("INSERT INTO numbered VALUES (2, 'long')", "data", "a text is longer than its column"),
    ("INSERT INTO numbered VALUES (2, 'no')", "data", "a row breaks a check (constraint `numbered_name_check`)"),
    ("INSERT INTO numbered VALUES (2, 'two', 1)", "data", "a row excludes another one that is there"),
    ("INSERT INTO numbered SELECT 3000000000", "data", "a number is too large for its type"),
    ("SET temp_file_limit = 64; SET work_mem = '64kB'; SELECT count(*) FROM (SELECT DISTINCT repeat(md5(g::text), 9) FROM generate_series(1, 9000) g ORDER BY 1) made", "resource", "temporary file size exceeds"),
    ("SET transaction_read_only = on; INSERT INTO numbered VALUES (2)", "config", "read-only"),
]  # fmt: skip


def test_refusals_of_the_server_are_told_in_words_that_name_the_cause(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as session:
        session.execute(MADE)
        for statements, kind, said in REFUSED:
            with pytest.raises(psycopg.Error) as caught:
                session.execute(statements)
            session.execute("RESET ALL")
            found = Error(**error_of(translate(caught.value, "orders: connection shop")))
            assert said in found.what, found
            assert classified(found, None, {}).kind == kind, found


def test_policies_of_rows_that_keep_copy_from_writing_are_a_missing_privilege(database: str) -> None:
    with psycopg.connect(database) as session:  # nothing is committed
        session.execute(f"CREATE ROLE {ROLE}; CREATE TABLE safe (id int); ALTER TABLE safe ENABLE ROW LEVEL SECURITY")
        session.execute(f"GRANT ALL ON safe TO {ROLE}; SET ROLE {ROLE}")
        with pytest.raises(psycopg.Error) as caught, session.cursor().copy("COPY safe FROM STDIN") as copy:
            copy.write(b"1\n")
    found = Error(**error_of(translate(caught.value, "orders: connection lake")))
    assert "row-level security of the target" in found.what
    assert classified(found, None, {}).kind == "permission"


def test_a_server_without_a_free_connection_is_not_taken_for_one_that_is_down(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as session:
        session.execute(f"CREATE ROLE {ROLE}_full LOGIN CONNECTION LIMIT 0")
        try:
            with pytest.raises(psycopg.Error) as caught:
                psycopg.connect(conninfo.make_conninfo(database, user=f"{ROLE}_full"))
        finally:
            session.execute(f"DROP ROLE {ROLE}_full")
    error = translate(caught.value, "orders: connection shop")
    assert type(error) is Unavailable
    assert "no free connection (too many connections" in error.what
    assert error.transient
    assert classified(Error(**error_of(error)), None, {}).kind == "resource"
