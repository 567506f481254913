"""Texts of columns that hold bytes which are no characters.

Most character sets leave some bytes undefined, and the server stores them. It sends them as question marks or U+FFFD,
in silence; a column of utf8mb4 or ucs2 may hold half a surrogate pair, which it sends as it is. Such values are sent
marked, as bytes that are not UTF-8, so that their rows are set aside.
"""

from __future__ import annotations

from typing import Final

from dataflows.connectors.mysql.session import Session
from dataflows.connectors.mysql.tables import TableName
from dataflows.connectors.sql.bounds import bound_bytes, bound_text
from dataflows.data.tables import Column
from dataflows.data.types import column_type

__all__ = ["charsets", "checked_text", "key_texts", "shown", "text_bound", "text_literal"]

_DEFINED: Final = {
    "cp850", "cp852", "cp866", "keybcs2", "koi8r", "koi8u", "latin1", "latin2", "latin5", "latin7", "macce", "macroman",
    "ucs2", "utf16", "utf16le", "utf32", "utf8", "utf8mb3", "utf8mb4",
}  # fmt: skip
"""Character sets of which the server sends every value as it is."""
_MARK: Final = b"\xff"
_CHARSETS: Final = """
SELECT column_name, character_set_name FROM information_schema.columns
WHERE table_schema = ? AND table_name = ? AND character_set_name IS NOT NULL"""


def charsets(session: Session, name: TableName) -> dict[str, str]:
    """Return the character set of each column of texts."""
    return {str(row[0]): str(row[1]) for row in session.rows(_CHARSETS, (name.schema, name.name))}


def checked_text(value: str, charset: str | None) -> str:
    """Return the expression that reads `value`, an expression of texts: marked if a byte of it is no character."""
    if charset is None or charset in _DEFINED:
        return value
    raw, sent = f"CAST({value} AS BINARY)", f"CAST(CONVERT({value} USING utf8mb4) AS BINARY)"
    marks = (f"LENGTH({one}) - LENGTH(REPLACE({one}, X'3F', ''))" for one in (raw, sent))
    bad = f"{' <> '.join(marks)} OR LOCATE(X'EFBFBD', {sent}) OR {sent} IS NULL AND {value} IS NOT NULL"
    return f"IF({bad}, CONCAT(X'{_MARK.hex()}', {raw}), {sent})"


def shown(value: bytes | None, *, binary: bool) -> str | None:
    """Return a value as a dead letter contains it: bytes, and texts that are not UTF-8, as hexadecimal digits."""
    if value is None:
        return None
    try:
        return "\\x" + value.hex() if binary else value.decode()
    except UnicodeDecodeError:
        return "\\x" + value.removeprefix(_MARK).hex()


def key_texts(value: str, charset: str | None) -> str:
    """Return the two expressions of a key's text for `text_bound`."""
    sent = checked_text(value, charset)
    return f"{f'CAST(CONVERT({value} USING utf8mb4) AS BINARY)' if sent == value else sent}, HEX({value})"


def text_bound(sent: bytes | None, raw: str) -> str | None:
    """Return a key's text as a bound; the digits of one that is not UTF-8 are those of the stored bytes."""
    if sent is None:
        return None
    found = bound_text(sent)
    return found if bound_bytes(found) is None else f"\\x{raw.lower()}"


def text_literal(session: Session, name: TableName, key: Column, bound: str) -> str | None:
    """Return the literal of a bound that has digits; None for any other."""
    raw = bound_bytes(bound) if column_type(key).text else None
    if raw is None:
        return None
    return f"_{charsets(session, name).get(key.name, 'utf8mb4')} X'{raw.hex()}'"
