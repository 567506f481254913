"""Lexemes of a catalog entry: all that a search asks for, in one tsvector, so that one index answers every query.

A lexeme is a letter, which says what it is, and a text. Filters are lexemes too: an index that intersects its lists
answers a word with three filters as quickly as a word. Texts are without case and accents.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache
from typing import Final

from catalog.words import plain, words_of
from penstock.models.domain import Schema

__all__ = [
    "COLUMN_WORD",
    "CONNECTION",
    "KIND",
    "NAMED",
    "NAME_WORD",
    "SAMPLED",
    "TAG",
    "TEXT_WORD",
    "column",
    "column_type",
    "exact_names",
    "is_sampled",
    "lexeme",
    "quoted",
    "searched",
]

NAME_WORD: Final = "n"
COLUMN_WORD: Final = "c"
TEXT_WORD: Final = "x"
NAMED: Final = "="
"""The whole name of an object, and its last part."""
KIND: Final = "k"
TAG: Final = "t"
CONNECTION: Final = "o"
COLUMN: Final = "p"
"""A column with its type."""
COLUMN_TYPE: Final = "y"
SAMPLED: Final = 64
"""One of so many entries belongs to the sample, which is fair, since ids are hashes."""
LONGEST: Final = 500
"""Bytes of a lexeme; a longer one is cut and hashed. PostgreSQL takes 2046."""
_END: Final = "\x1f"
"""Ends a column's name, and a type without its length."""


def lexeme(kind: str, text: str) -> str:
    """Return a lexeme."""
    return kind + _storable(text)


def _storable(text: str) -> str:
    """Return a text as PostgreSQL can store it in a lexeme."""
    text = text.replace("\0", "\ufffd")
    data = text.encode(errors="replace")
    return text if len(data) <= LONGEST else data[:LONGEST].decode(errors="ignore") + hashlib.sha256(data).hexdigest()


@lru_cache(maxsize=50_000)
def column(name: str, type_: str | None = None) -> str:
    """Return the lexeme of a column with its type; without one, its prefix. ``numeric`` is one of ``numeric(9,2)``."""
    return lexeme(COLUMN, plain(name) + _END) + ("" if type_ is None else _typed(type_))


def column_type(type_: str) -> str:
    """Return the lexeme of a column's type, as of `column`."""
    return COLUMN_TYPE + _typed(type_)


@lru_cache(maxsize=5000)
def _typed(type_: str) -> str:
    base, bracket, rest = _storable(plain(type_)).partition("(")
    return base.strip() + _END + bracket + rest


def exact_names(object_: str) -> list[str]:
    """Return the lexemes by which a whole name is found."""
    whole = plain(object_)
    return [lexeme(NAMED, whole), lexeme(NAMED, whole.rpartition(".")[2])]


def is_sampled(id_: str) -> bool:
    """True if the entry of this id belongs to the sample."""
    return int(id_[:2], 16) % SAMPLED == 0


def searched(
    connection: str,
    object_: str,
    kind: str,
    tags: Sequence[str],
    texts: Iterable[str | None],
    schema: Schema | None,
) -> tuple[str, str]:
    """Return the tsvector of an entry, and its words as text, for phrases.

    `texts` are its description and those of its columns. In the text, words are between blanks, and what is between
    two names or texts is a bar.
    """
    names = words_of(object_)
    found = {NAME_WORD + word for word in names}
    groups = [" ".join(names)]
    for field in () if schema is None else schema.fields:
        group, lexemes = _of_column(field.name, field.type)
        groups.append(group)
        found |= lexemes
    for text in (*texts, *tags):
        if text:
            group, lexemes = _of_text(text)
            groups.append(group)
            found |= lexemes
    found.update(exact_names(object_))
    found.update((lexeme(KIND, plain(kind)), lexeme(CONNECTION, connection)))
    found.update(lexeme(TAG, plain(tag)) for tag in tags)
    return _quoted(found), f" {' | '.join(filter(None, groups))} "


@lru_cache(maxsize=50_000)
def _of_column(name: str, type_: str) -> tuple[str, frozenset[str]]:
    """Return the words of a column's name, and the lexemes of the column."""
    found = words_of(name)
    return " ".join(found), frozenset(
        (*(COLUMN_WORD + word for word in found), column(name, type_), column_type(type_))
    )


@lru_cache(maxsize=5000)
def _of_text(text: str) -> tuple[str, frozenset[str]]:
    """Return the words of a text, and their lexemes."""
    found = words_of(text)
    return " ".join(found), frozenset(TEXT_WORD + word for word in found)


def _quoted(found: Collection[str]) -> str:
    """Return lexemes as the text form of a tsvector has them, all at once where none has a character to double."""
    joined = "' '".join(found)
    if "\\" in joined or joined.count("'") != 2 * (len(found) - 1):
        return " ".join(map(quoted, found))
    return f"'{joined}'"


@lru_cache(maxsize=50_000)
def quoted(lexeme_: str) -> str:
    """Return a lexeme as the text form of a tsvector or a tsquery has it."""
    doubled = lexeme_.replace("\\", "\\\\").replace("'", "''")
    return f"'{doubled}'"
