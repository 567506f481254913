"""Read an API page by page: find the records of a page, and the request for the next one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, cast

import httpx
import msgspec

from dataflows.connectors.http.client import Answer, Client, same_origin
from dataflows.connectors.http.signs import announced, failure, more_records
from dataflows.data.repeats import named_twice
from penstock.errors import BadData, PenstockError, Unavailable
from penstock.models.http import LinkPages, NumberedPages, OffsetPages, OnePage, Pagination, TokenPages

__all__ = ["Page", "pages"]


MAX_RECORDS: Final = 1_000_000
"""Limit of records on a page; each takes a hundred bytes or more while the page is parsed."""
END_STATUSES: Final = frozenset({404, 416})
"""Status codes of servers for a page beyond the last one."""


@dataclass(frozen=True, slots=True)
class Page:
    """Records of one response, one JSON object a line."""

    number: int
    lines: bytes
    count: int


def pages(
    client: Client,
    url: httpx.URL,
    pagination: Pagination | None,
    records: str | None,
    where: str,
    *,
    whole: bool = True,
    errors: bool = True,
) -> Iterator[Page]:
    """Yield all pages, from the first on, one at a time; `whole`: the URL asks for all records, not just for some.

    `errors`: a response whose body says that the request failed is refused.

    Raises:
        BadData: a response is not JSON, has no records at `records`, repeats a page, or is the only one though it says
            that there are more.
        Unavailable: a response with the status 200 says that the request failed; or a page is the last one although
            fewer records were received than the API has announced: others may have moved meanwhile.
    """
    at: httpx.URL | None = _first(url, pagination)
    by_count = isinstance(pagination, NumberedPages | OffsetPages)
    ends = (
        END_STATUSES.union(pagination.end_status)
        if isinstance(pagination, NumberedPages | OffsetPages)
        else END_STATUSES
    )
    number, received, mark, last, total = 0, 0, None, b"", None
    known = whole and not (pagination is None or isinstance(pagination, OnePage) or pagination.total is False)
    said = (0, "")
    while at is not None:
        number += 1
        place = f"{where}: page {number}"
        answer = client.get(at, ends if by_count and number > 1 else frozenset())
        if answer is None:
            break
        raw_records = _records(answer.body, records, place)
        page = Page(number, b"\n".join(raw_records), len(raw_records))
        if errors:
            _check_success(answer, records, page, place)
        received += page.count
        said = max(said, (announced(answer.body, records) if known else None) or said)
        total = _total(pagination, answer.body, total, place)
        following = _next(pagination, at, answer, page, place) if total is None or received < total else None
        if following is None and number == 1 and total is None:
            _check_only_page(pagination, answer, records, page, place, whole=whole)
        if following is not None and (page.lines == last if by_count else following in {at, mark}):
            hint = "check `pagination`: the server may not know the parameter; set `more` or `total` if it has them"
            raise BadData("the API returned the same page again", where=place, hint=hint)
        if number & (number - 1) == 0:  # Brent's algorithm: a cycle of any length returns to such a mark
            mark = at
        if page.count:
            yield page
        at, last = following, page.lines
    if total is None and received < said[0]:
        what = f"the API says by `{said[1]}` that there are {said[0]} records, but returned {received}"
        hint = (
            "run it again: some may have moved to a page read before; `pagination: {total: false}` ignores the number"
        )
        raise Unavailable(what, where=where, hint=hint)
    if total is not None and received < total:
        what = f"the API announced {total} records, but returned {received}"
        hint = "run it again; or check `pagination`, and the permissions of the key"
        raise Unavailable(what, where=where, hint=hint)


def _check_success(answer: Answer, records: str | None, page: Page, where: str) -> None:
    """Refuse a response that says that the request failed: a missing page would pass for the end of the records."""
    if name := failure(answer.body, records, page.count):
        what = f"the API answers 200, and its body says by `{name}` that the request failed"
        hint = "try again; or look at what the API says there: `errors: ignore` takes such a page for what it has"
        raise Unavailable(what, where=where, hint=hint)


def _check_only_page(
    pagination: Pagination | None, answer: Answer, records: str | None, page: Page, where: str, *, whole: bool
) -> None:
    """Refuse a first page that is the last one by the connection's settings, and not by what it says itself.

    Where there is a `pagination`, the number of records is checked at the end.
    """
    by_count = isinstance(pagination, OnePage | NumberedPages | OffsetPages)
    if by_count or _says(pagination, answer, where):
        return
    count = page.count if pagination is None else None
    sign = "Link" if answer.following else more_records(answer.body, records, count, whole=whole)
    if sign is not None:
        hint = "set how the next page is requested by `pagination`, or `pagination: {type: none}` if one is enough"
        raise BadData(
            f"the API says by `{sign}` that there are more records than this page has", where=where, hint=hint
        )


def _says(pagination: Pagination | None, answer: Answer, where: str) -> bool:
    """True if the body says in the way that the connection declares that there is no other page."""
    if pagination is None:
        return False
    if pagination.more is not None:
        return True
    path = pagination.token if isinstance(pagination, TokenPages) else getattr(pagination, "next", None)
    return path is not None and bool(answer.body) and _at(answer.body, path, where) is not None


def _total(pagination: Pagination | None, body: bytes, known: int | None, where: str) -> int | None:
    """Return the greatest number announced so far: records may be added or deleted while others are read."""
    if pagination is None or not pagination.total:
        return None
    text = _token(body, pagination.total, where)
    if text is not None and text.isdigit():
        return max(int(text), known or 0)
    if known is None:
        what = f"the value at `{pagination.total}` is not a number of records"
        raise BadData(what, where=where, hint="check `pagination.total`")
    return known


def _first(url: httpx.URL, pagination: Pagination | None) -> httpx.URL:
    given: dict[str, Any] = {}
    if isinstance(pagination, NumberedPages):
        given[pagination.parameter] = pagination.first
    if isinstance(pagination, OffsetPages):
        given[pagination.parameter] = 0
    if pagination is not None and pagination.size is not None:
        given[pagination.size_parameter] = pagination.size
    return url.copy_merge_params(given) if given else url


def _next(pagination: Pagination | None, at: httpx.URL, answer: Answer, page: Page, where: str) -> httpx.URL | None:
    if pagination is not None and pagination.more is not None and not _more(pagination.more, answer.body, page, where):
        return None
    if isinstance(pagination, NumberedPages | OffsetPages):
        step = 1 if isinstance(pagination, NumberedPages) else page.count
        number = int(at.params[pagination.parameter]) + step
        return at.copy_set_param(pagination.parameter, number) if page.count else None
    if isinstance(pagination, TokenPages):
        token = _token(answer.body, pagination.token, where)
        return at.copy_set_param(pagination.parameter, token) if token else None
    if isinstance(pagination, LinkPages):
        return _next_link(pagination, at, answer, where)
    return None


def _more(path: str, body: bytes, page: Page, where: str) -> bool:
    """True if the API says that there is another page."""
    value = _at(body, path, where) if body else b"false"
    said = None if value is None else _MORE.get(bytes(value))
    if said is None:
        raise BadData(f"the value at `{path}` is neither true nor false", where=where, hint="check `pagination.more`")
    if said and not page.count:
        hint = "check `records` and `pagination`"
        raise BadData("the API says that there are more records, but returned an empty page", where=where, hint=hint)
    return said


_MORE: Final = {b"true": True, b"false": False, b"1": True, b"0": False, b"null": False}


def _next_link(pagination: LinkPages, at: httpx.URL, answer: Answer, where: str) -> httpx.URL | None:
    link = answer.following if pagination.next is None else _token(answer.body, pagination.next, where)
    if not link:
        return None
    try:
        url = answer.url.join(link)
    except httpx.InvalidURL:
        raise BadData("the next page's link is not a URL", where=where, hint="check `pagination`") from None
    if at.scheme == "https" and same_origin(url.copy_with(scheme="https"), at) and url.port is None:
        url = url.copy_with(scheme="https")  # servers behind a proxy that ends TLS do not know of it
    if not same_origin(url, at):
        hint = "write that host in the connection's `url`, if it is to be trusted"
        raise BadData("the next page is on another host", where=where, hint=hint)
    return url


def _token(body: bytes, path: str, where: str) -> str | None:
    """Return the value at a path of the body as a parameter; None if it is missing, null, false or empty."""
    raw = _at(body, path, where)
    value = None if raw is None else _decoded(bytes(raw), Any, where)
    if value is None or value is False or value == "":
        return None
    if isinstance(value, str) or (isinstance(value, int) and value is not True):
        return str(value)
    raise BadData(f"the value at `{path}` is neither text nor an integer", where=where, hint="check `pagination`")


def _records(body: bytes, path: str | None, where: str) -> list[msgspec.Raw]:
    """Return the records of a response, each as JSON text."""
    if not body:  # 204
        return []
    try:
        body.decode()
    except UnicodeDecodeError:
        raise BadData("the response is not UTF-8", where=where, hint="JSON has to be UTF-8") from None
    body = body.translate(_BREAKS)  # line breaks are only between tokens: strings escape them
    raw = _whole(body, where) if path is None else _at(body, path, where)
    if raw is None:
        hint = "check the connection's `records`: keys separated by dots"
        raise BadData(f"the response has nothing at `{path}`", where=where, hint=hint)
    data = bytes(raw)
    if data == b"null":
        return []
    if not data.startswith(b"["):
        hint = "set `records` to their path in the response" if path is None else "check `records`"
        raise BadData("the records are not an array", where=where, hint=hint)
    if data.count(b",") >= MAX_RECORDS and _count(data) > MAX_RECORDS:
        hint = "ask for fewer records a page by `pagination.size`"
        raise BadData(f"a page has more than {MAX_RECORDS:,} records", where=where, hint=hint)
    return cast("list[msgspec.Raw]", _decoded(data, list[msgspec.Raw], where))


def _count(array: bytes) -> int:
    """Count the elements of an array without parsing it."""
    depth = commas = 0
    for sign in _SIGNS.finditer(array):
        one = array[sign.start()]
        if one == _COMMA:
            commas += depth == 1
        elif one != _QUOTE:
            depth += 1 if one in b"[{" else -1
    return commas + 1


_BREAKS: Final = bytes.maketrans(b"\r\n", b"  ")
_SIGNS: Final = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{},]')
_NAN: Final = re.compile(rb"\b(NaN|Infinity)\b")
_COMMA, _QUOTE = b',"'
_ABSENT: Final = msgspec.Raw(b"")


def _decoded(data: bytes, kind: Any, where: str) -> Any:
    try:
        return msgspec.json.decode(data, type=kind)
    except RecursionError:
        what = "the response is nested too deeply to be read"
        raise BadData(what, where=where, hint="check `url` and `object`") from None
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError:
        raise _not_json(data, where) from None


def _not_json(data: bytes, where: str) -> PenstockError:
    text = data.strip()
    if text[:1] in {b"[", b"{"} and text[-1:] not in {b"]", b"}"}:
        return Unavailable("the response ends in the middle of its JSON", where=where, hint="try again")
    hint = "check `url` and `object`: it may be an HTML page"
    if _NAN.search(_SIGNS.sub(_without_text, text)):
        hint = "it has NaN or Infinity, which JSON has no word for: have the API send null, or texts"
    return BadData("the response is not JSON", where=where, hint=hint)


def _without_text(found: re.Match[bytes]) -> bytes:
    return b"" if found[0].startswith(b'"') else found[0]


def _whole(body: bytes, where: str) -> msgspec.Raw:
    return cast("msgspec.Raw", _decoded(body, msgspec.Raw, where))


def _at(body: bytes, path: str, where: str) -> msgspec.Raw | None:
    """Return the value at a path as JSON text; None if a key is missing."""
    value: msgspec.Raw | None = _whole(body, where) if body else None
    for name in path.split("."):
        if not value:
            return None
        document = bytes(value)
        try:
            value = _decoded(document, _field(name), where).value
        except msgspec.ValidationError:
            return None
        if named_twice(document, name):
            hint = "fix the API: parsers keep only one of them"
            raise BadData(f"the name `{name}` occurs twice in one object of the response", where=where, hint=hint)
    return value if value and bytes(value) else None


@cache
def _field(name: str) -> type[msgspec.Struct]:
    """Return a struct type that decodes one key of an object."""
    fields: Any = [("value", msgspec.Raw, _ABSENT)]
    return msgspec.defstruct("Field", fields, rename={"value": name})
