"""Signs in a response that it failed although its status is 200, or that there are more records than it has.

APIs follow a few habits: `error`, `success: false`; a link, a cursor or a flag for the next page, a total. They are
looked for in the objects on the path to the records, and in small objects inside of these, never in the records.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Final

import msgspec

__all__ = ["announced", "failure", "more_records", "next_links"]

MAX_BYTES: Final = 1 << 16
"""Longest object that is taken for a description of the page, not for data."""
DEPTH: Final = 3
_NEXT: Final = frozenset({
    "next", "nextpage", "nexturl", "nexturi", "nexthref", "nextlink", "nextpageurl", "nextpagelink", "nextcursor",
    "nextpagecursor", "nextpagetoken", "nexttoken", "nextmarker", "nextoffset", "nextrecordsurl", "continuation",
    "continuationtoken", "nextcontinuationtoken",
})  # fmt: skip
_MORE: Final = frozenset({
    "more", "hasmore", "hasnext", "hasnextpage", "hasmorepages", "hasmoreresults", "morerecords", "moreresults",
    "moreresultsavailable", "istruncated", "truncated", "incompleteresults", "exceededtransferlimit",
})  # fmt: skip
_LAST: Final = frozenset({"last", "islast", "islastpage"})
_TOTALS: Final = frozenset({
    "totalcount", "totalrecords", "totalitems", "totalelements", "totalhits", "totalsize", "recordsfiltered",
})  # fmt: skip
"""Not `totalResults`, which is an estimate in large APIs, nor `recordsTotal`, of which a filter takes some."""
_OF_PAGE: Final = frozenset({
    "limit", "perpage", "pagesize", "size", "offset", "skip", "start", "startat", "maxresults", "itemsperpage",
})  # fmt: skip
"""Names of what was asked for: beside them, `total` is a number of records, and `count` may be the page's."""
_PLACE_OF_PAGE: Final = frozenset({"page", "currentpage", "pages", "totalpages"})
_PAGES: Final = frozenset({"totalpages", "pagecount", "numpages", "lastpage", "pages"})
_VAGUE: Final = _TOTALS | {"count", "total", "pages"}
"""Names that are about the records only in an object that describes the page; elsewhere they may be about others."""
_DESCRIBING: Final = frozenset({
    "meta", "metadata", "info", "page", "pageinfo", "pageinformation", "paging", "pagination", "pager", "links",
    "cursor", "cursors", "summary", "responsemetadata", "resultset", "resultinfo",
})  # fmt: skip
_FAILED: Final = frozenset({"error", "fail", "failed", "failure"})
_FINE: Final = frozenset({"200", "ok", "success", "none"})
"""Codes in an `error` object of APIs that always send one."""
_any: Final = msgspec.json.Decoder(float_hook=str).decode
_members: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def failure(body: bytes, path: str | None, count: int) -> str | None:
    """Return the name in the body that says that the request failed; None if it says nothing of that kind.

    Beside `count` records an `error` is a failure if it is a list, an object or true; without any, whatever it is.
    """
    for raw in _on_path(body, path):
        values = {name.lower(): _value(one) for name, one in raw.items() if len(bytes(one)) < MAX_BYTES}
        for name in ("error", "errors"):
            value = values.get(name)
            if _tells(value) and (not count or value is True or isinstance(value, list | dict)):
                return name
        for name in ("success", "ok"):
            if values.get(name) is False:
                return name
        status = values.get("status")
        if not count and isinstance(status, str) and status.lower() in _FAILED:
            return "status"
    return None


def _tells(value: Any) -> bool:
    """True if the value of an `error` tells of one: empty ones do not, nor those whose code is that of a success."""
    if isinstance(value, dict):
        code = "" if value.get("code") is None else str(value["code"]).lower()
        if code == "0":  # a success in some APIs, and in others any error
            code = str(value.get("message") or "ok").lower()
        return code not in _FINE and any(map(_tells, value.values()))
    return any(map(_tells, value)) if isinstance(value, list) else bool(value)


def more_records(body: bytes, path: str | None, count: int | None, *, whole: bool) -> str | None:
    """Return the name in the body of a first page that says that there are more records.

    So does a number of records above `count`, if it is given, and a number of pages if the page is one of all records
    (`whole`): others may be the numbers of all, where some were asked for.
    """
    most = count if whole and count is not None else math.inf
    for raw in _on_path(body, path):
        for members in _described(raw, DEPTH):
            found = [name for total, name in _totals(members) if total > most]
            found += [name for name, value in members.items() if _says_more(_plain(name), value, whole=whole)]
            if found:
                return found[0]
    return None


def announced(body: bytes, path: str | None) -> tuple[int, str] | None:
    """Return the greatest number of records that a response announces for all pages, and its name; None without any."""
    found = (total for raw in _on_path(body, path) for members in _described(raw, DEPTH) for total in _totals(members))
    return max(found, default=None)


def _totals(members: dict[str, Any]) -> Iterator[tuple[int, str]]:
    names = set(map(_plain, members))
    asked = not names.isdisjoint(_OF_PAGE)
    vague = {"total": asked or not names.isdisjoint(_PLACE_OF_PAGE), "count": not asked and "total" not in names}
    for name, value in members.items():
        plain = _plain(name)
        if (plain in _TOTALS or vague.get(plain)) and isinstance(value, int) and not isinstance(value, bool):
            yield value, name


def next_links(header: str) -> list[str]:
    """Return the URLs of a ``Link`` header with the relation `next`, alone or among others, in any case (RFC 8288)."""
    found = []
    for part in header.split("<")[1:]:
        url, _, parameters = part.partition(">")
        for parameter in parameters.split(";"):
            name, _, value = parameter.partition("=")
            relations = value.strip().rstrip(",").strip().strip('"').lower().split()
            if name.strip().lower() == "rel" and "next" in relations:
                found.append(url.strip())
    return found


def _on_path(body: bytes, path: str | None) -> Iterator[dict[str, msgspec.Raw]]:
    """Yield the objects on the path to the records, the whole body first."""
    value = body
    for name in (path or "").split("."):
        try:
            members = _members(value)
        except (msgspec.DecodeError, RecursionError):
            return
        yield members
        value = bytes(members.get(name, b""))


def _described(members: dict[str, msgspec.Raw], depth: int, *, of_page: bool = True) -> Iterator[dict[str, Any]]:
    """Yield the members of an object that are small, and those of small objects in it, without vague ones of others."""
    small = {name: one for name, one in members.items() if len(bytes(one)) < MAX_BYTES}
    telling = {name: one for name, one in small.items() if of_page or _plain(name) not in _VAGUE}
    yield {name: _value(one) for name, one in telling.items() if not bytes(one).startswith(b"[")}
    for name, one in small.items() if depth > 1 else ():
        if bytes(one).startswith(b"{"):
            yield from _described(_members(one), depth - 1, of_page=of_page and _plain(name) in _DESCRIBING)


def _says_more(plain: str, value: Any, *, whole: bool) -> bool:
    if plain in _PAGES:
        return whole and isinstance(value, int) and value is not True and value > 1
    return (
        (plain in _NEXT and _leads_on(value))
        or (plain in _MORE and value is True)
        or (plain in _LAST and value is False)
    )


def _leads_on(value: Any) -> bool:
    if isinstance(value, dict):
        return any(_leads_on(value.get(name)) for name in ("href", "url", "link", "cursor", "after"))
    return value is not True and bool(value) and isinstance(value, str | int)


def _plain(name: str) -> str:
    """Return a name without case and signs: ``@odata.nextLink`` is ``nextlink``."""
    return "".join(one for one in name.lower().removeprefix("@odata.").removeprefix("odata.") if one.isalnum())


def _value(raw: msgspec.Raw) -> Any:
    try:
        return _any(raw)
    except (msgspec.DecodeError, RecursionError):
        return None
