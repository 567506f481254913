"""Settings: the environment over `penstock.toml` over defaults, as one frozen object."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from shlex import quote
from typing import Any

from psycopg import ProgrammingError, conninfo

from penstock.errors import NotFound, SettingsError, did_you_mean
from penstock.kafka_url import KafkaUrl, is_kafka
from penstock.postgres import address

__all__ = ["FILE", "PREFIX", "Settings", "load"]

FILE = "penstock.toml"
PREFIX = "PENSTOCK_"
MAX_PORT = 65535
"""The highest port, and the limit of every number in the settings."""
_OF_PROJECTS = (FILE, "connections.yaml", "pipelines", "policies")
_KEYS = {"mask_key", "openlineage_key"}
_URL = re.compile(r"https?://[^\s/@?#]+(/[^\s@?#]*)?")
_READ_ELSEWHERE = {"PENSTOCK_PROJECT", "PENSTOCK_TRACES", "PENSTOCK_FAILPOINT", "PENSTOCK_DEBUG"}


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings, each as ``PENSTOCK_<NAME>`` or as a key of `penstock.toml`.

    Attributes:
        project: the project's folder; relative paths start there.
        home: where the embedded server, run logs and results live (default ``<project>/.penstock``).
        database_url: PostgreSQL 15 or newer for the catalog; empty = the embedded server.
        log_url: PostgreSQL 15 or newer for the topics, or ``kafka://HOST:PORT[,HOST:PORT]`` (see `KafkaUrl`);
            empty = database ``<catalog's>_log`` on the catalog's server.
        slots: batch runs at once on one worker; 0 = one more than the cores, since a run also waits.
        host: the address that health and readiness are served on.
        port: … and its port; 0 = a free one.
        python_modules: modules whose functions `python` steps may call, separated by commas; none by default.
        mask_key: a reference to the key of `mask: hash`, such as ``${env:PENSTOCK_SECRET_MASK_KEY}``.
        seals: the file that copies of the log's seals are written to (default ``seals.jsonl`` in `home`); best on a
            disk that who may write to the database cannot write to.
        openlineage: URL that takes the events of OpenLineage, ``https://HOST/api/v1/lineage``; empty = none are sent.
        openlineage_key: a reference to the token that it asks for.
    """

    project: Path
    home: Path
    database_url: str = ""
    log_url: str = ""
    slots: int = 0
    host: str = "127.0.0.1"
    port: int = 8088
    python_modules: str = ""
    mask_key: str = ""
    seals: str = ""
    openlineage: str = ""
    openlineage_key: str = ""

    @property
    def embedded(self) -> bool:
        """True if the embedded server carries catalog and topics."""
        return not self.database_url

    @property
    def parallel(self) -> int:
        """Batch runs at once on one worker."""
        return self.slots or (os.cpu_count() or 1) + 1

    @property
    def modules(self) -> tuple[str, ...]:
        """Modules whose functions steps may call."""
        return tuple(name.strip() for name in self.python_modules.split(",") if name.strip())

    @property
    def secrets(self) -> Path:
        """The project's own folder of secret files."""
        return self.project / "secrets"

    @property
    def seals_file(self) -> Path:
        """The file of copies of the log's seals."""
        return self.project / self.seals if self.seals else self.home / "seals.jsonl"

    def shown(self) -> dict[str, str]:
        """Return every setting as text; of a database its address, without a password."""
        found = {f.name: _shown(f.name, getattr(self, f.name)) for f in fields(self)}
        return found if self.slots else found | {"slots": f"{self.parallel}, one more than the cores"}

    def check_project(self) -> None:
        """Check that there is a project, before a server is made for it.

        Raises:
            NotFound: its folder has none of a project's files, and no server.
        """
        found = (self.project / name for name in _OF_PROJECTS)
        if self.embedded and not self.home.exists() and not any(path.exists() for path in found):
            where, below = str(self.project), [path.parent.name for path in self.project.glob(f"*/{FILE}")]
            make = f"name its folder by --project; or make one: penstock init {quote(where)}"
            hint = f"cd {quote(below[0])}" if len(below) == 1 else make
            raise NotFound("there is no project in this folder", where=where, hint=hint)


def load(project: Path | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """Return the settings of the project in `project`, else of ``PENSTOCK_PROJECT``, else of the working directory.

    Raises:
        SettingsError: an unknown name, a value of the wrong type, a file that is not TOML.
    """
    env = os.environ if environ is None else environ
    folder = (project or Path(env.get("PENSTOCK_PROJECT") or ".")).expanduser().resolve()
    values = _from_file(folder / FILE) | _from_environment(env)
    home = Path(values.pop("home", folder / ".penstock")).expanduser()
    kafka = is_kafka(values.get("log_url", ""))
    if kafka:
        KafkaUrl.parse(values["log_url"])
    for name in ("database_url",) if kafka else ("database_url", "log_url"):
        _check_dsn(name, values.get(name, ""))
    if values.get("log_url") and not values.get("database_url") and not kafka:
        raise SettingsError("`log_url` is set without `database_url`", where=FILE, hint="set both, or neither")
    return Settings(project=folder, home=home if home.is_absolute() else folder / home, **values)


def _from_file(path: Path) -> dict[str, Any]:
    try:
        data = tomllib.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"cannot be read: {error}", where=str(path), hint="see `penstock settings`") from error
    return {name: _value(name, value, f"{path}: {name}") for name, value in data.items()}


def _from_environment(env: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for variable, text in env.items():
        if not variable.startswith(PREFIX) or variable.startswith("PENSTOCK_SECRET_") or variable in _READ_ELSEWHERE:
            continue
        name = variable.removeprefix(PREFIX).lower()
        found[name] = _value(name, text, variable)
    return found


def _value(name: str, value: object, where: str) -> Any:
    known = {f.name: f.type for f in fields(Settings) if f.name != "project"}
    if name not in known:
        raise SettingsError(
            "is not a setting", where=where, hint=did_you_mean(name, known) or "see `penstock settings`"
        )
    if known[name] == "int":
        return _whole(value, where)
    if not isinstance(value, str):
        raise SettingsError("must be text", where=where)
    if name in _KEYS and value and not _is_reference(value):
        hint = f"write ${{env:PENSTOCK_SECRET_{name.upper()}}}, or ${{file:…}} below secrets/"
        raise SettingsError("must be a reference to a secret", where=where, hint=hint)
    if name == "openlineage" and value and not _URL.fullmatch(value):
        # Without the value: a login may be in it.
        raise SettingsError("must be a URL without a login", where=where, hint="write https://HOST/api/v1/lineage")
    return value


def _is_reference(value: str) -> bool:
    from penstock.models.secrets import is_reference

    return is_reference(value)


def _whole(value: object, where: str) -> int:
    try:
        number = int(value) if isinstance(value, str | int) and not isinstance(value, bool) else -1
    except ValueError:
        number = -1
    if not 0 <= number <= MAX_PORT:
        raise SettingsError(f"must be a whole number from 0 to {MAX_PORT}", where=where, value=value)
    return number


def _check_dsn(name: str, dsn: str) -> None:
    try:
        conninfo.conninfo_to_dict(dsn)
    except ProgrammingError:
        hint = "write postgresql://USER@HOST/DATABASE"
        # From None: the parser's own text quotes the string, and with it a password.
        raise SettingsError(
            "is not a PostgreSQL connection string", where=f"{PREFIX}{name.upper()}", hint=hint
        ) from None


def _shown(name: str, value: object) -> str:
    if name.endswith("_url") and value:
        return KafkaUrl.parse(str(value)).shown if is_kafka(str(value)) else address(str(value))
    return str(value)
