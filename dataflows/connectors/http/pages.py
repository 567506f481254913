"""Pages of an API, one after the other: where their records are, and how the next one is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import httpx
import msgspec

from dataflows.connectors.http.client import Answer, Client, ends_at
from penstock.errors import BadData
from penstock.models.http import LinkPages, NumberedPages, OffsetPages, Pagination, TokenPages

__all__ = ["Page", "pages"]

TABLE_OF_JSON: Final = dict[str, msgspec.Raw]


@dataclass(frozen=True, slots=True)
class Page:
    """The records of one answer, one JSON object a line."""

    number: int
    lines: bytes
    count: int


def pages(
    client: Client, url: httpx.URL, pagination: Pagination | None, records: str | None, where: str
) -> Iterator[Page]:
    """All pages, from the first on, one at a time.

    Raises:
        BadData: an answer that is no JSON, has no records where they should be, or asks for pages without end.
    """
    at: httpx.URL | None = _first(url, pagination)
    number, mark, last = 0, None, b""
    while at is not None:
        number += 1
        place = f"{where}: page {number}"
        answer = client.get(at)
        found = _records(answer.body, records, place)
        page = Page(number, b"\n".join(found), len(found))
        following = _next(pagination, at, answer, page, place)
        by_count = isinstance(pagination, NumberedPages | OffsetPages)
        if following is not None and (page.lines == last if by_count else following in {at, mark}):
            hint = "look at `pagination`: the server may not know the parameter"
            raise BadData("the API gives the same page again", where=place, hint=hint)
        if number & (number - 1) == 0:  # a cycle of any length comes back to such a mark
            mark = at
        if page.count:
            yield page
        at, last = following, page.lines


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
    if isinstance(pagination, NumberedPages | OffsetPages):
        step = 1 if isinstance(pagination, NumberedPages) else page.count
        number = int(at.params[pagination.parameter]) + step
        return at.copy_set_param(pagination.parameter, number) if page.count else None
    if isinstance(pagination, TokenPages):
        token = _token(answer.body, pagination.token, where)
        return at.copy_set_param(pagination.parameter, token) if token else None
    if isinstance(pagination, LinkPages):
        return _linked(pagination, at, answer, where)
    return None


def _linked(pagination: LinkPages, at: httpx.URL, answer: Answer, where: str) -> httpx.URL | None:
    link = answer.following if pagination.next is None else _token(answer.body, pagination.next, where)
    if not link:
        return None
    try:
        url = answer.url.join(link)
    except httpx.InvalidURL:
        raise BadData("the next page's link is no URL", where=where, hint="look at `pagination`") from None
    if not ends_at(url, at):
        hint = "write that host in the connection's `url`, if it is to be trusted"
        raise BadData("the next page is on another host", where=where, hint=hint)
    return url


def _token(body: bytes, path: str, where: str) -> str | None:
    """What stands at a path of the body, as a parameter; None where nothing, null, false or an empty text does."""
    found = _at(body, path, where)
    value = None if found is None else msgspec.json.decode(found)
    if value is None or value is False or value == "":
        return None
    if isinstance(value, str) or (isinstance(value, int) and value is not True):
        return str(value)
    raise BadData(f"what is at `{path}` is no text and no whole number", where=where, hint="look at `pagination`")


def _records(body: bytes, path: str | None, where: str) -> list[msgspec.Raw]:
    """The records of an answer, as they stand in it."""
    try:
        body.decode()
    except UnicodeDecodeError:
        raise BadData("the answer is no UTF-8", where=where, hint="JSON has to be") from None
    body = body.translate(_BREAKS)  # between tokens only: in texts they are escaped
    found = _whole(body, where) if path is None else _at(body, path, where)
    if found is None:
        hint = "look at the connection's `records`: names of keys with dots between"
        raise BadData(f"the answer has nothing at `{path}`", where=where, hint=hint)
    if bytes(found) == b"null":
        return []
    try:
        return msgspec.json.decode(found, type=list[msgspec.Raw])
    except msgspec.ValidationError:
        hint = "say by `records` where in the answer they are" if path is None else "look at `records`"
        raise BadData("the records are no array", where=where, hint=hint) from None


_BREAKS: Final = bytes.maketrans(b"\r\n", b"  ")


def _whole(body: bytes, where: str) -> msgspec.Raw:
    try:
        return msgspec.json.decode(body, type=msgspec.Raw)
    except msgspec.DecodeError:
        hint = "look at `url` and `object`: it may be a page for people"
        raise BadData("the answer is no JSON", where=where, hint=hint) from None


def _at(body: bytes, path: str, where: str) -> msgspec.Raw | None:
    """The value at a path, not parsed further; None where a key of it is missing."""
    found: msgspec.Raw | None = _whole(body, where)
    for name in path.split("."):
        try:
            found = None if found is None else msgspec.json.decode(found, type=TABLE_OF_JSON).get(name)
        except msgspec.ValidationError:
            return None
    return found
