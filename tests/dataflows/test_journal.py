"""The journal of a step's state: what it keeps is read back, and all of it is written again in time."""

from __future__ import annotations

import polars as pl
import pytest

from dataflows.transforms import journal as module
from dataflows.transforms.journal import Journal, read_piece

EMPTY = pl.DataFrame({"n": []}, schema={"n": pl.Int64})


def test_a_frame_is_kept_in_pieces_and_read_back(monkeypatch: pytest.MonkeyPatch) -> None:
    frame = pl.DataFrame({"n": [1, -(2**100), None], "x": [7, 8, 9]}, schema={"n": pl.Int128, "x": pl.Int64})
    for most, count in ((1 << 20, 1), (frame.height * 8, 3)):
        monkeypatch.setattr(module, "PIECE_BYTES", most)
        found = Journal("s").change(frame, EMPTY, {"at": 7})
        assert (found.step, found.whole, len(found.pieces)) == ("s", False, count)
        read = [read_piece(piece, frame.schema) for piece in found.pieces]
        assert pl.concat(part for part, _ in read).equals(frame)
        assert all(rest == {"v": 1, "at": 7} for _, rest in read)
    (piece,) = Journal("s").change(EMPTY, EMPTY, {}).pieces
    assert read_piece(piece, EMPTY.schema)[0].equals(EMPTY)


def test_the_whole_state_is_written_again_once_its_changes_are_as_long(monkeypatch: pytest.MonkeyPatch) -> None:
    small, large = pl.DataFrame({"n": [1]}), pl.DataFrame({"n": range(9)})
    size = len(Journal("s").change(small, large, {}).pieces[0])
    monkeypatch.setattr(module, "LEAST_BYTES", 2 * size)
    kept = Journal("s")
    assert [kept.change(small, large, {}).whole for _ in range(4)] == [False, False, False, True]
    assert (kept.changed, kept.whole) == (0, len(kept.change(large, small, {}).pieces[0]))
    monkeypatch.setattr(module, "LEAST_BYTES", 0)
    begun = Journal("s")
    begun.loaded(["x"])
    assert begun.change(small, large, {}).whole, "what the sink has counts as changes"
    assert not Journal("s").change(small, large, {}).whole
