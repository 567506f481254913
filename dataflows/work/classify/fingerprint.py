"""Fingerprints of errors: the same error has the same one, whatever numbers, ids and values it names."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Final

from penstock.models.failures import MOST_CHARACTERS, Likeness

__all__ = ["fingerprint", "likest", "template"]

ALIKE: Final = 85
"""Percentage from which on two sentences count as alike."""
_VARYING: Final[tuple[tuple[re.Pattern[str], str], ...]] = (
    (re.compile(r", got .*$", re.DOTALL), ", got ?"),
    (re.compile(r"'[^']*'"), "?"),
    (re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b", re.IGNORECASE), "?"),
    (re.compile(r"\b(?=[0-9a-f]*\d)[0-9a-f]{12,}\b", re.IGNORECASE), "?"),
    (re.compile(r"\d[\d.,:+TZ-]*\d|\d"), "0"),
)
"""What differs from one error to the next: values, ids, numbers and times."""
_CODE: Final = re.compile(r"SQLSTATE \w{5}|\[error \d+\]|(?:\(|answers |status (?:code )?)[45]\d\d\b")


def template(what: str) -> str:
    """Return the sentence of an error without what varies; the codes of systems stay."""
    codes = _CODE.findall(what)
    found = _CODE.sub("\x00", what)
    for pattern, kept in _VARYING:
        found = pattern.sub(kept, found)
    for code in codes:
        found = found.replace("\x00", code, 1)
    return found[:MOST_CHARACTERS]


def fingerprint(code: str, connection: str | None, sentence: str) -> str:
    """Return the fingerprint of the errors with this code, connection and template."""
    return hashlib.sha256("\n".join((code, connection or "", sentence)).encode()).hexdigest()[:12]


def likest(sentence: str, known: Mapping[str, str]) -> Likeness | None:
    """Return which of the `known` errors (template by fingerprint) reads most like this one, if one is like it."""
    from rapidfuzz import fuzz, process

    best = process.extractOne(sentence, dict(known), scorer=fuzz.ratio, score_cutoff=ALIKE)
    return Likeness(fingerprint=best[2], ratio=round(best[1] / 100, 4)) if best is not None else None
