"""A file has its name only once its bytes are on the disk, and the name is there when the call returns."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dataflows.connectors.files.store import LocalStore
from tests.s3 import SECRET


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The calls that matter, in order: a sync of a file or of the folder, and a name that is given."""
    made: list[str] = []

    def noted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            made.append(name)
            return function(*arguments, **options)

        return call

    def sync(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        whole = path.is_dir() or path.read_bytes() == b"rows"
        made.append(f"sync {'folder' if path == tmp_path / 'folder' else 'file' if whole else 'half a file'}")

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "link", noted("name", os.link))
    monkeypatch.setattr(Path, "replace", noted("name", Path.replace))
    return made


def test_bytes_are_synced_before_the_name_and_the_name_before_the_return(tmp_path: Path, calls: list[str]) -> None:
    store, durable = LocalStore(tmp_path, "here"), ["sync file", "name", "sync folder"]
    assert store.create("folder/a", b"rows")
    assert calls == durable
    calls.clear()
    assert not store.create("folder/a", b"rows")
    store.put("folder/a", b"rows")
    assert calls == durable * 2
    calls.clear()
    with store.writer("folder/b") as stream:
        stream.write(b"rows")
    assert calls == durable
    calls.clear()
    store.copy("folder/b", "folder/c")
    assert calls == ["name", "name", "sync folder"]
    store.copy("folder/b", "folder/c")  # by then the same file
    assert sorted(path.name for path in (tmp_path / "folder").iterdir()) == ["a", "b", "c"]


def test_a_file_that_is_given_up_leaves_nothing(tmp_path: Path) -> None:
    store = LocalStore(tmp_path, "here")
    with pytest.raises(KeyError), store.writer("folder/b") as stream:  # noqa: PT012 - it fails in the middle
        stream.write(b"ro")
        raise KeyError
    assert list((tmp_path / "folder").iterdir()) == []


def test_a_file_whose_folder_is_gone_is_given_up_for_the_reason_it_had(tmp_path: Path) -> None:
    with pytest.raises(KeyError), LocalStore(tmp_path, "here").writer("folder/b") as stream:  # noqa: PT012 - as above
        stream.write(b"ro")
        shutil.rmtree(tmp_path / "folder")
        raise KeyError


def test_objects_that_stand_for_folders_are_no_files(new_files: Any) -> None:
    """Consoles and Hadoop write them; they are no files to read, and have no name that says a format."""
    from botocore.session import get_session

    files = new_files("s3")
    bucket, _, prefix = files.connection["url"].removeprefix("s3://").partition("/")
    keys = {"aws_access_key_id": "penstock", "aws_secret_access_key": SECRET, "region_name": "us-east-1"}
    client = get_session().create_client("s3", endpoint_url=files.connection["endpoint"], **keys)
    for name in ("in/", "in/empty/", "in/t.csv/", "in/sub_$folder$", "in/none.csv"):
        client.put_object(Bucket=bucket, Key=f"{prefix}/{name}".lstrip("/"), Body=b"")
    for name in ("in/a.csv", "in/t.csv/b.csv"):
        files.write(name, b"id\n1\n")
    client.close()
    wanted = ["in/a.csv", "in/none.csv", "in/t.csv/b.csv"]
    assert [one.path for one in files.store.list("in")] == wanted == [one.path for one in files.source("in").files()]
    assert files.store.level("in") == (["in/empty", "in/t.csv"], ["in/a.csv", "in/none.csv"])
    assert files.source("in").describe().columns[0].name == "id"
