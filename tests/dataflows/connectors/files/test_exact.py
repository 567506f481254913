"""Text files compared with Python's readers: each value is the same, or its file or row is refused."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from dataflows.connectors.files.connector import FilesConnector
from dataflows.connectors.formats.records import Dialect
from dataflows.data.decimals import decimals
from penstock.errors import PenstockError
from penstock.models.connection import FilesConnection
from penstock.models.formats import CsvFormat
from tests.dataflows.connectors.files.conftest import read
from tests.dataflows.connectors.files.test_formats import refused_rows

if TYPE_CHECKING:
    from pathlib import Path

LIMITS = [2**53 + 1, 2**63, -(2**63), 2**128 + 1]
WHOLE = st.one_of(st.integers(-5, 5), st.integers(-(2**140), 2**140), st.sampled_from(LIMITS)).map(str)
NUMBERS = st.one_of(
    WHOLE,
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.decimals(allow_nan=False, allow_infinity=False, places=3).map(str),
    st.sampled_from(["007", "1e400", "0.1234567890123456789", "1E5", "-0", "1.10", ".5", "5.", "+1", "0x1F", "1e-400"]),
)
OTHERS = st.sampled_from(
    [
        "true",
        "False",
        "2024-02-29",
        "2024-02-30",
        "2024-01-01T00:00:00Z",
        "12:00:00",
        "NULL",
        "a\nb",
        'q"q',
        "a,b",
        "\\",
    ]
)
VALUES = st.one_of(NUMBERS, OTHERS, st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=6))
COLUMNS = st.sampled_from([WHOLE, NUMBERS, OTHERS, VALUES])
ENDS = ("\n", "\r\n", "\r")
FEW = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
MANY = settings(max_examples=5000, deadline=None, suppress_health_check=list(HealthCheck))


@st.composite
def tables(draw: st.DrawFn) -> list[list[tuple[str, str]]]:
    """Rows of several files; columns are mostly of one kind."""
    kinds = [draw(COLUMNS) for _ in range(2)]
    row = st.tuples(*(st.one_of(kind, kind, kind, VALUES) for kind in kinds))
    return draw(st.lists(st.lists(row, max_size=6), min_size=1, max_size=4))


def same(found: Any, wanted: str | None) -> bool:
    """True if a value read equals its text in the file."""
    if found is None or wanted is None:
        return found is wanted
    if isinstance(found, bool):
        return str(found).lower() == wanted.lower()
    if isinstance(found, str):
        return found == wanted
    try:
        return Decimal(repr(found) if isinstance(found, float) else str(found)) == Decimal(wanted)
    except InvalidOperation:
        return str(found)[:10] == wanted[:10]  # dates and times: their forms are checked elsewhere


def check(root: Path, pattern: str, wanted: Sequence[tuple[str | None, ...]], form: Any = None) -> None:
    from dataflows.connectors.contract import Place

    place = Place("p", "c", FilesConnection(type="files", root=str(root)), pattern, None, form)
    try:
        found = [tuple(row.values()) for row in read(FilesConnector.source(place)).to_pylist()]
        gone = len(refused_rows(FilesConnector.source(place)))
    except PenstockError:
        return
    assert len(found) + gone == len(wanted)
    left = iter(wanted)
    for row in found:  # in order, without the refused ones
        assert any(all(same(one, other) for one, other in zip(row, wish, strict=True)) for wish in left), (row, wanted)


def csv_case(factory: pytest.TempPathFactory, files: list[list[tuple[str, str]]], cut: int, mark: str) -> None:
    root, wanted = factory.mktemp("exact"), []
    for at, rows in enumerate(files):
        text = io.StringIO(newline="")
        writer = csv.writer(text, quoting=csv.QUOTE_ALL)
        writer.writerows([("a", "b"), *rows])
        data = text.getvalue()
        if at == len(files) - 1 and mark:
            place = cut % (len(data) + 1)
            data = data[:place] + mark + data[place:]
        (root / f"{at}.csv").write_bytes(data.encode())
        try:
            found = list(csv.reader(io.StringIO(data, newline=""), strict=True))
        except csv.Error:
            found = []
        wanted += [tuple(row) for row in found[1:] if row]
    if any(len(row) != 2 for row in wanted) or mark:  # then it must be read or refused without another exception
        check_only_refused(root)
        return
    check(root, "*.csv", wanted)


def check_only_refused(root: Path) -> None:
    from dataflows.connectors.contract import Place

    place = Place("p", "c", FilesConnection(type="files", root=str(root)), "*.csv", None, CsvFormat(type="csv"))
    try:
        read(FilesConnector.source(place))
    except PenstockError:
        return


def json_case(factory: pytest.TempPathFactory, files: list[list[tuple[str, str]]]) -> None:
    """Write strings and numbers, one object a line, and compare."""
    root, wanted = factory.mktemp("exact"), []
    for at, rows in enumerate(files):
        lines = []
        for row in rows:
            lines.append(
                "{" + ", ".join(f'"{name}": {_token(value)}' for name, value in zip("ab", row, strict=True)) + "}"
            )
            read_back = json.loads(lines[-1], parse_float=str, parse_int=str, parse_constant=str)
            wanted.append(tuple(str(one).lower() if isinstance(one, bool) else one for one in read_back.values()))
        (root / f"{at}.jsonl").write_bytes("".join(f"{line}\n" for line in lines).encode())
    check(root, "*.jsonl", wanted)


def _token(value: str) -> str:
    try:
        json.loads(value, parse_constant=lambda _: 1 / 0)
    except (ValueError, ZeroDivisionError, RecursionError):
        return json.dumps(value, ensure_ascii=False)
    return value if not value.startswith(("[", "{")) else json.dumps(value)


@FEW
@given(tables(), st.integers(0, 1000), st.sampled_from(["", "", "", '"', ",", "\n", "\\", "\r"]))
def test_property_csv_equals_pythons_reader(
    tmp_path_factory: pytest.TempPathFactory, files: list[list[tuple[str, str]]], cut: int, mark: str
) -> None:
    csv_case(tmp_path_factory, files, cut, mark)


@FEW
@given(
    st.lists(
        st.tuples(st.sampled_from(["a", '"b"', '"c\rd"', '"e\n\rf"', '"""\r\n"']), st.sampled_from(ENDS)), min_size=1
    ),
    st.integers(2, 20),
)
def test_property_line_breaks_of_any_kinds_end_a_row(cells: list[tuple[str, str]], size: int) -> None:
    text = "".join(f"{cell},x{end}" for cell, end in cells)
    dialect = Dialect(CsvFormat(type="csv"))
    blocks = list(dialect.blocks(io.BytesIO(text.encode()), "here", size))
    records = [record for block in blocks for record in dialect.records(block, empty=False)]
    assert [record.decode() for _, record in records] == [f"{cell},x" for cell, _ in cells]
    starts = [
        len(list(io.StringIO("".join(f"{a},x{b}" for a, b in cells[:at]), newline=None))) for at in range(len(cells))
    ]
    assert [line for line, _ in records] == [one + 1 for one in starts]


@FEW
@given(tables())
def test_property_json_lines_equal_pythons_reader(
    tmp_path_factory: pytest.TempPathFactory, files: list[list[tuple[str, str]]]
) -> None:
    json_case(tmp_path_factory, files)


@settings(max_examples=200, deadline=None)
@given(
    st.from_regex(r"[+-]?[0-9]{0,12}[0-9]{1,45}(\.[0-9]{1,12}0{0,40})?(e-?[0-9])?", fullmatch=True),
    st.integers(1, 38),
    st.integers(0, 38),
)
@example(str(2**128 + 1), 38, 0)
@example("9" * 39, 38, 0)
@example(f"{2**128}.5", 10, 2)
@example(f"1.{'0' * 40}", 3, 1)
def test_property_a_decimal_is_its_text_or_refused(text: str, precision: int, scale: int) -> None:
    kind = pa.decimal128(precision, min(scale, precision))
    try:
        found = decimals(pa.array([text.removeprefix("+"), None]), kind)
    except pa.ArrowInvalid:
        return
    assert found.to_pylist() == [Decimal(text), None]


@pytest.mark.chaos
@MANY
@given(tables(), st.integers(0, 1000), st.sampled_from(["", "", '"', ",", "\n"]))
def test_property_csv_equals_pythons_reader_at_length(
    tmp_path_factory: pytest.TempPathFactory, files: list[list[tuple[str, str]]], cut: int, mark: str
) -> None:
    csv_case(tmp_path_factory, files, cut, mark)
    json_case(tmp_path_factory, files)
