"""MariaDB server with a table of line items, started by the tests' fixture."""

from __future__ import annotations

import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

import pymysql

from benchmarks.parts.tables import LINEITEM
from tests.mariadb import MysqlServer, program

__all__ = ["DATABASE", "served_mysql"]

DATABASE: Final = "bench"
"""Name of the database and of its user, who needs no password."""
DURABLE: Final = ("--innodb-flush-log-at-trx-commit=1", "--innodb-buffer-pool-size=1G")


@contextmanager
def served_mysql(file: Path, part: str, rows: int) -> Iterator[int]:
    """Yield the port of a server with the CSV file's rows in ``lineitem``, and the first `rows` of them in `part`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    home = Path(tempfile.mkdtemp(prefix="pen-", dir="/tmp"))
    server = MysqlServer(home, port, program())
    try:
        server.make()
        server.start(*DURABLE)
        server.query(f"CREATE USER {DATABASE}@'%'")
        server.query(f"GRANT ALL ON *.* TO {DATABASE}@'%'")
        server.query(f"CREATE DATABASE {DATABASE}")
        _fill(server, file, part, rows)
        yield port
    finally:
        server.stop()
        shutil.rmtree(home)


def _fill(server: MysqlServer, file: Path, part: str, rows: int) -> None:
    session = pymysql.connect(unix_socket=server.socket, user="root", database=DATABASE, local_infile=True)
    with closing(session), session.cursor() as cursor:
        for name in ("lineitem", part):
            cursor.execute(f"CREATE TABLE {name} ({LINEITEM}, PRIMARY KEY (l_orderkey, l_linenumber))")
        cursor.execute(
            f"LOAD DATA LOCAL INFILE '{file}' INTO TABLE lineitem FIELDS TERMINATED BY ',' ENCLOSED BY '\"' "
            "IGNORE 1 LINES"
        )
        cursor.execute(f"INSERT INTO {part} SELECT * FROM lineitem LIMIT {rows}")
        session.commit()
        cursor.execute("ANALYZE TABLE lineitem")
