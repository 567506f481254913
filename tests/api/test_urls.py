"""Connections from URLs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from api.urls import connection_of
from penstock.errors import UsageError
from penstock.models.connection import parse_connection


@pytest.mark.parametrize(
    ("url", "connection", "secrets"),
    [
        ("postgresql://me@h:5433/shop", {"type": "postgres", "dsn": "postgresql://me@h:5433/shop"}, {}),
        (
            "postgresql://me:p%40ss@h/shop?sslmode=require",
            {"type": "postgres", "dsn": "postgresql://me@h/shop?sslmode=require", "password": "${file:/s/a_password}"},
            {"a_password": "p@ss"},
        ),
        (
            "dbname=shop host=/run password='ge heim'",
            {"type": "postgres", "dsn": "dbname=shop host=/run", "password": "${file:/s/a_password}"},
            {"a_password": "ge heim"},
        ),
        (
            "mysql://me:geheim@h/shop",
            {
                "type": "mysql", "host": "h", "port": 3306, "user": "me", "database": "shop",
                "password": "${file:/s/a_password}",
            },
            {"a_password": "geheim"},
        ),
        ("mariadb://me@/x?socket=/run/s", {"type": "mariadb", "socket": "/run/s", "user": "me", "database": "x"}, {}),
        ("sqlite:///data/shop.db", {"type": "sqlite", "path": "/data/shop.db"}, {}),
        ("duckdb:/data/x.duckdb", {"type": "duckdb", "path": "/data/x.duckdb"}, {}),
        ("/data/shop.sqlite", {"type": "sqlite", "path": "/data/shop.sqlite"}, {}),
        ("file:///etc", {"type": "files", "root": "/etc"}, {}),
        (
            "s3://KEY:geheim@lake/raw?endpoint=http://127.0.0.1:9000",
            {
                "type": "s3", "url": "s3://lake/raw", "endpoint": "http://127.0.0.1:9000",
                "access_key": "${file:/s/a_access_key}", "secret_key": "${file:/s/a_secret_key}",
            },
            {"a_access_key": "KEY", "a_secret_key": "geheim"},
        ),
        ("kafka://a:9092,b:9092", {"type": "kafka", "bootstrap": "a:9092,b:9092"}, {}),
        ("kinesis://eu-central-1", {"type": "kinesis", "region": "eu-central-1"}, {}),
    ],
)  # fmt: skip
def test_a_url_becomes_a_connection_without_its_secrets(
    url: str, connection: dict[str, Any], secrets: dict[str, str]
) -> None:
    found, files = connection_of(url, "a", Path("/s"))
    assert found == connection
    assert {path.name: text for path, text in files.items()} == secrets
    parse_connection("a", found)


@pytest.mark.parametrize("url", ["oracle://h/x", "/nowhere/at/all", "kafka://me:secret@h:9092", "host=x secret"])
def test_other_urls_are_refused_without_their_secrets(url: str) -> None:
    with pytest.raises(UsageError) as refused:
        connection_of(url, "a", Path("/s"))
    assert "secret" not in str(refused.value)
