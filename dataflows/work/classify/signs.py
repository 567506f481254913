"""Signs of an error, and the kind that each stands for: codes of SQL, MySQL, HTTP, Kafka and of our own tree.

Errors name the code of the system in their sentence: ``[SQLSTATE 42P01]``, ``[error 1146]``, ``(403)``. Such a code
says more than the class of our error, which says more than its sentence.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from penstock.models.failures import FailureKind

__all__ = ["Sign", "signs_of"]

Sign = tuple[str, FailureKind, float]
"""The code as people know it, the kind of error, and the confidence in that."""
SURE: Final = 0.95

_STATES: Final[dict[str, FailureKind]] = {
    "42501": "permission", "3D000": "config", "3F000": "schema", "42P01": "schema", "42703": "schema",
    "42704": "schema", "42883": "schema", "42804": "schema", "53100": "resource", "53200": "resource",
    "53300": "resource", "55P03": "transient", "55006": "transient", "25006": "config", "0A000": "config",
    "42601": "bug", "54000": "data", "57014": "transient", "2200H": "resource", "XX001": "data", "XX002": "data",
}  # fmt: skip
_CLASSES: Final[dict[str, FailureKind]] = {
    "08": "transient", "22": "data", "23": "data", "28": "permission", "40": "transient", "42": "schema",
    "44": "data", "53": "resource", "54": "data", "57": "transient", "58": "resource", "P0": "data", "XX": "bug",
}  # fmt: skip
_NUMBERS: Final[dict[int, FailureKind]] = {
    **dict.fromkeys((1044, 1045, 1142, 1143, 1227, 1370, 1410, 1698, 1820), "permission"),
    **dict.fromkeys((1046, 1049, 1148, 1290, 1836, 2005, 2026, 3948, 3989, 4166), "config"),
    **dict.fromkeys((1051, 1054, 1146), "schema"),
    **dict.fromkeys((1205, 1213, 1053, 1077, 1079, 1317, 1927, 1969, 2002, 2003, 2006, 2013, 2055, 3024), "transient"),
    **dict.fromkeys((1021, 1037, 1038, 1040, 1041, 1114, 1203, 1226), "resource"),
    **dict.fromkeys(
        (1048, 1062, 1153, 1216, 1217, 1261, 1262, 1263, 1264, 1265, 1292, 1300, 1364, 1366, 1367, 1406, 1411, 1441,
         1451, 1452, 1566, 1690, 3140, 3141, 3819, 4025), "data"),
}  # fmt: skip
_HTTP: Final[dict[int, FailureKind]] = {
    400: "config", 401: "permission", 403: "permission", 404: "config", 405: "config", 408: "transient",
    409: "transient", 410: "config", 413: "config", 422: "config", 425: "transient", 429: "transient",
}  # fmt: skip
_KAFKA: Final[dict[str, FailureKind]] = {
    "_RESOLVE": "config", "_AUTHENTICATION": "permission", "SASL_AUTHENTICATION_FAILED": "permission",
    "TOPIC_AUTHORIZATION_FAILED": "permission", "GROUP_AUTHORIZATION_FAILED": "permission",
    "CLUSTER_AUTHORIZATION_FAILED": "permission", "UNKNOWN_TOPIC_OR_PART": "schema", "MSG_SIZE_TOO_LARGE": "data",
    "_SSL": "config",
}  # fmt: skip
_TREE: Final[dict[str, tuple[FailureKind, float]]] = {
    "unavailable.unreachable": ("transient", SURE),
    "unavailable.stalled": ("transient", 0.85),
    "unavailable.access_denied": ("permission", SURE),
    "unavailable.out_of_space": ("resource", SURE),
    "unavailable.port_in_use": ("config", 0.9),
    "unavailable": ("transient", 0.85),
    "memory.exceeded": ("resource", SURE),
    "worker.cannot_start": ("resource", 0.8),
    "run.crashed": ("transient", 0.7),
    "fenced": ("transient", 0.9),
    "schema": ("schema", SURE),
    "data": ("data", SURE),
    "settings": ("config", SURE),
    "document": ("config", SURE),
    "usage": ("config", 0.9),
    "not_found": ("config", 0.85),
    "refused": ("config", 0.8),
    "check": ("data", 0.7),
    "defect": ("bug", 0.9),
    "unexpected": ("bug", 0.9),
    "agent": ("bug", 0.9),
    "log": ("bug", 0.8),
}
"""By the code of our tree, or the first part of it."""
_EXCEPTIONS: Final[dict[str, tuple[FailureKind, float]]] = {
    "MemoryError": ("resource", 0.9),
    "ConnectionResetError": ("transient", 0.8),
    "ConnectionRefusedError": ("transient", 0.8),
    "BrokenPipeError": ("transient", 0.8),
    "TimeoutError": ("transient", 0.8),
    "gaierror": ("config", 0.8),
    "PermissionError": ("permission", 0.9),
    "FileNotFoundError": ("config", 0.7),
    "UnicodeDecodeError": ("data", 0.8),
}
"""By the class of a foreign exception, which a run names as a defect of its own."""
_TEXTS: Final[tuple[tuple[str, FailureKind], ...]] = (
    ("name or service not known|no such host|cannot be resolved|unknown host|name resolution", "config"),
    ("no such (?:bucket|database)|(?:folder|file) does not exist", "config"),
    ("no space left|disk (?:or quota )?(?:is )?full", "resource"),
    ("too many clients|no free connection|remaining connection slots|too many connections", "resource"),
    ("out of memory|no memory", "resource"),
    ("password|authentication failed|access denied|refuses this user|permission denied|may not ", "permission"),
    ("deadlock|try again|timed out|did not answer in time", "transient"),
)
_VAGUE: Final = frozenset({"not_found", "unavailable", "refused", "unavailable.unreachable"})
"""Codes that say less than the sentence, if that names the cause."""
_STATE: Final = re.compile(r"SQLSTATE ([0-9A-Z]{5})")
_NUMBER: Final = re.compile(r"\[error (\d{4})\]")
_STATUS: Final = re.compile(r"(?:\(|answers |status (?:code )?)([45]\d\d)\b")
_NAME: Final = re.compile(r"\((_?[A-Z][A-Z_]{4,})\)")
_CLASS: Final = re.compile(r"^(?:a defect in the run: )?(?:[\w.]+\.)?([A-Z]\w*Error|gaierror)$")


def signs_of(code: str, what: str) -> Iterator[Sign]:
    """Yield the signs of an error, by its code in our tree and its sentence; the one that says most comes first."""
    if (found := _STATE.search(what)) and (kind := _STATES.get(found[1]) or _CLASSES.get(found[1][:2])):
        yield f"SQLSTATE {found[1]}", kind, SURE
    if (found := _NUMBER.search(what)) and (by_number := _NUMBERS.get(int(found[1]))):
        yield f"error {found[1]}", by_number, SURE
    if (found := _NAME.search(what)) and (by_name := _KAFKA.get(found[1])):
        yield found[1], by_name, SURE
    if found := _STATUS.search(what):
        status = int(found[1])
        yield f"HTTP {status}", _HTTP.get(status, "config" if status < 500 else "transient"), 0.9  # noqa: PLR2004 - RFC 9110
    if (found := _CLASS.match(what)) and (by_class := _EXCEPTIONS.get(found[1])):
        yield found[1], *by_class
    text = what.lower()
    said = next((kind for pattern, kind in _TEXTS if re.search(pattern, text)), None)
    known = _TREE.get(code) or _TREE.get(code.partition(".")[0])
    if said is not None and (known is None or code in _VAGUE):
        yield "its sentence", said, 0.85
    if known is not None:
        yield code, *known
    if said is not None:
        yield "its sentence", said, 0.6
