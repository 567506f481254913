"""Where files are kept: one interface for a folder on this machine and a bucket of an object store.

Paths are relative to the connection's root, with ``/`` between their parts. What a sink stands on is `create`: of all
processes that create one path, exactly one succeeds, and what it wrote is durable and whole.
"""

from __future__ import annotations

import contextlib
import os
import stat
import uuid
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Protocol

import pyarrow as pa

from penstock.errors import AccessDenied, OutOfSpace, PenstockError, Refused, Unavailable

__all__ = ["Gone", "Listed", "LocalStore", "Store", "translated"]

NO_SPACE: Final = {28, 122}
"""ENOSPC and EDQUOT."""


class Gone(PenstockError):
    """There is no such file (any more)."""

    code = "files.gone"


@dataclass(frozen=True, slots=True)
class Listed:
    """A file as the store lists it; `version` is another one whenever its content is."""

    path: str
    size: int
    modified: datetime
    version: str


class Store(Protocol):
    """A place for files. Every method raises `Unavailable` or `AccessDenied` where the store cannot be used."""

    remote: bool
    """Whether each request is a round trip."""

    def list(self, folder: str) -> Iterator[Listed]:
        """All files below a folder, sorted by path."""

    def head(self, path: str) -> Listed:
        """One file. Raises `Gone`."""

    def get(self, path: str) -> bytes:
        """All of a small file. Raises `Gone`."""

    def create(self, path: str, data: bytes, *, folder_exists: bool = False) -> bool:
        """Put the file in place as a whole, durably, unless there is one; whether there was none.

        `beside`: only into a folder that is there, as far as the store has folders. Raises `Gone` where there is none.
        """

    def put(self, path: str, data: bytes) -> None:
        """Put the file in place as a whole, durably, whatever there is."""

    def reader(self, path: str) -> Any:
        """An Arrow file to read from, and to seek in. Raises `Gone`."""

    def writer(self, path: str) -> AbstractContextManager[Any]:
        """An Arrow stream to write to; the file is there, durably, when the context ends, and not if it raises."""

    def copy(self, source: str, target: str) -> None:
        """The same content at another path, without reading it; a file there is replaced. Raises `Gone`."""

    def delete(self, paths: Iterable[str]) -> None:
        """Take files away; one that is not there is no error."""


@dataclass(frozen=True, slots=True)
class LocalStore:
    """A folder on this machine, or one that is mounted with the meaning of POSIX (`link` is what creates)."""

    root: Path
    where: str
    remote = False

    def list(self, folder: str) -> Iterator[Listed]:
        with self._translated():
            self.root.stat()
            found = sorted(self._walk(self._at(folder)))
        for path in found:
            with contextlib.suppress(Gone):
                yield self.head(path)

    def _walk(self, folder: Path) -> Iterator[str]:
        try:
            entries = list(os.scandir(folder))
        except (FileNotFoundError, NotADirectoryError):
            return
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):  # a link to a folder may lead round in circles
                yield from self._walk(Path(entry.path))
            elif entry.is_file() and not entry.name.startswith(_TEMPORARY):
                yield Path(entry.path).relative_to(self.root).as_posix()

    def head(self, path: str) -> Listed:
        with self._translated():
            found = self._regular(path).stat()
        modified = datetime.fromtimestamp(found.st_mtime_ns // 1000 / 1e6, UTC)
        return Listed(path, found.st_size, modified, f"{found.st_size}-{found.st_mtime_ns}")

    def get(self, path: str) -> bytes:
        with self._translated():
            return self._regular(path).read_bytes()

    def create(self, path: str, data: bytes, *, folder_exists: bool = False) -> bool:
        with self._temporary_file(path, data, folder_exists=folder_exists) as temporary:
            try:
                os.link(temporary, self._at(path))
            except FileExistsError:
                return False
            finally:
                temporary.unlink()
        return True

    def put(self, path: str, data: bytes) -> None:
        with self._temporary_file(path, data) as temporary:
            temporary.replace(self._at(path))

    @contextmanager
    def _temporary_file(self, path: str, data: bytes, *, folder_exists: bool = False) -> Iterator[Path]:
        """A file of that content beside `path`, under another name; afterwards the folder is made durable."""
        with self._translated():
            temporary = self._temporary(path, folder_exists=folder_exists)
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            yield temporary
            _sync(temporary.parent)

    def reader(self, path: str) -> Any:
        with self._translated():
            return pa.OSFile(str(self._regular(path)))

    @contextmanager
    def writer(self, path: str) -> Iterator[Any]:
        with self._translated():
            temporary = self._temporary(path)
            try:
                with pa.OSFile(str(temporary), "wb") as stream:
                    yield stream
                _sync(temporary)
                temporary.replace(self._at(path))
                _sync(temporary.parent)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise

    def copy(self, source: str, target: str) -> None:
        with self._translated():
            temporary = self._temporary(target)
            os.link(self._at(source), temporary)
            temporary.replace(self._at(target))  # does nothing where both are the same file already
            temporary.unlink(missing_ok=True)
            _sync(temporary.parent)

    def delete(self, paths: Iterable[str]) -> None:
        with self._translated():
            for path in paths:
                self._at(path).unlink(missing_ok=True)

    def _temporary(self, path: str, *, folder_exists: bool = False) -> Path:
        """A new name in the folder of `path`, which is made; but never the root, which may be a share that is away."""
        found = self._at(path).with_name(f"{_TEMPORARY}{uuid.uuid4().hex}")
        if not folder_exists:
            self.root.stat()
            found.parent.mkdir(parents=True, exist_ok=True)
        return found

    def _at(self, path: str) -> Path:
        """Where a path lies.

        Raises:
            Refused: outside of the root, by its parts or by a link among its folders.
        """
        found = self.root / path
        if path and (found.name == ".." or not found.parent.resolve().is_relative_to(self.root.resolve())):
            raise self._outside(path)
        return found

    def _regular(self, path: str) -> Path:
        """A file that may be opened: a link only to one below the root, and nothing that could keep us waiting."""
        found = self._at(path)
        mode = found.stat().st_mode
        if not found.resolve().is_relative_to(self.root.resolve()):
            raise self._outside(path)
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            hint = "name a regular file; a pipe, device or socket is not read"
            raise Refused("it is no regular file", where=self.where, value=path, hint=hint)
        return found

    def _outside(self, path: str) -> Refused:
        hint = "what a pipeline reads and writes lies below the connection's `root`: copy it there, or move the root"
        return Refused("it leads out of the connection's root", where=self.where, value=path, hint=hint)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            with translated(self.where):
                yield
        except Gone as error:
            if self.root.is_dir():
                raise
            hint = "make it, or mount what it is on, then run again"
            what = "the connection's folder is not there"
            raise Unavailable(what, where=self.where, value=str(self.root), hint=hint) from error


@contextmanager
def translated(where: str) -> Iterator[None]:
    """Raise what the system says of a file as an error of ours; an `OSError` of Arrow's own, without a number, stays.

    Raises:
        Gone, AccessDenied, OutOfSpace, Unavailable: whatever it was.
    """
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        name = Path(str(error.filename)).name
        raise Gone("the file is gone", where=where, value=name, hint="run it again") from error
    except PermissionError as error:
        hint = "this user needs to read, or to write, below the connection's root"
        raise AccessDenied("the file system refuses access", where=where, hint=hint) from error
    except OSError as error:
        if error.errno in NO_SPACE:
            raise OutOfSpace("the disk or quota is full", where=where, hint="make room") from error
        if error.errno is None:
            raise
        what = f"the file system failed: {os.strerror(error.errno)}"
        raise Unavailable(what, where=where, hint="try again") from error


_TEMPORARY: Final = "._penstock-"


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
