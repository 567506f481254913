"""Secrets: references to them, which are resolved last, and the literal ones, which are refused before any log."""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import parse_qsl

from psycopg import ProgrammingError as ConninfoError
from psycopg import conninfo
from pydantic import AfterValidator

from penstock.errors import SettingsError

__all__ = [
    "HOW",
    "Dsn",
    "Secret",
    "is_reference",
    "literal_in_query",
    "literal_secret",
    "literals",
    "literals_in_prose",
    "looks_random",
    "none_literal",
    "resolve",
    "resolve_dsn",
    "resolve_headers",
    "sensitive",
    "without_references",
]

VARIABLES: Final = "PENSTOCK_SECRET_"
FOLDERS: Final = (Path("/run/secrets"), Path("/var/run/secrets"))
HOW: Final = f"write ${{env:{VARIABLES}NAME}} or ${{file:/run/secrets/NAME}}"

_REFERENCE: Final = re.compile(rf"\$\{{(env|file):({VARIABLES}\w+|[^{{}}\s/]*/[^{{}}]*)\}}")
"""A reference; `resolve` refuses what it names elsewhere. What only looks like one may be a secret itself."""
_ANY_REFERENCE: Final = re.compile(r"\$\{(env|file):([^{}]*)\}")
_SCHEME: Final = r"(?<![a-z0-9+.-])[a-z][a-z0-9+.-]{0,40}://"
_USERINFO: Final = re.compile(_SCHEME + r"[^/?#@\s]{0,200}?:([^/?#\s]{0,500})@", re.IGNORECASE)
_BARE_USERINFO: Final = re.compile(r"(?!mailto:|sip:|xmpp:)[^\s/:@]+:(?!//)([^\s@]+)@\S+")
_URL_QUERY: Final = re.compile(_SCHEME + r"[^\s?]{0,500}\?([^\s#'\"]*)", re.IGNORECASE)
_TOKENS: Final = re.compile(
    r"\b(?:sk|pk|rk)[-_](?:live|test|proj)[-_]\w{8,}|\bgh[pousr]_\w{16,}|\bgithub_pat_\w{16,}|\bglpat-[\w-]{16,}"
    r"|\bxox[abprs]-[\w-]{10,}|\b(?:AKIA|ASIA)[A-Z0-9]{12,}|\beyJ[\w-]{8,400}\.[\w-]{4,}"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY"
)
"""Keys and tokens that are recognized wherever they stand."""
_ASSIGNED: Final = re.compile(
    r"\b(?:password|passwd|passphrase|pwd|secret|token|(?:api|access|secret)_?key)\s*=\s*(?!\$\{)\S", re.IGNORECASE
)
_DSN_SECRETS: Final = {"password", "sslpassword", "oauth_client_secret", "scram_client_key", "scram_server_key"}
_WORDS: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
_SECRET_WORDS: Final = {
    "auth", "authorization", "bearer", "cookie", "credential", "credentials", "hmac", "jwt", "otp", "pass",
    "passphrase", "passwd", "password", "pin", "pw", "pwd", "secret", "session", "sessionid", "sid", "sig", "sign",
    "signature", "token",
}  # fmt: skip
_SECRET_ENDINGS: Final = re.compile(
    r"(token|secret|password|passwd|signature|cookie|apikey|accesskey|authkey|auth|jwt)$"
)
_PLAIN_KEYS: Final = {"sort", "partition", "primary", "foreign", "order", "group", "natural", "range", "cache", "row"}
"""Words before `key` that make it a column, not a secret."""
_TOKEN: Final = re.compile(r"[A-Za-z0-9]{8,}")
_KNOWN: Final = re.compile(
    r"\b(?:Bearer|Basic|Digest|Negotiate|Token)\s+\S{6,}"
    r"|\b(?:sk|pk|rk)[-_](?:live|test|proj)|\bgh[pousr]_|\bgithub_pat_|\bxox[abprs]-|\bAKIA|\bASIA|\beyJ[A-Za-z0-9]",
)
MAX_SEARCHED: Final = 100_000
"""Characters of a text that are searched for literal secrets: more than any text of a file may have."""
MAX_SCHEME: Final = 16
"""Characters that may stand beside a reference, such as ``Bearer``."""
_ENTROPY: Final = 3.0
"""Bits a character from which on letters and digits without order look like a secret: those of words are fewer."""


def sensitive(name: str) -> bool:
    """Return True if a header, parameter or key of that name holds a secret."""
    words = [word.lower() for word in _WORDS.findall(name)]
    if words == ["code"] or set(words) & _SECRET_WORDS or _SECRET_ENDINGS.search(name.lower()):
        return True
    return bool(words) and words[-1] in {"key", "keys"} and not set(words[:-1]) & _PLAIN_KEYS


def looks_random(value: str) -> bool:
    """Return True if a part of `value` looks like a token: letters and digits mixed, in no order of words."""
    rest = _REFERENCE.sub("", value)
    return _KNOWN.search(rest) is not None or any(_is_random(part) for part in _TOKEN.findall(rest))


def _is_random(part: str) -> bool:
    kinds = [0 if character.isdigit() else 1 for character in part]
    changes = sum(one != other for one, other in pairwise(kinds))
    if changes >= 2:  # noqa: PLR2004 - `v20` or `2026Q1` change once or twice; words and years do not
        return len(part) >= 12 or changes >= 3  # noqa: PLR2004 - a rule of thumb
    return len(part) >= 20 and part.lower() != part and _entropy(part) >= _ENTROPY + 0.7  # noqa: PLR2004 - as above


def _entropy(text: str) -> float:
    """Return the bits of information a character of `text` has, by how often each occurs in it."""
    return -sum(n / len(text) * math.log2(n / len(text)) for n in Counter(text).values())


def literal_secret(name: str, value: str) -> str | None:
    """Return why a named value is a literal secret, or None if it is none."""
    if sensitive(name) and len(_REFERENCE.sub("", value)) >= (MAX_SCHEME if _REFERENCE.search(value) else 0):
        return f"`{name}` {_what_is(value)}; {HOW}"
    if looks_random(value):
        return f"`{name}` looks like a literal secret; {HOW}"
    return None


def literals(data: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield the path of each text or key in `data` that contains a literal secret wherever it stands, and why."""
    if isinstance(data, Mapping):
        for name, value in data.items():
            if _literal_text(str(name)) or literal_in_query(str(name)) or _KNOWN.search(str(name)):
                yield path, f"has a key that contains a literal secret; {HOW}"  # the path leaves out the key
            else:
                yield from literals(value, f"{path}.{name}".lstrip("."))
    elif isinstance(data, list | tuple):
        for number, value in enumerate(data):
            yield from literals(value, f"{path}[{number}]")
    elif isinstance(data, str) and (why := _literal_text(data)) is not None:
        yield path, why


def literals_in_prose(data: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield what `literals` does, and texts such as ``password=…``, which an expression may contain as a comparison."""
    if isinstance(data, Mapping):
        for name, value in data.items():
            yield from literals_in_prose(value, f"{path}.{name}".lstrip("."))
            if isinstance(value, str) and sensitive(str(name)) and looks_random(value):
                yield f"{path}.{name}".lstrip("."), f"looks like a literal secret; {HOW}"
    elif isinstance(data, str) and _ASSIGNED.search(data):
        yield path, "contains a literal secret; say in words where it is kept"
    else:
        yield from literals(data, path)


def _literal_text(whole: str) -> str | None:
    text = whole[:MAX_SEARCHED]
    found = [*_USERINFO.finditer(text), *filter(None, [_BARE_USERINFO.fullmatch(text)])]
    if any(not is_reference(one[1]) for one in found):
        return f"contains a literal password before its @; {HOW}"
    if _TOKENS.search(_ANY_REFERENCE.sub("", text)):
        return f"contains a literal secret; {HOW}"
    queries = (literal_in_query(f"?{one[1]}") for one in _URL_QUERY.finditer(text))
    return next((f"contains a literal secret: {why}" for why in queries if why), None)


def is_reference(value: str) -> bool:
    """Return True if `value` is a reference and nothing else."""
    return _REFERENCE.fullmatch(value) is not None


def without_references(value: str) -> str:
    """Return `value` with a plain word in place of each reference; what only looks like one stays."""
    return _REFERENCE.sub("reference", value)


def literal_in_query(object_: str) -> str | None:
    """Return why the query of an object such as ``orders?key=…`` holds a literal secret, or None."""
    found = parse_qsl(object_.partition("?")[2], keep_blank_values=True)
    return next((why for name, value in found if (why := literal_secret(name, value))), None)


def _what_is(value: str) -> str:
    """Return what is wrong with a value where a reference is expected."""
    if _ANY_REFERENCE.search(value):
        return f"refers to neither a variable {VARIABLES}… nor a file below /run/secrets or secrets"
    return "is a literal secret"


def _no_literal(value: str) -> str:
    if not _REFERENCE.fullmatch(value):
        message = f"{_what_is(value)}; {HOW}"
        raise ValueError(message)
    return value


def none_literal(values: dict[str, str]) -> dict[str, str]:
    """Return headers or parameters if none of them is a literal secret. Raises ValueError."""
    for name, value in values.items():
        if why := literal_secret(name, value):
            raise ValueError(why)
    return values


def _without_literal(value: str) -> str:
    """Return a DSN if its secrets are references, each the whole of its value."""
    if _REFERENCE.fullmatch(value):
        return value
    for name, part in _parts(value).items():
        if name == "user" and ":" in _REFERENCE.sub("", part):
            message = f"contains a literal password in its user; move it to `password: ${{env:{VARIABLES}NAME}}`"
            raise ValueError(message)
        if name in _DSN_SECRETS and not _REFERENCE.fullmatch(part):
            move = f"; move it to `password: ${{env:{VARIABLES}NAME}}`" if name == "password" else f"; {HOW}"
            what = (
                f"has a {name} that {_what_is(part)}"
                if _ANY_REFERENCE.fullmatch(part)
                else f"contains a literal {name}"
            )
            message = f"{what}{move}"
            raise ValueError(message)
    return value


def _parts(dsn: str) -> dict[str, str]:
    """Return the keywords of a DSN, with its references unresolved."""
    found = enumerate(_ANY_REFERENCE.finditer(dsn))
    marks = {f"penstockreference{number}x": one[0] for number, one in found}
    marked = dsn
    for mark, reference in marks.items():
        marked = marked.replace(reference, mark, 1)
    try:
        parts = conninfo.conninfo_to_dict(marked)
    except ConninfoError:
        message = "is not a PostgreSQL connection string; write postgresql://USER@HOST/DATABASE"
        raise ValueError(message) from None  # the parser's message quotes the string, and with it a password
    return {name: _unmarked(str(value), marks) for name, value in parts.items()}


def _unmarked(value: str, marks: Mapping[str, str]) -> str:
    for mark, reference in marks.items():
        value = value.replace(mark, reference)
    return value


Secret = Annotated[str, AfterValidator(_no_literal)]
"""A reference to a secret: ``${env:PENSTOCK_SECRET_…}`` or ``${file:/run/secrets/…}``; never the secret itself."""
Dsn = Annotated[str, AfterValidator(_without_literal)]
"""A libpq connection string or URL; its secrets are references."""


def resolve(value: str, *, where: str, secrets: Path | None = None) -> str:
    """Replace each ``${env:…}`` and ``${file:…}`` in `value`; only workers may call this, and who checks webhooks.

    Variables must start with ``PENSTOCK_SECRET_``; files must be below ``/run/secrets`` or `secrets` (the project's
    own folder) after links are followed.

    Raises:
        SettingsError: a reference that is not allowed, or whose target does not exist.
    """

    def one(match: re.Match[str]) -> str:
        kind, name = match.groups()
        return _variable(name, where) if kind == "env" else _file(name, where, secrets)

    return _ANY_REFERENCE.sub(one, value)


def resolve_dsn(dsn: str, *, where: str, secrets: Path | None = None, **more: str) -> str:
    """Return a DSN with its references replaced, each as a value: no secret can change another keyword.

    A DSN that is one reference is what that says. `more` are further keywords.

    Raises:
        SettingsError: a reference that is not allowed, or text that is no DSN.
    """
    try:
        parts = _parts(resolve(dsn, where=where, secrets=secrets) if _REFERENCE.fullmatch(dsn) else dsn)
        resolved = {name: resolve(value, where=where, secrets=secrets) for name, value in parts.items()}
        return conninfo.make_conninfo("", **{**resolved, **more})
    except (ConninfoError, ValueError):
        raise SettingsError("is not a PostgreSQL connection string", where=where, hint="see libpq's conninfo") from None


def resolve_headers(values: Mapping[str, str], *, where: str, secrets: Path | None = None) -> dict[str, str]:
    """Return the headers of a request with their references replaced.

    Raises:
        SettingsError: as `resolve`; or a value has characters that no header may have.
    """
    resolved = {name: resolve(value, where=where, secrets=secrets) for name, value in values.items()}
    for name, value in resolved.items():
        if not (value.isascii() and value.isprintable()):
            what = f"the value of `{name}` has characters that are not allowed in a header"
            raise SettingsError(what, where=where, hint="look for line breaks in the secret")
    return resolved


def _variable(name: str, where: str) -> str:
    if not name.startswith(VARIABLES):
        raise SettingsError(f"${{env:{name}}} is not allowed", where=where, hint=f"name it {VARIABLES}…")
    if name not in os.environ:
        raise SettingsError(f"the variable {name} is not set", where=where, hint=f"export {name}=… and restart")
    return os.environ[name]


def _file(name: str, where: str, secrets: Path | None) -> str:
    path = Path(name).resolve()
    allowed = [folder.resolve() for folder in (*FOLDERS, *((secrets,) if secrets else ()))]
    if not any(path.is_relative_to(folder) for folder in allowed):
        hint = f"put it below {' or '.join(dict.fromkeys(map(str, allowed)))}"
        raise SettingsError(f"${{file:{name}}} is not allowed", where=where, hint=hint)
    try:
        return path.read_text().strip()
    except OSError as error:
        raise SettingsError(f"cannot read the secret file {name}: {error.strerror}", where=where) from error
