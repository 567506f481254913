"""The meaning of columns, guessed from names, types and a few values; a table of rules, and nothing else.

A rule has evidence of two kinds. A name that matches counts `by_name`; values that match count `by_value` times their
share, if most do. Both together are stronger than each; values that do not match refute a name.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

__all__ = ["LEAST_PERSONAL", "PERSONAL", "tags_of"]

LEAST: Final = 0.5
"""Confidence below which a tag is not given."""
LEAST_PERSONAL: Final = 0.6
"""Confidence in a tag of personal data from which on a column counts as personal."""
MOST: Final = 0.7
"""Share of the values that has to match."""
LOOKED_AT: Final = 20
"""Values that are looked at."""
_TEXTS: Final = ("text", "character", "citext", "bpchar", "string", "char", "varchar")
_NUMBERS: Final = ("numeric", "integer", "bigint", "smallint", "double precision", "real", "money", "decimal")
_DATES: Final = ("date", "timestamp")
_CODES: Final = (
    "AD AE AF AG AI AL AM AO AQ AR AS AT AU AW AX AZ BA BB BD BE BF BG BH BI BJ BL BM BN BO BQ BR BS BT BV BW BY "
    "BZ CA CC CD CF CG CH CI CK CL CM CN CO CR CU CV CW CX CY CZ DE DJ DK DM DO DZ EC EE EG EH ER ES ET FI FJ FK "
    "FM FO FR GA GB GD GE GF GG GH GI GL GM GN GP GQ GR GS GT GU GW GY HK HM HN HR HT HU ID IE IL IM IN IO IQ IR "
    "IS IT JE JM JO JP KE KG KH KI KM KN KP KR KW KY KZ LA LB LC LI LK LR LS LT LU LV LY MA MC MD ME MF MG MH MK "
    "ML MM MN MO MP MQ MR MS MT MU MV MW MX MY MZ NA NC NE NF NG NI NL NO NP NR NU NZ OM PA PE PF PG PH PK PL PM "
    "PN PR PS PT PW PY QA RE RO RS RU RW SA SB SC SD SE SG SH SI SJ SK SL SM SN SO SR SS ST SV SX SY SZ TC TD TF "
    "TG TH TJ TK TL TM TN TO TR TT TV TW TZ UA UG UM US UY UZ VA VC VE VG VI VN VU WF WS YE YT ZA ZM ZW"
)
"""ISO 3166-1, alpha-2."""
_COUNTRIES: Final = frozenset(_CODES.split())

Check = Callable[[str], bool]


def _like(pattern: str) -> Check:
    found = re.compile(pattern)
    return lambda text: found.fullmatch(text) is not None


_PHONE: Final = re.compile(r"\+?\(?\d[\d ()/.\-]{5,20}\d")
_IBAN: Final = re.compile(r"[A-Z]{2}\d{2}[A-Z0-9]{10,30}")


def _phone(text: str) -> bool:
    digits = sum(letter.isdigit() for letter in text)
    return _PHONE.fullmatch(text) is not None and 7 <= digits <= 15 and (digits < len(text) or text.startswith("0"))  # noqa: PLR2004 - ITU E.164


def _iban(text: str) -> bool:
    """ISO 13616: the number that it spells is 1 modulo 97."""
    plain = text.replace(" ", "").upper()
    if _IBAN.fullmatch(plain) is None:
        return False
    return int("".join(str(int(letter, 36)) for letter in plain[4:] + plain[:4])) % 97 == 1


def _card(text: str) -> bool:
    """Luhn's checksum over 13 to 19 digits."""
    digits = [int(letter) for letter in text if letter.isdigit()]
    if not 13 <= len(digits) <= 19 or re.fullmatch(r"[\d \-]+", text) is None:  # noqa: PLR2004 - ISO 7812
        return False
    doubled = (digit * 2 - 9 * (digit > 4) for digit in digits[-2::-2])  # noqa: PLR2004 - two digits above
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def _ip(text: str) -> bool:
    try:
        ipaddress.ip_interface(text)
    except ValueError:
        return False
    return "." in text or ":" in text


_DATED: Final = re.compile(r"\d{1,4}[./ -]?(?:\d{1,2}|[^\W\d_]{3,9})[./ -]?\d{2,4}|[^\W\d_]{3,9} \d{1,2}, \d{4}")
_FORMS: Final = ("%d.%m.%Y", "%m/%d/%Y", "%d/%m/%Y", "%d-%m-%Y", "%Y/%m/%d", "%Y%m%d", "%d %b %Y", "%b %d, %Y")


def _date(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
        return len(text) >= len("20260101")
    except ValueError:
        return _DATED.fullmatch(text) is not None and any(_parses(text, form) for form in _FORMS)


def _parses(text: str, form: str) -> bool:
    try:
        return datetime.strptime(text, form).year > 1000  # noqa: DTZ007, PLR2004 - only whether it is one
    except ValueError:
        return False


@dataclass(frozen=True, slots=True)
class _Rule:
    """A tag, and its evidence: a pattern of names, a check of values, and the types it is possible for."""

    tag: str
    names: str = ""
    check: Check | None = None
    types: tuple[str, ...] = _TEXTS
    by_name: float = 0.7
    by_value: float = 0.9
    personal: bool = False


RULES: Final = (
    _Rule("email", r"e_?mails?(_?addr(ess)?)?", _like(r"[^@\s]+@[^@\s]+\.[^\W\d_]{2,}"), by_value=0.97, personal=True),
    _Rule(
        "phone",
        r"(tele)?phone(_?(no|nr|number))?|tel|mobile(_?phone)?|cell(_?phone)?|fax",
        _phone,
        by_value=0.6,
        personal=True,
    ),
    _Rule("iban", r"iban", _iban, by_value=0.99, personal=True),
    _Rule(
        "card_number", r"(credit_?)?card(_?(no|number))?|pan", _card, (*_TEXTS, "bigint"), by_value=0.95, personal=True
    ),
    _Rule(
        "person_name",
        r"(first|last|given|family|middle|full|person|maiden|contact)_?names?|surname|vorname|nachname",
        _like(r"[^\W\d_][^\d_@/\\]*"),
        by_value=0.2,
        personal=True,
    ),
    _Rule(
        "birth_date",
        r"(date_of_)?birth(_?(date|day))?|birthday|dob|born(_on)?",
        None,
        (*_DATES, *_TEXTS),
        by_name=0.85,
        personal=True,
    ),
    _Rule(
        "national_id",
        r"ssn|social_security(_?(no|number))?|national_?id|tax_?id|passport(_?(no|number))?",
        None,
        (*_TEXTS, *_NUMBERS),
        by_name=0.8,
        personal=True,
    ),
    _Rule(
        "address",
        r"street(_?(name|address))?|address(_?line_?\d?|_?\d)?|strasse",
        _like(r"(?=.*[^\W\d_]).{4,}"),
        by_value=0.2,
        personal=True,
    ),
    _Rule(
        "postal_code",
        r"zip(_?code)?|post(al)?_?code|plz",
        _like(r"\d{4,5}([ -]\d{3,4})?|[A-Z]{1,2}\d[A-Z\d]? ?\d[A-Z]{2}|[A-Z]\d[A-Z] ?\d[A-Z]\d"),
        (*_TEXTS, "integer"),
        by_name=0.8,
        by_value=0.3,
        personal=True,
    ),
    _Rule(
        "country", r"country(_?(code|name|iso))?|nation(ality)?|land", lambda text: text in _COUNTRIES, by_value=0.75
    ),
    _Rule("url", r"(web_?)?(url|link|site)|homepage|uri", _like(r"(?:https?|ftp)://\S+"), by_value=0.98),
    _Rule(
        "ip_address",
        r"ip(_?(v4|v6|addr(ess)?))?|(client|remote|server|source)_?ip",
        _ip,
        (*_TEXTS, "inet", "cidr"),
        by_value=0.96,
        personal=True,
    ),
    _Rule(
        "uuid",
        r"uuid|guid",
        _like(r"(?i)\{?[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}\}?"),
        (*_TEXTS, "uuid"),
        by_value=0.99,
    ),
    _Rule("date_as_text", "", _date, by_value=0.95),
    _Rule(
        "money",
        r"price|amount|total|cost|salary|wage|balance|fee|tax|revenue|budget|turnover|discount|payment|betrag|preis",
        _like(r"-?[€$£¥]? ?-?\d[\d.,]*( ?([€$£¥]|[A-Z]{3}))?"),
        (*_NUMBERS, *_TEXTS),
        by_name=0.75,
        by_value=0.1,
    ),
    _Rule(
        "identifier",
        r"id|key|.*_id|.*_key|(.*_)?(no|nr|number|code|sku|ref)",
        None,
        (*_TEXTS, *_NUMBERS, "uuid"),
        by_name=0.75,
    ),
)
PERSONAL: Final = frozenset(rule.tag for rule in RULES if rule.personal)
"""Tags of personal data."""
_SURE: Final = {"uuid": "uuid", "inet": "ip_address", "cidr": "ip_address", "money": "money"}
"""Types that say it all."""
_NAMES: Final = {rule.tag: re.compile(rule.names) for rule in RULES if rule.names}
_CAMEL: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def tags_of(name: str, kind: str, values: Sequence[str], *, key: bool = False) -> dict[str, float]:
    """Return the meanings of a column by its name, type and some of its values, each with a confidence.

    `key` is True if it is the only column of a key.
    """
    if sure := _SURE.get(kind):
        return {sure: 1.0}
    given = [text for text in (value.strip() for value in values) if text][:LOOKED_AT]
    words = _words(name)
    found = {rule.tag: _confidence(rule, words, kind, given) for rule in RULES}
    if key:
        found["identifier"] = max(found["identifier"], 0.9)
    return {tag: round(confidence, 2) for tag, confidence in found.items() if confidence >= LEAST}


def _words(name: str) -> str:
    """Return ``e_mail`` for ``eMail``: the words of a name in lower case."""
    return re.sub(r"\W+", "_", _CAMEL.sub("_", name)).strip("_").lower()


def _confidence(rule: _Rule, name: str, kind: str, values: Sequence[str]) -> float:
    if not kind.startswith(rule.types):
        return 0.0
    named = rule.by_name if rule.names and _is_named(rule, name) else 0.0
    if rule.check is None or not values:
        return named
    share = sum(map(rule.check, values)) / len(values)
    if share < MOST:
        return 0.0
    return 1 - (1 - named) * (1 - rule.by_value * share)


def _is_named(rule: _Rule, name: str) -> bool:
    """True if the name, or what is left of it without its first words, is one of the rule's."""
    pattern, words = _NAMES[rule.tag], name.split("_")
    return any(pattern.fullmatch("_".join(words[at:])) for at in range(len(words)))
