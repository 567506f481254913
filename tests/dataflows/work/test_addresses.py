"""Where a diagnosis looks for the server of a connection."""

from __future__ import annotations

import pytest

from dataflows.connectors.contract import Place
from dataflows.work.diagnosis.side import Address, Side
from penstock.models.connection import parse_connection


@pytest.mark.parametrize(
    ("bootstrap", "found"),
    [
        ("h1:9093,h2:9094", [("h1", 9093), ("h2", 9094)]),
        ("SASL_SSL://h1:9092, PLAINTEXT://h2", [("h1", 9092), ("h2", 9092)]),
        ("[::1]:9093,SSL://[::1]", [("::1", 9093), ("::1", 9092)]),
        ("h1", [("h1", 9092)]),
    ],
)
def test_brokers_are_read_as_their_client_reads_them(bootstrap: str, found: list[Address]) -> None:
    settings = parse_connection("c", {"type": "kafka", "bootstrap": bootstrap})
    side = Side("source", Place("p", "c", settings, "o", None, None), None, failed=True)
    assert side.addresses() == found
