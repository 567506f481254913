"""Queries about alerts and what silences them."""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime, timedelta

from catalog.alerts import silences
from penstock.postgres import connect

START = datetime(2026, 3, 2, tzinfo=UTC)
DAY = timedelta(days=1)


def test_a_silence_ends_with_its_pipeline(catalog: str) -> None:
    with closing(connect(catalog, "tests", autocommit=True)) as session:
        for uid, name, created, deleted in (
            ("u1", "old", START, START + DAY),
            ("u2", "old", START + 2 * DAY, None),
            ("u3", "kept", START, None),
        ):
            session.execute(
                "INSERT INTO catalog.pipelines (uid, name, created_at, deleted_at, changed) VALUES (%s, %s, %s, %s, 1)",
                [uid, name, created, deleted],
            )
        for name in ("old", "kept"):
            session.execute(
                "INSERT INTO catalog.silences (id, pipeline, until, by, at, changed) VALUES (%s, %s, %s, 'me', %s, 1)",
                [name, name, START + 9 * DAY, START],
            )
        assert [one.pipeline for one in silences(session, START + 3 * DAY)] == ["kept"]
        assert silences(session, START + 9 * DAY) == []
