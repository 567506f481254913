"""What is typed into a search: words, phrases in quotation marks, and words that must not be there."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from catalog import lexemes
from catalog.lexemes import COLUMN_WORD, NAME_WORD, TEXT_WORD, lexeme, quoted
from catalog.words import plain, words_of

__all__ = ["ALL", "Filters", "Query", "is_prefix", "parsed"]

_TOKEN: Final = re.compile(r'(-?)(?:"([^"]*)"?|(\S+))')
SHORTEST: Final = 3
"""Letters from which on a word is also the beginning of words: with fewer, nearly every entry has one."""
MAX_TERMS: Final = 50
"""Words and phrases of one query; what follows is ignored."""
Alternatives = Mapping[str, Sequence[str]]
"""Words that are alike, by word."""


@dataclass(frozen=True, slots=True)
class Filters:
    """What entries must have besides; None is no condition. A column and its type are those of the same column.

    `updated_since` is the time of the last record about an entry; `owner` that of a pipeline that reads or writes it.
    Objects that are gone from their source are left out unless `gone`.
    """

    kind: str | None = None
    tag: str | None = None
    connection: str | None = None
    owner: str | None = None
    column: str | None = None
    column_type: str | None = None
    updated_since: datetime | None = None
    gone: bool = False

    def terms(self) -> list[str]:
        """Return the conditions that are lexemes, as parts of a tsquery."""
        found = [
            quoted(lexeme(letter, text))
            for letter, text in (
                (lexemes.KIND, None if self.kind is None else plain(self.kind)),
                (lexemes.TAG, None if self.tag is None else plain(self.tag)),
                (lexemes.CONNECTION, self.connection),
            )
            if text is not None
        ]
        if self.column is not None:
            found.append(f"{quoted(lexemes.column(self.column, self.column_type))}:*")
        elif self.column_type is not None:
            found.append(f"{quoted(lexemes.column_type(self.column_type))}:*")
        return found


ALL: Final = Filters()
"""No condition, but that objects are still there."""


@dataclass(frozen=True, slots=True)
class Query:
    """A query: each of `words` is a word of an entry, or the beginning of one; `phrases` are words in a row.

    `whole` are single words in quotation marks. Entries with one of `without`, words or phrases, are left out.
    """

    text: str
    words: tuple[str, ...] = ()
    whole: tuple[str, ...] = ()
    phrases: tuple[str, ...] = ()
    without: tuple[str, ...] = ()

    @property
    def is_empty(self) -> bool:
        """True if it asks for nothing, but may still exclude something."""
        return not (self.words or self.whole or self.phrases)

    @property
    def wanted(self) -> tuple[str, ...]:
        """All words that an entry has to have."""
        return tuple(dict.fromkeys((*self.words, *self.whole, *(w for one in self.phrases for w in one.split()))))

    def positive(self, alternatives: Alternatives) -> list[str]:
        """Return the parts of the tsquery that entries must match, but for the order of the words of phrases."""
        found = [_any_of((word, *alternatives.get(word, ())), prefix=is_prefix(word)) for word in self.words]
        rest = dict.fromkeys((*self.whole, *(word for one in self.phrases for word in one.split())))
        return found + [_any_of((word,), prefix=False) for word in rest]

    def negative(self) -> str | None:
        """Return the tsquery that no entry may match; None if there is none."""
        single = [_any_of((one,), prefix=False) for one in self.without if " " not in one]
        return " | ".join(single) or None

    def in_name(self, alternatives: Alternatives) -> str:
        """Return the tsquery for entries that have all words, as they are, in their name."""
        groups = ((word, *alternatives.get(word, ())) for word in self.wanted)
        return " & ".join("(" + " | ".join(quoted(NAME_WORD + one) for one in group) + ")" for group in groups)

    def exactly(self) -> str:
        """Return the tsquery for entries with this very name."""
        return quoted(lexeme(lexemes.NAMED, plain(self.text.strip())))


def is_prefix(word: str) -> bool:
    """True if a word of a query is also the beginning of words."""
    return len(word) >= SHORTEST or not word.isascii()


def parsed(text: str) -> Query:
    """Return the query that `text` is; anything that is neither a letter nor a digit only divides words."""
    words, whole, phrases, without = list[str](), list[str](), list[str](), list[str]()
    for minus, phrase, word in _TOKEN.findall(text)[:MAX_TERMS]:
        found = words_of(phrase or word)[:MAX_TERMS]
        if not found:
            continue
        if minus:
            without.append(" ".join(found))
        elif phrase and len(found) == 1:
            whole += found
        elif phrase:
            phrases.append(" ".join(found))
        else:
            words += found
    return Query(text, *(tuple(dict.fromkeys(one)) for one in (words, whole, phrases, without)))


def _any_of(words: Iterable[str], *, prefix: bool) -> str:
    """Return the tsquery for entries that have one of `words` anywhere; the first may be the beginning of a word."""
    first, *others = words
    found = [quoted(letter + first) + (":*" if prefix else "") for letter in (NAME_WORD, COLUMN_WORD, TEXT_WORD)]
    found += [quoted(letter + one) for one in others for letter in (NAME_WORD, COLUMN_WORD, TEXT_WORD)]
    return "(" + " | ".join(found) + ")"
