"""Signs in a response that it failed although its status is 200, or that there are more records than it has.

APIs follow a few habits: `error`, `success: false`; a link, a cursor or a flag for the next page, a total. They are
looked for in the objects on the path to the records, and in small objects inside of these, never in the records.
"""

from __future__ import annotations

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
    "count", "totalcount", "totalresults", "totalrecords", "totalitems", "totalelements", "totalhits", "totalsize",
    "recordstotal",
})  # fmt: skip
_BESIDE_TOTAL: Final = frozenset({
    "limit", "perpage", "pagesize", "size", "page", "currentpage", "offset", "skip", "start", "startat", "maxresults",
    "pages", "totalpages",
})  # fmt: skip
"""Names that make `total` a number of records: by itself it may be a sum."""
_PAGES: Final = frozenset({"totalpages", "pagecount", "numpages", "lastpage", "pages"})
_FAILED: Final = frozenset({"error", "fail", "failed", "failure"})
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
            if value and (not count or value is True or isinstance(value, list | dict)):
                return name
        for name in ("success", "ok"):
            if values.get(name) is False:
                return name
        status = values.get("status")
        if not count and isinstance(status, str) and status.lower() in _FAILED:
            return "status"
    return None


def more_records(body: bytes, path: str | None, count: int) -> str | None:
    """Return the name in the body of a first page of `count` records that says that there are more."""
    for raw in _on_path(body, path):
        for members in _described(raw, DEPTH):
            if (name := _sign(members, count)) is not None:
                return name
    return None


def announced(body: bytes, path: str | None) -> tuple[int, str] | None:
    """Return the greatest number of records that a response announces for all pages, and its name; None without any."""
    found = (total for raw in _on_path(body, path) for members in _described(raw, DEPTH) for total in _totals(members))
    return max(found, default=None)


def _totals(members: dict[str, Any]) -> Iterator[tuple[int, str]]:
    for name, value in members.items():
        plain = _plain(name)
        of_records = plain in _TOTALS or (plain == "total" and not _BESIDE_TOTAL.isdisjoint(map(_plain, members)))
        if of_records and isinstance(value, int) and not isinstance(value, bool):
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


def _described(members: dict[str, msgspec.Raw], depth: int) -> Iterator[dict[str, Any]]:
    """Yield the members of an object that are small, and those of small objects in it."""
    small = {name: one for name, one in members.items() if len(bytes(one)) < MAX_BYTES}
    yield {name: _value(one) for name, one in small.items() if not bytes(one).startswith(b"[")}
    for one in small.values() if depth > 1 else ():
        if bytes(one).startswith(b"{"):
            yield from _described(_members(one), depth - 1)


def _sign(members: dict[str, Any], count: int) -> str | None:
    if (name := next((name for total, name in _totals(members) if total > count), None)) is not None:
        return name
    for name, value in members.items():
        plain, whole = _plain(name), isinstance(value, int) and not isinstance(value, bool)
        if plain in _NEXT and _leads_on(value):
            return name
        if (plain in _MORE and value is True) or (plain in _LAST and value is False):
            return name
        if whole and value > 1 and plain in _PAGES:
            return name
    return None


def _leads_on(value: Any) -> bool:
    if isinstance(value, dict):
        return any(_leads_on(value.get(name)) for name in ("href", "url", "cursor"))
    return value is not True and bool(value) and isinstance(value, str | int)


def _plain(name: str) -> str:
    """Return a name without case and signs: ``@odata.nextLink`` is ``nextlink``."""
    return "".join(one for one in name.lower().removeprefix("@odata.").removeprefix("odata.") if one.isalnum())


def _value(raw: msgspec.Raw) -> Any:
    try:
        return _any(raw)
    except (msgspec.DecodeError, RecursionError):
        return None
