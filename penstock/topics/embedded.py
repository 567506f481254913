"""The embedded PostgreSQL: started when first needed, shared by every process, stopped by the last one that uses it.

After a kill -9 only a lock is reliable, not a pid file: the server itself holds a `flock` on a descriptor that it
inherits, so a free lock means that none of its processes lives and its leftovers may be removed. `pg_ctl status` and
pid files may be wrong. A connection shows whether it answers.

The server runs as an unprivileged account and listens on a Unix socket only, in a folder that only this account (and
root) can enter; it asks the system which account a client is (peer). Permissions of folders above its home are never
changed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final

import psycopg
from psycopg import conninfo, pq, sql

from penstock import postgres
from penstock.disk import is_full
from penstock.errors import OutOfSpace, Unavailable
from penstock.topics.binaries import copied, wheel_programs
from penstock.topics.server_paths import Account, ServerPaths, account_for, paths_for, system_error

__all__ = ["EmbeddedServer"]

USER: Final = "penstock"
START_SECONDS: Final = 60.0
"""Seconds that a start or stop may take."""

_FULL: Final = ("No space left on device", "Disk quota exceeded", "Check free disk space")
_ERROR_LINES: Final = re.compile(r"(?:LOG|ERROR|FATAL|PANIC|error): +(.*)")
"""The lines of a program's output that an error message repeats."""

CONFIGURATION: Final = MappingProxyType(
    {
        "listen_addresses": "",
        "unix_socket_permissions": "0700",
        "max_connections": "160",
        "shared_buffers": "16MB",
        "max_wal_size": "256MB",
        "wal_level": "minimal",
        "max_wal_senders": "0",
        "fsync": "on",
        "synchronous_commit": "on",
        "autovacuum": "on",
        "autovacuum_max_workers": "1",
        "autovacuum_worker_slots": "1",
        "max_worker_processes": "2",
        "max_parallel_workers": "0",
        "max_logical_replication_workers": "0",
        "io_method": "sync",
        "jit": "off",
        "timezone": "UTC",
        "log_timezone": "UTC",
        "log_checkpoints": "off",
    }
)


class EmbeddedServer:
    """The server with its data in `home`.

    Any number of objects, threads and processes may name the same home; they share one server. `user` is the account
    that the server gets when this process is root (by default the owner of the folder, or `penstock-server`, an account
    of its own that is created if needed); without root it is always the caller's own. `home` becomes private to that
    account, mode 0700, so use a folder for this and nothing else. `configuration` overrides the server's settings.

    Where that account cannot reach `home` (for example below a folder of mode 0700), the data are stored under
    /var/lib/penstock instead, and the file MOVED in `home` says where. Moving the project keeps them; a copy of
    the project shares them until its MOVED is deleted.
    """

    def __init__(
        self, home: Path, user: str | None = None, *, configuration: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        self.home = home.absolute()
        self._user = user
        self._configuration = {**CONFIGURATION, **configuration}
        self._leases: list[int] = []
        self._guard = threading.Lock()
        self._found: tuple[Account, ServerPaths] | None = None
        self._started: int | None = None

    def ensure(self) -> None:
        """Start the server unless it runs; return once it answers.

        Recovers by itself from whatever a kill -9 or a crash left. Raises Unavailable, OutOfSpace or AccessDenied.
        """
        with self._start_lock():
            self._start()

    def acquire(self) -> None:
        """`ensure`, and keep the server running until `release`, or the end of this process."""
        with self._start_lock():
            self._start()
            users = self._open("users")
            fcntl.flock(users, fcntl.LOCK_SH)
            self._leases.append(users)
            self._started = self._pid()

    @property
    def gone(self) -> bool:
        """True if the folder was deleted while the server was in use: nothing may be created in it again."""
        return bool(self._leases) and not self.home.exists()

    @property
    def used(self) -> bool:
        """True if a process has a lease."""
        with self._start_lock():
            return not self._unused()

    def release(self) -> None:
        """Return one lease; the last one of all processes stops the server. If the folder is gone, end it at once."""
        if self.gone:
            os.close(self._leases.pop())
            self._end_of_deleted()
            return
        with self._start_lock():
            os.close(self._leases.pop())
            if self._unused():
                self._stop()

    @contextlib.contextmanager
    def lease(self) -> Iterator[None]:
        """`acquire` and `release` around a block."""
        self.acquire()
        try:
            yield
        finally:
            self.release()

    def stop(self) -> None:
        """Stop the server at once, even if others use it; open transactions are rolled back."""
        with self._start_lock():
            self._stop()

    def remove(self) -> None:
        """Stop the server and delete its data and this object's leases; only if no other process uses it."""
        with self._start_lock():
            self._stop()
            while self._leases:
                os.close(self._leases.pop())
            for folder in {self._where()[1].root, self._where()[1].socket, self.home}:
                shutil.rmtree(folder, ignore_errors=True)
            self._found = None

    @property
    def folder(self) -> Path:
        """The folder that contains the data, the server's log and the locks."""
        return self._where()[1].root

    @property
    def pid(self) -> int | None:
        """The server's process id, or None when no server runs."""
        alive = self._alive()
        if alive is not None:
            os.close(alive)
            return None
        return self._pid()

    def dsn(self, database: str) -> str:
        """Return the conninfo of a database of this server (see `create_database`)."""
        place = self._where()[1]
        return conninfo.make_conninfo("", host=str(place.socket), user=USER, dbname=database)

    def create_database(self, name: str, *, template: str | None = None) -> None:
        """Create the database unless it exists."""
        with postgres.connect(self.dsn("postgres"), "penstock:embedded") as session:
            if session.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone():
                return
            statement = sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name))
            if template:
                statement += sql.SQL(" TEMPLATE {}").format(sql.Identifier(template))
            try:
                session.execute(statement)
            except (psycopg.errors.DuplicateDatabase, psycopg.errors.UniqueViolation):
                return  # another process was faster
            except psycopg.Error as error:
                raise postgres.translated(error, where=f"database {name}") from error

    # -- starting: all of it under the start lock --

    def _start(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while (alive := self._alive()) is None:
            if self._answers():
                return
            if time.monotonic() > deadline:
                hint = f"see {self._log}; end the processes that hold {self._where()[1].root / 'alive'}"
                raise Unavailable("a server process is alive but does not answer", where=str(self.home), hint=hint)
            time.sleep(0.02)
        try:
            self._take_over()
            self._begin(alive)
        finally:
            os.close(alive)

    def _begin(self, alive: int) -> None:
        account, place = self._where()
        programs = _programs_for(account, place)
        self._shorten_log()
        if not place.data.exists():
            self._initialise(alive, programs)
        self._configure()
        socket = place.socket / ".s.PGSQL.5432"
        for left in (place.data / "postmaster.pid", socket, socket.with_suffix(".5432.lock")):
            left.unlink(missing_ok=True)
        command = [programs / "pg_ctl", "-w", "-t", int(START_SECONDS), "-o", f"-k {place.socket}", "start"]
        try:
            self._run(command, "the embedded PostgreSQL does not start", keep=alive, PGDATA=str(place.data))
            with postgres.connect(self.dsn("postgres"), "penstock:embedded") as session:
                session.execute("SELECT 1")
        except BaseException:
            self._end_started()
            raise

    def _take_over(self) -> None:
        """Give the data to the server's account if another one has them: earlier releases ran as `nobody`."""
        account, place = self._where()
        if account.other and place.data.exists() and place.data.stat().st_uid != account.uid:
            for folder, folders, files in os.walk(place.root):
                for name in (".", *folders, *files):
                    account.own(Path(folder, name))

    def _end_started(self) -> None:
        """End the server that this call started, so that the next command need not wait for it."""
        pid = self._pid()
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGQUIT)

    def _initialise(self, alive: int, programs: Path) -> None:
        """Create the data in a folder next to it, then rename it: data that exist are complete."""
        account, place = self._where()
        fresh = place.root / "data.new"
        shutil.rmtree(fresh, ignore_errors=True)
        options = ("-U", USER, "--auth=peer", "-E", "UTF8", "--locale=C.UTF-8")
        self._run(
            [programs / "initdb", "-D", fresh, *options], "the embedded PostgreSQL cannot create its data", keep=alive
        )
        account.own(fresh)
        fresh.rename(place.data)

    def _configure(self) -> None:
        """Write our settings as a file that postgresql.conf includes last; what `ALTER SYSTEM` set still wins."""
        account, place = self._where()
        hba, ident = place.data / "penstock_hba.conf", place.data / "penstock_ident.conf"
        configuration = {**self._configuration, "hba_file": str(hba), "ident_file": str(ident)}
        files = {
            place.data / "penstock.conf": "".join(
                f"{name} = {_configured(value)}\n" for name, value in configuration.items()
            ),
            hba: "local all all peer map=penstock\n",
            ident: "".join(f'penstock "{name}" {USER}\n' for name in dict.fromkeys((account.name, "root"))),
        }
        for path, text in files.items():
            path.write_text(text)
            account.own(path)
        main = place.data / "postgresql.conf"
        include = "include = 'penstock.conf'\n"
        if not main.read_text().endswith(include):
            with main.open("a") as file:
                file.write(include)

    def _run(self, command: Sequence[object], problem: str, *, keep: int, **environment: str) -> None:
        """Run a program of the wheel as the server's account; its output goes to a file, which the server inherits."""
        account, place = self._where()
        try:
            before = self._log.stat().st_size if self._log.exists() else 0
            with os.fdopen(self._open("server.log", os.O_APPEND), "ab") as log:
                done = subprocess.run(
                    [str(part) for part in command],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=place.root,
                    env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "TZ": "UTC", **environment},
                    timeout=START_SECONDS + 10,
                    pass_fds=(keep,),
                    check=False,
                    **account.options(),
                )
        except (OSError, subprocess.SubprocessError) as error:
            raise Unavailable(problem, where=str(self.home), hint=str(error)) from error
        if done.returncode:
            raise self._failure(problem, before)

    def _failure(self, problem: str, before: int) -> Unavailable:
        said = self._log.read_bytes()[before:].decode(errors="replace")
        if any(sign in said for sign in _FULL) or is_full(self.home):
            return OutOfSpace(problem, where=str(self.home), hint="the disk is full: free some space, then try again")
        errors = " / ".join(found[1] for found in _ERROR_LINES.finditer(said))
        return Unavailable(problem, where=str(self.home), hint=f"{errors[-500:] or said[-500:]} (see {self._log})")

    # -- stopping --

    def _stop(self) -> None:
        deadline, asked = time.monotonic() + START_SECONDS, False
        while (alive := self._alive()) is None:
            if not asked and self._answers():  # so the pid file is right
                pid = self._pid()
                if pid is not None:
                    os.kill(pid, signal.SIGINT)
                    asked = True
            if time.monotonic() > deadline:
                hint = f"see {self._log}"
                raise Unavailable("the embedded PostgreSQL does not stop", where=str(self.home), hint=hint)
            time.sleep(0.01)
        os.close(alive)

    def _end_of_deleted(self) -> None:
        """End the server of a folder that is gone, and with it the pid file; its pid is that of its start."""
        with contextlib.suppress(OSError):
            command = Path(f"/proc/{self._started}/cmdline").read_bytes()
            if self._started is not None and os.fsencode(self._where()[1].socket) in command.split(b"\0"):
                os.kill(self._started, signal.SIGQUIT)

    def _unused(self) -> bool:
        users = self._open("users")
        try:
            fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        finally:
            os.close(users)
        return True

    # -- state --

    def _where(self) -> tuple[Account, ServerPaths]:
        if self._found is None:
            account = account_for(self.home, self._user)
            self._found = (account, paths_for(self.home, account))
        return self._found

    @property
    def _log(self) -> Path:
        return self._where()[1].root / "server.log"

    @contextlib.contextmanager
    def _start_lock(self) -> Iterator[None]:
        with self._guard, contextlib.ExitStack() as stack:
            try:
                lock = self._open("lock")
                stack.callback(os.close, lock)
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield
            except OSError as error:
                raise system_error(error, self.home) from error

    def _alive(self) -> int | None:
        """Take the lock that the server holds while any of its processes lives; None if the server holds it."""
        alive = self._open("alive")
        try:
            fcntl.flock(alive, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(alive)
            return None
        return alive

    def _open(self, name: str, flags: int = 0) -> int:
        account, place = self._where()
        return account.open(place.root / name, flags | os.O_RDWR | os.O_CREAT)

    def _answers(self) -> bool:
        return pq.PGconn.ping(self.dsn("postgres").encode()) == pq.Ping.OK

    def _pid(self) -> int | None:
        try:
            return int((self._where()[1].data / "postmaster.pid").read_text().split()[0])
        except (OSError, ValueError, IndexError):
            return None

    def _shorten_log(self) -> None:
        if self._log.exists() and self._log.stat().st_size > 4 * 1024 * 1024:
            self._log.replace(self._log.with_suffix(".log.1"))


def _programs_for(account: Account, place: ServerPaths) -> Path:
    programs = wheel_programs()
    return programs if account.can_run(programs / "postgres") else copied(place.root)


def _configured(value: str) -> str:
    """Return a value as a configuration file has it."""
    return "'" + value.replace("\\", "\\\\").replace("'", "''") + "'"
