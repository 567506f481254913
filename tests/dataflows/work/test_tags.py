"""Meanings of columns: given columns, and the tags that each has to get, or must not."""

from __future__ import annotations

import pytest

from dataflows.work.tags import PERSONAL, tags_of

COLUMNS = [
    ("email", "text", ["a@example.org", "b.c@shop.co.uk"], "email", 0.99),
    ("contact", "character varying(80)", ["a@example.org", "b.c@shop.co.uk"], "email", 0.95),
    ("customerEMail", "text", [], "email", 0.7),
    ("phone", "text", ["+49 30 901820", "(212) 555-0123"], "phone", 0.85),
    ("number", "text", ["+49 30 901820", "+1 212 555 0123"], "phone", 0.6),
    ("iban", "text", ["DE89 3704 0044 0532 0130 00"], "iban", 0.99),
    ("account", "text", ["GB82WEST12345698765432", "DE89370400440532013000"], "iban", 0.95),
    ("card", "text", ["4111 1111 1111 1111"], "card_number", 0.95),
    ("first_name", "text", ["Ann", "José Luis"], "person_name", 0.7),
    ("date_of_birth", "date", ["1990-01-02"], "birth_date", 0.8),
    ("ssn", "text", [], "national_id", 0.8),
    ("zip", "character(5)", ["10115", "80331"], "postal_code", 0.8),
    ("ship_country", "text", ["DE", "FR", "US"], "country", 0.9),
    ("c", "character(2)", ["DE", "FR", "US"], "country", 0.7),
    ("homepage", "text", ["https://example.org/a"], "url", 0.98),
    ("client_ip", "text", ["10.0.0.1", "2001:db8::1"], "ip_address", 0.95),
    ("seen_from", "inet", [], "ip_address", 1.0),
    ("token", "text", ["6f1c2f43-6f0e-5c0a-9d51-70656e73746f"], "uuid", 0.95),
    ("ref", "uuid", [], "uuid", 1.0),
    ("placed", "text", ["31.12.2026", "01.02.2025"], "date_as_text", 0.9),
    ("day", "text", ["2026-12-31"], "date_as_text", 0.9),
    ("total_price", "numeric(15,2)", ["12.50", "-3"], "money", 0.75),
    ("order_id", "bigint", ["1", "2"], "identifier", 0.7),
]


@pytest.mark.parametrize(("name", "kind", "values", "tag", "least"), COLUMNS, ids=[f"{c[0]} {c[3]}" for c in COLUMNS])
def test_a_column_gets_its_tag(name: str, kind: str, values: list[str], tag: str, least: float) -> None:
    found = tags_of(name, kind, values)
    assert found.get(tag, 0) >= least, found
    assert all(0 <= one <= 1 for one in found.values())


OTHERS = [
    ("email", "text", ["yes", "no", "yes"], "email"),
    ("email_sent", "boolean", [], "email"),
    ("id", "text", ["12345678901234567890"], "card_number"),
    ("account", "text", ["DE89370400440532013001"], "iban"),
    ("amount", "integer", ["1234567", "7654321"], "phone"),
    ("note", "text", ["hello", "2026 was good"], "date_as_text"),
    ("code", "text", ["DE", "XX", "QQ", "ZZ"], "country"),
    ("version", "text", ["1.2.3", "4.5"], "ip_address"),
    ("first_name", "text", ["42", "43"], "person_name"),
]


@pytest.mark.parametrize(("name", "kind", "values", "tag"), OTHERS, ids=[f"{c[0]} {c[3]}" for c in OTHERS])
def test_values_or_types_refute_a_name(name: str, kind: str, values: list[str], tag: str) -> None:
    assert tag not in tags_of(name, kind, values)


def test_a_key_is_an_identifier_and_personal_tags_are_marked() -> None:
    assert tags_of("nr", "bigint", ["1"], key=True)["identifier"] >= 0.9
    assert {"email", "phone", "iban", "person_name", "birth_date"} <= PERSONAL
    assert not {"country", "money", "identifier", "url"} & PERSONAL
