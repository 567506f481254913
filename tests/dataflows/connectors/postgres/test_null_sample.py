"""NULLs in a sample of rows that pass undecoded: found in blocks of a real COPY, wherever they are cut."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from dataflows.connectors.postgres.null_sample import FIRST, LATER, null_sample
from dataflows.connectors.postgres.session import Session, connect
from dataflows.connectors.postgres.wire import framed, receive

QUERY = (
    "SELECT g, CASE WHEN g % 4 = 0 THEN NULL ELSE repeat('d' || chr(9), g % 90) END, NULL::int, "
    "CASE WHEN g > 20000 THEN now() END FROM generate_series(1, {rows}) g"
)
"""Of four columns a quarter of the second, all of the third, and half of the fourth are NULL."""


@pytest.fixture
def session(database: str) -> Iterator[Session]:
    with closing(connect(database, where="shop", name="tests")) as made:
        yield made


def blocks(session: Session, rows: int, form: str, size: int = 1 << 16) -> list[memoryview]:
    query = f"COPY ({QUERY.format(rows=rows)}) TO STDOUT (FORMAT {form})"
    return [one for one in receive(session, query, lambda: None, "shop", size) if isinstance(one, memoryview)]


@pytest.mark.parametrize("form", ["binary", "text"])
def test_a_few_rows_of_each_block_are_counted(session: Session, form: str) -> None:
    begin, *others = blocks(session, 40_000, form)
    assert null_sample(begin, 4, text=form == "text", first=True) == (FIRST, [0, FIRST // 4, FIRST, FIRST])
    rows, counts = 0, [0] * 4
    for block in others:
        seen, nulls = null_sample(block, 4, text=form == "text", first=False)
        rows, counts = rows + seen, [one + more for one, more in zip(counts, nulls, strict=True)]
    assert rows == LATER * len(others) > 100, "a begin is found in each block"
    assert (counts[0], counts[1], counts[2]) == (0, rows // 4, rows), "every fourth row, of four in a row"
    assert counts[3] / rows == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("form", ["binary", "text"])
@pytest.mark.parametrize("rows", [0, 1, 3, 100])
def test_a_small_table_is_counted_in_full(session: Session, rows: int, form: str) -> None:
    (block,) = blocks(session, rows, form) or [memoryview(b"")]
    nulls = [0, rows // 4, rows, rows]
    assert null_sample(block, 4, text=form == "text", first=True) == (rows, nulls)


def test_rows_in_one_message_are_counted_one_by_one(session: Session) -> None:
    with session.cursor().copy(f"COPY ({QUERY.format(rows=8)}) TO STDOUT (FORMAT binary)") as copy:
        block = framed(b"".join(bytes(one) for one in copy))
    assert null_sample(block, 4, text=False, first=True) == (8, [0, 2, 8, 8])
    assert null_sample(block, 4, text=False, first=False)[0] == 0, "a block that ends is no chain of messages"


@pytest.mark.parametrize("data", [b"d", b"d\x00\x00\x00\x04", b"d\xff\xff\xff\xff" * 9, b"d\0\0\0\x09\0\x04" * 50])
def test_other_bytes_are_no_rows(data: bytes) -> None:
    for text in (True, False):
        for first in (True, False):
            assert null_sample(memoryview(data), 4, text=text, first=first)[1] == [0] * 4
