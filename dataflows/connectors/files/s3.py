"""S3, and servers with its protocol, as a store; `create` is a PUT with ``If-None-Match: *``."""

from __future__ import annotations

import contextlib
import io
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import obstore
import pyarrow as pa
from obstore.exceptions import AlreadyExistsError, BaseError, NotSupportedError, PreconditionError
from obstore.store import S3Store as Client

from dataflows.connectors.files.names import is_hidden
from dataflows.connectors.files.s3_errors import translation
from dataflows.connectors.files.store import Listed
from dataflows.connectors.formats.contract import ending_of
from penstock.errors import AccessDenied
from penstock.models.connection import S3Connection
from penstock.models.secrets import resolve

__all__ = ["S3Store"]

READ_BYTES: Final = 4 << 20
WRITE_BYTES: Final = 8 << 20
REQUEST_TIMEOUT: Final = timedelta(seconds=30)
CONNECT_TIMEOUT: Final = timedelta(seconds=5)
DELETE_BATCH: Final = 1000


@dataclass(frozen=True, slots=True)
class S3Store:
    """A prefix of a bucket. Failed requests are retried for 30 s."""

    client: Client
    where: str
    remote = True

    @classmethod
    def of(cls, connection: S3Connection, *, name: str, where: str, secrets: Path | None = None) -> S3Store:
        """Open the bucket of a connection, its keys resolved; does not contact the server yet."""
        bucket, _, prefix = connection.url.removeprefix("s3://").partition("/")
        given = {
            "endpoint": connection.endpoint,
            "region": connection.region,
            "access_key_id": _secret(connection.access_key, name, secrets),
            "secret_access_key": _secret(connection.secret_key, name, secrets),
            "session_token": _secret(connection.session_token, name, secrets),
        }
        config: Any = {key: value for key, value in given.items() if value is not None}
        plain = (connection.endpoint or "").startswith("http://")
        client = Client(
            bucket,
            prefix=prefix.strip("/") or None,
            config=config,
            client_options={"allow_http": plain, "timeout": REQUEST_TIMEOUT, "connect_timeout": CONNECT_TIMEOUT},
            retry_config={"max_retries": 6, "retry_timeout": REQUEST_TIMEOUT},
        )
        return cls(client, where)

    def list(self, folder: str) -> Iterator[Listed]:
        with self._translated():
            pages = obstore.list(self.client, prefix=folder or None, chunk_size=1000)
            yield from without_markers(_listed(meta) for page in pages for meta in page)

    def level(self, folder: str) -> tuple[Sequence[str], Sequence[str]]:
        with self._translated():
            found = obstore.list_with_delimiter(self.client, prefix=folder or None)
        folders = sorted(one.rstrip("/") for one in found["common_prefixes"])
        files = {one.path for one in without_markers(map(_listed, found["objects"]))}
        return folders, sorted(files.difference(folders, [folder]))

    def head(self, path: str) -> Listed:
        with self._translated(path):
            return _listed(obstore.head(self.client, path))

    def get(self, path: str) -> bytes:
        with self._translated(path):
            return bytes(obstore.get(self.client, path).bytes())

    def create(self, path: str, data: bytes, *, folder_exists: bool = False) -> bool:
        with self._translated():
            try:
                obstore.put(self.client, path, data, mode="create", use_multipart=False)
            except (AlreadyExistsError, PreconditionError):
                return False
        return True

    def put(self, path: str, data: bytes) -> None:
        with self._translated():
            obstore.put(self.client, path, data, use_multipart=False)

    def reader(self, path: str) -> Any:
        with self._translated(path):
            return pa.PythonFile(_Reader(self, path), mode="r")

    @contextmanager
    def writer(self, path: str) -> Iterator[Any]:
        with self._translated():
            target = obstore.open_writer(self.client, path, buffer_size=WRITE_BYTES)
            yield pa.PythonFile(_Writer(self, target), mode="w")
            target.close()  # this creates the object; without it, nothing becomes visible

    def copy(self, source: str, target: str) -> None:
        with self._translated(source):
            obstore.copy(self.client, source, target)

    def delete(self, paths: Iterable[str]) -> None:
        names = list(paths)
        with self._translated():
            for start in range(0, len(names), DELETE_BATCH):
                try:
                    obstore.delete(self.client, names[start : start + DELETE_BATCH])
                except FileNotFoundError:
                    continue

    def missing_grant(self, folder: str) -> tuple[str, str] | None:
        """Return why no object can be created, by a PUT on the condition that an object exists that does not.

        The right to write is checked before the condition, so that one is refused and the other fails.
        """
        path = f"{folder}/_penstock/{uuid.uuid4().hex}".lstrip("/")
        try:
            with self._translated(path), contextlib.suppress(PreconditionError, NotSupportedError, NotImplementedError):
                obstore.put(self.client, path, b"", mode={"e_tag": '"0"'}, use_multipart=False)
                self.delete([path])  # a server that ignores conditions has written it
        except AccessDenied:
            rights = "allow it s3:PutObject, s3:GetObject, s3:DeleteObject and s3:ListBucket there"
            return f"this access key may not write to {self.where_is(folder)}", rights
        return None

    def where_is(self, folder: str) -> str:
        """Return the URL of a folder."""
        parts = (self.client.config.get("bucket", ""), self.client.prefix or "", folder)
        return "s3://" + "/".join(filter(None, parts))

    @contextmanager
    def _translated(self, path: str | None = None) -> Iterator[None]:
        """Translate the client's errors."""
        try:
            yield
        except (BaseError, OSError, NotImplementedError) as error:  # streams raise OSError, with the same texts
            raise translation(error, self.where, path) from None


def _secret(value: str | None, name: str, secrets: Path | None) -> str | None:
    return None if value is None else resolve(value, where=f"connection {name}", secrets=secrets)


def without_markers(listed: Iterable[Listed]) -> Iterator[Listed]:
    """Leave out the empty objects by which tools represent folders: ``raw/``, here ``raw``, or ``raw_$folder$``.

    They come before what is in their folder. Without a known ending, an empty object is one even of an empty folder.
    """
    last: Listed | None = None
    for one in listed:
        if last is not None and not one.path.startswith(f"{last.path}/"):
            yield last
        last = None
        if one.size:
            yield one
        elif ending_of(one.path) is not None or is_hidden(one.path):
            last = one
    if last is not None:
        yield last


def _listed(meta: Any) -> Listed:
    version = (meta["e_tag"] or f"{meta['size']}-{meta['last_modified'].timestamp()}").strip('"')
    return Listed(meta["path"], meta["size"], meta["last_modified"], version)


class _Reader(io.RawIOBase):
    """Reads ranges, a few megabytes ahead; its errors keep their type on the way through Arrow."""

    def __init__(self, store: S3Store, path: str) -> None:
        self._store, self._path = store, path
        self._inner = obstore.open_reader(store.client, path, buffer_size=READ_BYTES)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def size(self) -> int:
        return int(self._inner.size)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return int(self._inner.seek(offset, whence))

    def tell(self) -> int:
        return int(self._inner.tell())

    def read(self, size: int = -1, /) -> bytes:
        with self._store._translated(self._path):  # noqa: SLF001 - two halves of one thing
            return bytes(self._inner.read(None if size < 0 else size))


class _Writer(io.RawIOBase):
    """Writes bytes to a multipart upload."""

    def __init__(self, store: S3Store, inner: Any) -> None:
        self._store, self._inner, self._at = store, inner, 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def write(self, data: Any, /) -> int:
        view = bytes(data)
        with self._store._translated():  # noqa: SLF001 - two halves of one thing
            self._inner.write(view)
        self._at += len(view)
        return len(view)
