"""The site of an installation: its server, catalog and log, prepared on entry."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from types import TracebackType
from typing import Final, Self

import psycopg
from psycopg import conninfo, sql

from catalog.migrations import is_current
from catalog.origin import Origin, adopt, check_origin, origin
from penstock import postgres
from penstock.errors import NotFound, Refused
from penstock.kafka_url import is_kafka
from penstock.records import BRAIN_LOCK
from penstock.settings import Settings
from penstock.topics.embedded import EmbeddedServer
from penstock.topics.layout import has_topics
from penstock.topics.log import TopicLog
from penstock.topics.opening import open_log
from penstock.topics.table import TOPICS

__all__ = ["ACTIVE_CONTROL", "Site"]

ACTIVE_CONTROL: Final = BRAIN_LOCK
"""The name of the lock that the active control process holds."""

CATALOG, LOG = "penstock", "penstock_log"
SPARE: Final = "spare-catalog"
"""Lock held by the process that uses the spare catalog."""
SPARE_MARK: Final = "penstock: a spare catalog, dropped once it is compared"
"""The comment on a database that may be dropped as a spare catalog."""


class Site:
    """The installation that `settings` describe; in use while entered.

    Entering starts the embedded server if needed (the last process to leave stops it), creates both databases,
    migrates the catalog's schemas and creates the topics. Every step is idempotent and safe in concurrent processes; if
    the installation is up to date, it takes one query for each database.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.server = EmbeddedServer(settings.home) if settings.embedded else None
        self._catalog = settings.database_url
        self._log = settings.log_url
        self._origin: Origin | None = None

    @property
    def catalog_dsn(self) -> str:
        """The catalog's database."""
        return self.server.dsn(CATALOG) if self.server else self._catalog

    @property
    def log_url(self) -> str:
        """URL of the topics: the database next to the catalog's, or as the setting says, on PostgreSQL or Kafka."""
        return self._log or self.own_log_url

    @property
    def own_log_url(self) -> str:
        """The topics' database next to the catalog's, in use unless the setting names another log."""
        if self.server:
            return self.server.dsn(LOG)
        name = conninfo.conninfo_to_dict(self._catalog).get("dbname") or CATALOG
        return conninfo.make_conninfo(self._catalog, dbname=f"{name}_log")

    def open_log(self, name: str = "log") -> TopicLog:
        """Open a log for use by one thread; the caller closes it."""
        return self.log_opener(name)()

    def log_opener(self, name: str) -> Callable[[], TopicLog]:
        """Return what opens a log; it can be pickled, for a process of its own."""
        return partial(open_log, self.log_url, self.catalog_dsn, name=name, secrets=self.settings.secrets)

    def check(self, log: TopicLog) -> None:
        """Refuse to write or run with a catalog that was not folded from `log`; a catalog without a log adopts it.

        Raises:
            ForeignLog: the log is another one, or an older copy.
        """
        found, self._origin = self._origin or self._look(), None
        check_origin(found, log, f"catalog {postgres.address(self.catalog_dsn)}")
        if found.log is None:
            with closing(postgres.connect(self.catalog_dsn, "penstock:prepare")) as session:
                adopt(session, log.identity())

    def _look(self) -> Origin:
        with closing(postgres.connect(self.catalog_dsn, "penstock:prepare")) as session:
            return origin(session)

    def revive(self) -> None:
        """Restart the embedded server if it has died; its clients reconnect on their own."""
        if self.server:
            self.server.ensure()

    def __enter__(self) -> Self:
        if self.server:
            self.server.acquire()
        try:
            if not self._is_prepared():
                self._prepare()
        except BaseException:
            self._leave()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self._leave()

    def _leave(self) -> None:
        if self.server:
            self.server.release()

    def _is_prepared(self) -> bool:
        try:
            with closing(postgres.connect(self.catalog_dsn, "penstock:prepare")) as session:
                if not is_current(session):
                    return False
                self._origin = origin(session)
            if is_kafka(self._log):
                with self.open_log("prepare") as log:
                    return log.has(list(TOPICS.values()))
            with closing(postgres.connect(self.log_url, "penstock:prepare")) as session:
                return has_topics(session, TOPICS.values())
        except NotFound:  # the database does not exist yet
            return False

    def _prepare(self) -> None:
        from catalog.database import migrate

        if self.server:
            self.server.create_database(CATALOG)
        if not self._log:
            self.create_own_log()
        migrate(self.catalog_dsn)
        with self.open_log("prepare") as log:
            for topic in TOPICS.values():
                log.create(topic)

    def create_own_log(self) -> None:
        """Create the topics' database next to the catalog's, unless it is there."""
        name = LOG if self.server else conninfo.conninfo_to_dict(self.own_log_url)["dbname"]
        self._create(str(name))

    @contextmanager
    def spare_catalog(self) -> Iterator[str]:
        """Create an empty catalog next to this one, in place of one that was left over; yield its DSN, then drop it.

        Raises:
            Refused: another process has it, or a database that was not made here has its name.
        """
        from catalog.database import migrate

        name = f"{conninfo.conninfo_to_dict(self.catalog_dsn).get('dbname') or CATALOG}_spare"
        with self.open_log(SPARE) as log:
            if not log.lock(SPARE, wait=False):
                raise Refused("another process compares the catalog", hint="wait until it is done")
            self._drop_left_over(name)
            self._create(name)
            try:
                self._mark(name)
                dsn = conninfo.make_conninfo(self.catalog_dsn, dbname=name)
                migrate(dsn)
                yield dsn
            finally:
                self._drop(name)

    def _create(self, name: str) -> None:
        if self.server:
            self.server.create_database(name)
            return
        with postgres.connect(self._catalog, "penstock:prepare") as session:
            if session.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone():
                return
            try:
                session.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
            except (psycopg.errors.DuplicateDatabase, psycopg.errors.UniqueViolation):
                return  # another process was faster
            except psycopg.Error as error:
                raise postgres.translated(error, where=f"database {name}") from error

    def _mark(self, name: str) -> None:
        """Note on a database that it may be dropped."""
        comment = sql.SQL("COMMENT ON DATABASE {} IS {}").format(sql.Identifier(name), sql.Literal(SPARE_MARK))
        with postgres.connect(self.catalog_dsn, "penstock:prepare") as session:
            session.execute(comment)

    def _drop_left_over(self, name: str) -> None:
        """Drop a spare catalog that was left over. Raises Refused if the database of this name is not marked as one."""
        query = "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = %s"
        with postgres.connect(self.catalog_dsn, "penstock:prepare") as session:
            found = session.execute(query, [name]).fetchone()
        if found is None:
            return
        if found[0] != SPARE_MARK:
            hint = "rename it, or drop it if nobody needs it: the catalog is compared with a copy of that name"
            raise Refused("exists already, and is no spare catalog", where=f"database {name}", hint=hint)
        self._drop(name)

    def _drop(self, name: str) -> None:
        with postgres.connect(self.catalog_dsn, "penstock:prepare") as session:
            session.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))
