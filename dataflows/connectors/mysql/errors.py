# ruff: noqa: E501 - a table, one group of numbers a line
"""Translate the servers' error numbers into Penstock's errors; keeps object names from their texts, never a value."""

from __future__ import annotations

import re
from typing import Final

from pymysql import err

from dataflows.connectors.isolation import RowRefused
from penstock.errors import (
    AccessDenied,
    BadData,
    Fenced,
    MissingColumn,
    MissingTable,
    NotFound,
    OutOfSpace,
    PenstockError,
    Refused,
    SchemaMismatch,
    Unavailable,
    Unreachable,
)

__all__ = ["FENCED", "LOST", "NO_SERVER", "penstock_error"]

LOST: Final = 2013
NO_SERVER: Final = 2002
DUPLICATE: Final = 1062
FENCED: Final = 1242
"""Error number of a fenced commit: its subquery returns more than one row if a newer generation owns the pipeline."""
NO_DATABASE: Final = 1044
"""Error number of a login to a database on which the user has no privilege."""
_ACCOUNT: Final = re.compile(r"user ('.*'@'.*') to database '(.*)'$")
_AGAIN: Final = "another session locks the table or its rows; try again later"
_CODES: Final[dict[int, tuple[type[PenstockError], str, str]]] = {
    **dict.fromkeys((1045, 1698, 3118, 1862, 4151), (AccessDenied, "the server refuses this user or password", "check user and secret")),
    **dict.fromkeys((1044, 1142, 1143, 1227, 1370, 1410), (AccessDenied, "a privilege is missing", "`penstock plan` names the GRANT for the connection's user")),
    1820: (AccessDenied, "the password of this user has expired", "give it a new one: ALTER USER … IDENTIFIED BY …"),
    1049: (NotFound, "there is no such database", "check `database`, or write the object as database.table"),
    1146: (MissingTable, "a table of this run does not exist", "was it dropped or renamed?"),
    1054: (MissingColumn, "a column of this run does not exist", "was it dropped or renamed?"),
    1205: (Unavailable, "a lock was not granted in time", _AGAIN),
    1213: (Unavailable, "the server ended a deadlock", "try again"),
    **dict.fromkeys((1317, 3024, 1969, 1028, 1053, 1077, 1079, 1927, 3169), (Unavailable, "the server ended the session or the statement", "a newer run, or an administrator; try again")),
    **dict.fromkeys((1040, 1203, 1226), (Unavailable, "the server has no free connection", "raise max_connections or run fewer workers")),
    **dict.fromkeys((1037, 1038, 1041), (Unavailable, "the server is out of memory", "try again later")),
    **dict.fromkeys((1021, 1114), (OutOfSpace, "the disk or the table space is full", "free some space and run again: nothing was partially applied")),
    1153: (BadData, "a row is larger than the server accepts", "raise max_allowed_packet"),
    **dict.fromkeys((1148, 3948, 4166), (Refused, "the server does not allow LOAD DATA LOCAL", "SET GLOBAL local_infile = 1")),
    1062: (BadData, "a row has the same key as another one", "look at the table's unique keys"),
    **dict.fromkeys((1048, 1263, 1364, 1566), (BadData, "a row has no value where the target needs one", "look at its NOT NULL columns")),
    **dict.fromkeys((1264, 1265, 1292, 1366, 1367, 1406, 1411, 1441, 1300, 3140, 3141, 1690, 1261, 1262), (BadData, "the target cannot hold a value", "look at the mapped types")),
    **dict.fromkeys((1216, 1217, 1451, 1452, 3819, 4025, 1761, 1762), (BadData, "a row breaks a constraint of the target", "look at its foreign keys and checks")),
    1644: (BadData, "a trigger of the target refuses a row", "look at the target's triggers"),
    **dict.fromkeys((1118, 1074, 1071, 1117), (Refused, "the table cannot be created: its columns or its key are too long", "create the table by hand, with smaller types")),
    **dict.fromkeys((1290, 1836, 3989), (Refused, "the server is read-only or forbids the statement", "connect to the primary")),
    FENCED: (Fenced, "a newer run took over", "nothing to do: the newer run carries on"),
    **dict.fromkeys((NO_SERVER, 2003, 2005), (Unreachable, "no server answers: the connection cannot be made", "is the server up, at the host and port in connections.yaml? `penstock doctor` tries every connection")),
    2026: (Unreachable, "an encrypted connection cannot be made", "look at the connection's `tls`"),
    **dict.fromkeys((0, 2006, LOST, 2055), (Unreachable, "the connection was lost", "try again")),
}  # fmt: skip
_REFERENCES: Final = {1216, 1452}
"""A referenced row is missing; it may be written later."""
_NAMING: Final = {MissingTable, MissingColumn, AccessDenied}
_PLACE: Final = re.compile(
    r"(?:for|Data truncated for|too long for) column (.+) at row \d+$|[Cc]olumn '([^']+)' cannot be"
)
_KEY: Final = re.compile(r"for key '([^']+)'$")


def penstock_error(error: err.Error, where: str) -> PenstockError:
    """Translate an error of PyMySQL into Penstock's."""
    code = error.args[0] if error.args and isinstance(error.args[0], int) else 0
    text = str(error.args[1]) if len(error.args) > 1 else ""
    if "errno: 28" in text or "Errcode: 28" in text or ("error 28" in text):
        code = 1021
    kind, what, hint = _CODES.get(code) or (
        SchemaMismatch,
        "the server refused the statement",
        "look up the error number in the server's manual",
    )
    if code not in _CODES:
        hint = "check that the table still has its columns, and the user its privileges"
    if code == NO_DATABASE and (found := _ACCOUNT.search(text)):
        hint = f"GRANT SELECT ON `{found[2]}`.* TO {found[1]}; `penstock plan` then names what else is missing"
    what = f"{what}{_named(kind, text)} [error {code}]"
    if kind is BadData:
        waits = code in _REFERENCES
        return RowRefused(what, where=where, hint=hint, state=str(code), column=_column(text), waits=waits)
    return kind(what, where=where, hint=hint)


def _named(kind: type[PenstockError], text: str) -> str:
    if kind in _NAMING:
        return f" ({text})" if text else ""
    if kind is not BadData:
        return ""
    if found := _KEY.search(text):
        return f" (key {found[1]})"
    name = _column(text)
    return f" (column `{name}`)" if name else ""


def _column(text: str) -> str | None:
    found = _PLACE.search(text)
    return (found[1] or found[2]).rpartition("`.`")[2].strip("`'") if found else None
