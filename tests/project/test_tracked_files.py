from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def tracked_files(tool: Callable[[str], ModuleType]) -> ModuleType:
    return tool("tracked_files")


@pytest.mark.parametrize(
    ("name", "data", "refusal"),
    [
        ("notes.md", b"text\n", None),
        ("data.csv", b"1,2\n" * 250_000, None),
        ("data.csv", b"1,2\n" * 250_001, "has 1000004 bytes"),
        ("py_spy-0.4.0-manylinux.whl", b"text", "is of the binary kind whl"),
        ("LOGO.PNG", b"", "is of the binary kind png"),
        ("table.csv.gz", b"", "is of the binary kind gz"),
        ("libpq.so.5", b"", "is of the binary kind so"),
        ("program", b"\x7fELF\x00", "contains a NUL byte"),
        ("long.py", b"pass\n" * 400, None),
        ("long.py", b"pass\n" * 401, "has 401 lines"),
    ],
)
def test_a_large_or_binary_file_is_refused(
    tracked_files: ModuleType, tmp_path: Path, name: str, data: bytes, refusal: str | None
) -> None:
    (tmp_path / name).write_bytes(data)
    found = tracked_files.findings(tmp_path, [name], {})
    assert found == [] if refusal is None else found[0].startswith(f"{name}: {refusal}")
    assert tracked_files.findings(tmp_path, [name], {name: "a reason"}) == []


def test_an_allowed_file_that_is_gone_is_reported(tracked_files: ModuleType, tmp_path: Path) -> None:
    assert tracked_files.findings(tmp_path, [], {"gone.png": "a reason"}) == ["gone.png: is allowed, but not tracked"]


def test_a_file_deleted_from_the_work_tree_is_skipped(tracked_files: ModuleType, tmp_path: Path) -> None:
    assert tracked_files.findings(tmp_path, ["deleted.whl"], {}) == []


def test_every_allowed_file_has_a_reason(tracked_files: ModuleType) -> None:
    assert all(tracked_files.ALLOWED.values())
