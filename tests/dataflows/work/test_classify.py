"""Classification of errors by their codes, their fingerprints, and what they are like."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataflows.work.classify.classifier import classified
from dataflows.work.classify.fingerprint import fingerprint, template
from penstock.errors import PenstockError
from penstock.models.domain import Error
from penstock.models.failures import Failure
from tests.agents.control_plane import pipeline
from tests.strategies import models

ORDERS = pipeline("orders")
SINK = "orders: connection house"


def error(code: str, what: str, where: str | None = SINK, *, transient: bool = False) -> Error:
    return Error(code=code, what=what, where=where, transient=transient)


@pytest.mark.parametrize(
    ("code", "what", "kind", "sign"),
    [
        ("data.bad", "the target cannot hold a value [SQLSTATE 22001]", "data", "SQLSTATE 22001"),
        ("error", "cannot execute INSERT in a read-only transaction [SQLSTATE 25006]", "config", "SQLSTATE 25006"),
        ("unavailable", "the server has no free connection [SQLSTATE 53300]", "resource", "SQLSTATE 53300"),
        ("unavailable", "the server ended a deadlock [error 1213]", "transient", "error 1213"),
        ("unavailable.access_denied", "the server refuses this user [error 1045]", "permission", "error 1045"),
        ("unavailable", "the API answers 503", "transient", "HTTP 503"),
        ("unavailable", "the API answers 429", "transient", "HTTP 429"),
        ("unavailable.access_denied", "the API refuses access (403)", "permission", "HTTP 403"),
        ("unavailable", "the brokers answered: unknown (UNKNOWN_TOPIC_OR_PART)", "schema", "UNKNOWN_TOPIC_OR_PART"),
        ("unavailable", "the brokers answered: too large (MSG_SIZE_TOO_LARGE)", "data", "MSG_SIZE_TOO_LARGE"),
        ("unavailable.out_of_space", "the disk is full", "resource", "unavailable.out_of_space"),
        ("memory.exceeded", "the run used more than `limits.memory` 2GB", "resource", "memory.exceeded"),
        ("schema.missing_table", "there is no such table", "schema", "schema.missing_table"),
        ("document.invalid", "spec: has no sink", "config", "document.invalid"),
        ("run.crashed", "the run's process ended by signal SIGKILL", "transient", "run.crashed"),
        ("defect", "a defect in the run: KeyError", "bug", "defect"),
        ("defect", "a defect in the run: MemoryError", "resource", "MemoryError"),
        ("defect", "a defect in the run: ConnectionResetError", "transient", "ConnectionResetError"),
        ("unexpected", "socket.gaierror", "config", "gaierror"),
        ("not_found", "there is no such host", "config", "its sentence"),
    ],
)
def test_an_error_is_classified_by_what_says_most(code: str, what: str, kind: str, sign: str) -> None:
    found = classified(error(code, what), ORDERS, {})
    assert (found.kind, found.signs[0]) == (kind, sign)
    assert found.confidence >= 0.7


def test_every_error_of_the_tree_has_a_kind() -> None:
    kinds = [PenstockError]
    for kind in kinds:
        kinds += [one for one in kind.__subclasses__() if one.__module__ == "penstock.errors"]
    for kind in kinds[1:]:
        found = classified(error(kind.code, "x", transient=kind.transient), ORDERS, {})
        assert found.confidence >= 0.8, kind.code
        assert found.kind == "transient" or not kind.transient or kind.code == "unavailable.port_in_use", kind.code


@pytest.mark.parametrize(
    ("where", "code", "origin", "connection"),
    [
        ("orders: connection house", "data.bad", "sink", "house"),
        ("orders: connection shop", "unavailable", "source", "shop"),
        ("orders: connection shop, public.orders", "unavailable", "source", "shop"),
        ("orders: connection attic", "unavailable", "transform", "attic"),
        ("orders: spec.transforms[0].cast.born", "data.bad", "transform", None),
        ("orders: spec.mapping.fields[0]", "schema.mismatch", "transform", None),
        ("orders: spec.sink.key", "refused", "sink", "house"),
        (None, "run.crashed", "platform", None),
        ("orders: connection house", "defect", "platform", None),
    ],
)
def test_its_origin_is_where_it_says(where: str | None, code: str, origin: str, connection: str | None) -> None:
    found = classified(error(code, "x", where), ORDERS, {})
    assert (found.origin, found.connection) == (origin, connection)


def test_rows_that_the_target_refused_come_from_the_sink() -> None:
    what = "9 of 9 rows went to the dead letters, more than 1 %, most often by `target`: a row breaks a check"
    found = classified(error("data.too_many_refused", what, "orders: spec.errors.dead_letter.fail_above"), ORDERS, {})
    assert (found.kind, found.origin, found.connection) == ("data", "sink", "house")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("no such key 17", "no such key 4711"),
        ("a row of 2026-01-31T12:00:00Z", "a row of 2025-12-01T01:02:03Z"),
        ("'ann' is twice there", "'bob' is twice there"),
        (
            "locked by 2f8a0c8e-9a3e-4e5b-8a43-4f6e3c1d2b7a",
            "locked by 11111111-9a3e-4e5b-8a43-4f6e3c1d2b7b",
        ),
        ("cannot be read, got '/a/b'", "cannot be read, got '/c'"),
    ],
)
def test_numbers_ids_and_values_do_not_change_the_fingerprint(one: str, other: str) -> None:
    assert template(one) == template(other)


def test_codes_connections_and_objects_do() -> None:
    assert template("x [SQLSTATE 42P01]") != template("x [SQLSTATE 42P02]")
    assert template("the API answers 429") != template("the API answers 500")
    assert template('relation "a" does not exist') != template('relation "b" does not exist')
    prints = {fingerprint(code, name, "x") for code in ("a", "b") for name in ("shop", None)}
    assert len(prints) == 4


def test_the_most_similar_error_of_the_past_is_named() -> None:
    first = classified(error("refused", "the table `orders` has no column `total` for the mapping"), ORDERS, {})
    known = {first.fingerprint: first.template, "f9": "something else entirely"}
    again = classified(error("refused", "the table `orders` has no column `totals` for the mapping"), ORDERS, known)
    assert again.like is not None
    assert (again.like.fingerprint, again.like.ratio > 0.9) == (first.fingerprint, True)
    same = classified(error("refused", "the table `orders` has no column `total` for the mapping"), ORDERS, known)
    assert (same.fingerprint, same.like) == (first.fingerprint, None), "exact comes first"
    assert classified(error("refused", "no"), ORDERS, known).like is None


@given(
    found=models(Error),
    failure=models(Failure),
    known=st.dictionaries(st.from_regex(r"[A-Za-z0-9:._-]{1,64}", fullmatch=True), st.text(), max_size=3),
)
def test_any_error_is_classified(found: Error, failure: Failure, known: dict[str, str]) -> None:
    short = {key[:60]: text for key, text in known.items()}
    for one in (found, failure.error):
        assert 0 <= classified(one, ORDERS, short).confidence <= 1
        assert len(classified(one, None, short).fingerprint) == 12
