"""The pages of an API: which request follows which answer, and where the reading ends."""

from __future__ import annotations

import json
from typing import Any, cast

import httpx
import pytest

from dataflows.connectors.http import pages as module
from dataflows.connectors.http.client import Answer, Client
from dataflows.connectors.http.pages import pages
from dataflows.connectors.http.signs import next_links
from penstock.errors import BadData, Unavailable
from penstock.models.http import LinkPages, NumberedPages, OffsetPages, OnePage, TokenPages

URL = httpx.URL("https://api/items?q=1")


class Answers:
    """A client that gives one answer after another, and keeps what it was asked for; None ends the pages."""

    def __init__(self, *answers: Any, following: tuple[str | None, ...] = ()) -> None:
        self.bodies = [one if isinstance(one, bytes) else json.dumps(one).encode() for one in answers]
        self.following = following
        self.asked: list[str] = []
        self.ends: list[frozenset[int]] = []

    def get(self, url: httpx.URL, ends: frozenset[int]) -> Answer | None:
        at = len(self.asked)
        self.asked.append(str(url).removeprefix("https://api/items?"))
        self.ends.append(ends)
        if self.bodies[at] == b"null":
            return None
        return Answer(self.bodies[at], url, self.following[at] if self.following else None)

    def read(
        self, pagination: Any = None, records: str | None = None, *, whole: bool = True, errors: bool = True
    ) -> list[tuple[int, int, bytes]]:
        found = pages(cast("Client", self), URL, pagination, records, "items", whole=whole, errors=errors)
        return [(one.number, one.count, one.lines) for one in found]


def test_numbered_pages_end_with_an_empty_one_or_with_a_status_of_the_end() -> None:
    by = NumberedPages(type="page", parameter="p", first=0, size=2, size_parameter="n", end_status=[400])
    api = Answers([{"a": 1}, {"a": 2}], [{"a": 3}], [])
    assert api.read(by) == [(1, 2, b'{"a": 1}\n{"a": 2}'), (2, 1, b'{"a": 3}')]
    assert api.asked == ["q=1&p=0&n=2", "q=1&p=1&n=2", "q=1&p=2&n=2"]
    assert api.ends == [frozenset(), frozenset({404, 416, 400}), frozenset({404, 416, 400})]
    assert len(Answers([{"a": 1}], None).read(by)) == 1


def test_offsets_move_by_the_records_that_came() -> None:
    api = Answers([1, 2], [3], b"")
    assert [count for _, count, _ in api.read(OffsetPages(type="offset"))] == [2, 1]
    assert api.asked == ["q=1&offset=0", "q=1&offset=2", "q=1&offset=3"]


def test_tokens_are_followed_until_there_is_none() -> None:
    by = TokenPages(type="cursor", parameter="c", token="meta.next")
    ends: tuple[Any, ...] = (None, False, "", {})
    for end in ends:
        last = {"items": [3]} if end == {} else {"items": [3], "meta": {"next": end}}
        api = Answers({"items": [1], "meta": {"next": "x"}}, {"items": [2], "meta": {"next": 0}}, last)
        assert [lines for *_, lines in api.read(by, "items")] == [b"1", b"2", b"3"]
        assert api.asked == ["q=1", "q=1&c=x", "q=1&c=0"]
        assert api.ends == [frozenset()] * 3, "a missing page is an error"
    for token in (True, 1.5, ["x"]):
        with pytest.raises(BadData, match="neither text nor an integer"):
            Answers({"items": [1], "meta": {"next": token}}).read(by, "items")


def test_links_are_followed_in_the_header_or_the_body_and_to_no_other_host() -> None:
    api = Answers([1], [2], following=("/items?q=1&page=2", None))
    assert [lines for *_, lines in api.read(LinkPages(type="link"))] == [b"1", b"2"]
    assert api.asked == ["q=1", "q=1&page=2"]
    by = LinkPages(type="link", next="next")
    api = Answers({"items": [1], "next": "?page=2"}, {"items": [2]}, following=("/wrong", "/wrong"))
    assert len(api.read(by, "items")) == 2
    assert api.asked == ["q=1", "page=2"]
    with pytest.raises(BadData, match="another host"):
        Answers({"items": [1], "next": "https://evil/items"}).read(by, "items")
    with pytest.raises(BadData, match="not a URL"):
        Answers({"items": [1], "next": "https://api:x/"}).read(by, "items")


def test_the_api_says_whether_there_is_more() -> None:
    by = NumberedPages(type="page", more="more")
    for no in (False, 0, None):
        api = Answers({"items": [1], "more": True}, {"items": [2], "more": 1}, {"items": [3], "more": no})
        assert len(api.read(by, "items")) == 3
    api = Answers({"items": [1], "more": True}, b"")
    assert len(api.read(by, "items")) == 1
    assert len(Answers({"items": [], "more": False}).read(by, "items")) == 0
    for body, said in (
        ({"items": [1]}, "neither true nor false"),
        ({"items": [1], "more": "yes"}, "neither true nor false"),
        ({"items": [], "more": True}, "empty page"),
    ):
        with pytest.raises(BadData, match=said):
            Answers(body).read(by, "items")


def test_as_many_records_are_read_as_the_pages_announce() -> None:
    by = NumberedPages(type="page", total="total")
    api = Answers({"items": [1, 2], "total": 3}, {"items": [3], "total": 3})
    assert (len(api.read(by, "items")), len(api.asked)) == (2, 2), "no request beyond the last"
    added = Answers({"items": [4, 3], "total": 4}, {"items": [3, 2], "total": 5}, {"items": [1], "total": 5})
    assert [lines for *_, lines in added.read(by, "items")] == [b"4\n3", b"3\n2", b"1"], "a fifth one came before them"
    deleted = Answers({"items": [1, 2], "total": 5}, {"items": [4, 5], "total": 4}, {"items": [], "total": 4})
    with pytest.raises(Unavailable, match="announced 5 records, but returned 4"):
        deleted.read(by, "items")
    with pytest.raises(Unavailable, match="announced 3 records, but returned 2"):
        Answers({"items": [1, 2], "total": 3}, {"items": [], "total": 3}).read(by, "items")
    for total in ("x", "", None):
        with pytest.raises(BadData, match="not a number of records"):
            Answers({"items": [1], "total": total}).read(by, "items")
    assert len(Answers({"items": [1], "total": "1"}).read(by, "items")) == 1


def test_pages_that_repeat_are_refused_whatever_their_cycle() -> None:
    def answers(of: list[str]) -> Answers:
        return Answers(*({"items": [n], "next": of[n % len(of)]} for n in range(40)))

    by = TokenPages(type="cursor", token="next")
    for cycle in (["a"], ["a", "b"], ["a", "b", "c", "d", "e"]):
        with pytest.raises(BadData, match="same page again") as found:
            answers(cycle).read(by, "items")
        assert int((found.value.where or "").rpartition(" ")[2]) <= 4 * len(cycle)
    tokens = [str(n) for n in range(19)]
    api = Answers(*({"items": [n], "next": tokens[n] if n < 19 else None} for n in range(20)))
    assert len(api.read(by, "items")) == 20
    with pytest.raises(BadData, match="same page again"):
        Answers([1], [1]).read(NumberedPages(type="page"))
    assert len(Answers([1], [2], [1], []).read(NumberedPages(type="page"))) == 3


def test_the_records_of_a_page_are_an_array_at_their_path() -> None:
    assert Answers({"a": {"b": [1, {"x": "\n"}]}}).read(None, "a.b") == [(1, 2, b'1\n{"x": "\\n"}')]
    assert Answers(b" [1,\r\n 2] ").read() == [(1, 2, b"1\n2")]
    assert Answers({"a": None}).read(None, "a") == Answers(b"").read() == Answers(b" null ").read() == []
    for body, path, said, hint in (
        ({"b": [1]}, "a", "nothing at `a`", "check the connection"),
        ({"a": 1}, "a.b", "nothing at `a.b`", "check the connection"),
        ({"a": 1}, "a", "not an array", "check `records`"),
        ({"a": [1]}, None, "not an array", "set `records`"),
        (b"\xff", None, "not UTF-8", "JSON has to be UTF-8"),
        (b"<html>", None, "not JSON", "HTML"),
        (b"[" * 9000 + b"]" * 9000, None, "nested too deeply", "check `url`"),
        (b'{"a":' * 9000 + b"1" + b"}" * 9000, "a", "nested too deeply", "check `url`"),
        (b'{"a": [1], "a": [2]}', "a", "occurs twice", "parsers keep only one"),
    ):
        with pytest.raises(BadData, match=said) as found:
            Answers(body).read(None, path)
        assert hint in (found.value.hint or "")


def test_a_page_of_too_many_records_is_refused_before_it_is_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_RECORDS", 3)
    for body, records in ((b"[1,2,3]", 3), (b'[{"a":[1,2],"b":"x,[,"},2,[3,4,5]]', 3), (b'["a\\",\\",\\","]', 1)):
        assert Answers(body).read()[0][1] == records
    for body in (b"[1,2,3,4]", b'[[1],{"a":[]},"",4]'):
        with pytest.raises(BadData, match="more than 3 records"):
            Answers(body).read()


def test_fewer_records_than_the_api_announces_by_a_usual_name_are_refused() -> None:
    """Records that are deleted while pages are read move others to pages that were read before."""
    kinds: tuple[Any, ...] = (
        NumberedPages(type="page"), OffsetPages(type="offset"), TokenPages(type="cursor", token="next"),
    )  # fmt: skip
    for name in ("count", "total_count", "totalElements"):
        for by in kinds:
            one: dict[str, Any] = {"items": [1, 2], "meta": {name: 5}, "next": "x"}
            moved = (one, {"items": [4, 5], "meta": {name: 4}, "next": "y"}, {"items": [], "meta": {name: 4}})
            with pytest.raises(Unavailable, match=f"by `{name}` that there are 5 .* returned 4"):
                Answers(*moved).read(by, "items")
            assert len(Answers(*moved).read(by.model_copy(update={"total": False}), "items")) == 2
            assert len(Answers(*moved).read(by, "items", whole=False)) == 2, "it may count all, and return some"
    api = Answers({"items": [1], "count": 1, "total": 2.5}, {"items": [2], "count": 1, "total": 9}, {"items": []})
    assert len(api.read(kinds[0], "items")) == 2


PAGE_SIGNS: tuple[dict[str, Any], ...] = (
    {"next": "https://api/items?page=2"}, {"next_page_token": "x"}, {"nextCursor": 7}, {"@odata.nextLink": "/x"},
    {"_links": {"next": {"href": "/items?page=2"}}}, {"paging": {"next": {"after": "x"}}},
    {"meta": {"paging": {"next_url": "/2"}}}, {"x": {"next_cursor": "x"}},
    {"has_more": True}, {"last": False}, {"pageInfo": {"hasNextPage": True}},
    {"incomplete_results": True}, {"total_count": 2}, {"count": 2}, {"@odata.count": 2}, {"totalElements": 5},
    {"total": 2, "limit": 1}, {"meta": {"total_pages": 2}}, {"current_page": 1, "last_page": 2},
)  # fmt: skip
NO_SIGNS: tuple[dict[str, Any], ...] = (
    {}, {"next": None}, {"next": ""}, {"next_cursor": ""}, {"links": {"next": None}}, {"has_more": False}, {"count": 1},
    {"total": 250}, {"total": "2", "limit": 1}, {"total_pages": 1}, {"last": True}, {"last": {"id": 1}}, {"more": "x"},
    {"facets": [{"next": "x", "count": 9}]}, {"page": 1, "total": 1},
)  # fmt: skip


@pytest.mark.parametrize("path", ["items", "data.items"])
def test_an_only_page_that_says_that_there_are_more_is_refused(path: str) -> None:
    def body(signs: dict[str, Any], records: Any) -> dict[str, Any]:
        return {"items": records, **signs} if path == "items" else {"data": {"items": records, **signs}}

    records = [{"id": 1, "next": "x", "has_more": True, "count": 9}]
    for signs in PAGE_SIGNS:
        for pagination in (None, LinkPages(type="link"), TokenPages(type="cursor", token="nowhere")):
            with pytest.raises(
                (BadData, Unavailable), match=r"more records than this page has|there are \d records"
            ) as found:
                Answers(body(signs, records)).read(pagination, path)
            assert "pagination" in str(found.value.hint)
        assert len(Answers(body(signs, records)).read(OnePage(type="none"), path)) == 1
    for signs in NO_SIGNS:
        assert len(Answers(body(signs, records)).read(None, path)) == 1
    with pytest.raises(BadData, match="`Link`"):
        Answers([1], following=("/items?page=2",)).read()
    told = Answers({"items": records, "cursor": None, "has_more": True})
    assert len(told.read(TokenPages(type="cursor", token="cursor"), "items")) == 1, "the declared sign counts"


COMPLETE: tuple[dict[str, Any], ...] = (
    {"paging": {"start": 0, "count": 10, "total": 1}}, {"recordsTotal": 40, "recordsFiltered": 1},
    {"pageInfo": {"totalResults": 1_000_000, "resultsPerPage": 1}}, {"info": {"count": 1, "pages": 1, "next": None}},
    {"facets": {"color": {"count": 120}}, "sums": {"total": 9, "limit": 3}, "book": {"pages": 320}},
    {"quota": {"totalSize": 10**10}}, {"error": {"code": "ok", "message": "", "log_id": "x"}}, {"errors": {}},
    {"error": {"code": 0, "message": "OK"}}, {"error": {"code": 0, "message": None}}, {"errors": [None]},
)  # fmt: skip
"""What APIs say of a page that has all records."""


@pytest.mark.parametrize("said", COMPLETE, ids=str)
def test_what_apis_say_of_a_page_with_all_records_is_not_taken_for_more(said: dict[str, Any]) -> None:
    kinds: tuple[Any, ...] = (
        None, LinkPages(type="link"), TokenPages(type="cursor", token="token"), NumberedPages(type="page"),
        OffsetPages(type="offset"),
    )  # fmt: skip
    for by in kinds:
        assert len(Answers({"items": [1], **said}, {"items": [], **said}).read(by, "items")) == 1


def test_numbers_of_all_records_are_no_sign_where_some_are_asked_for() -> None:
    for said in ({"total_count": 5000}, {"meta": {"total_pages": 50}}):
        assert len(Answers({"items": [1], **said}).read(None, "items", whole=False)) == 1
    off = LinkPages(type="link", total=False)
    assert len(Answers({"items": [1], "total_count": 2}).read(off, "items")) == 1


def test_a_response_that_says_that_the_request_failed_is_no_end_of_the_records() -> None:
    by = NumberedPages(type="page")
    for said in (
        {"items": [], "error": "rate limited"}, {"items": None, "errors": [{"x": 1}]}, {"items": [], "ok": False},
        {"items": [], "success": False}, {"items": [], "status": "Error"}, {"items": [2], "errors": ["half of it"]},
        {"items": [2], "success": False}, {"items": [2], "Error": {"code": 5}},
        {"items": [], "error": {"code": 0, "message": "no access"}}, {"items": [], "error": {"code": None, "x": "y"}},
    ):  # fmt: skip
        with pytest.raises(Unavailable, match="its body says") as found:
            Answers({"items": [1]}, said).read(by, "items")
        assert "errors: ignore" in str(found.value.hint)
        read = Answers({"items": [1]}, said, {"items": []}).read(by, "items", errors=False)
        assert len(read) == 1 + bool(said["items"])
    nothing: tuple[Any, ...] = (None, "", [], 0)
    for fine in (*({"error": value} for value in nothing), {"success": True}, {"status": "ok"}):
        assert len(Answers({"items": [1], **fine}, {"items": [], **fine}).read(by, "items")) == 1
    assert len(Answers({"items": [{"error": "x"}], "error": "none"}, {"items": []}).read(by, "items")) == 1
    assert len(Answers([{"error": {"code": 1}}], []).read(by)) == 1


def test_a_link_without_tls_is_followed_with_it_on_the_same_host() -> None:
    by = LinkPages(type="link", next="next")
    api = Answers({"items": [1], "next": "http://api/items?page=2"}, {"items": [2], "next": None})
    assert len(api.read(by, "items")) == 2
    assert api.asked == ["q=1", "page=2"], "https, as the first"
    with pytest.raises(BadData, match="another host"):
        Answers({"items": [1], "next": "http://api:8080/items"}).read(by, "items")


def test_the_relation_next_of_a_link_header() -> None:
    assert next_links('</v1?a=1,2>; rel="up", </v1?page=2>; title="x"; REL=Next') == ["/v1?page=2"]
    assert next_links('</2>; rel="last next", </3>; rel="nextish"') == ["/2"]
    assert next_links("") == []


def test_a_response_that_is_no_json_says_what_it_is() -> None:
    with pytest.raises(Unavailable, match="ends in the middle"):
        Answers(b'[{"id": 1}, {"i').read()
    said = {b'[{"v": NaN, "x": "y"}]': "NaN or Infinity", b"[-Infinity]": "NaN", b'["NaN"}]': "HTML", b"<a>": "HTML"}
    for body, hint in said.items():
        with pytest.raises(BadData, match="not JSON") as found:
            Answers(body).read()
        assert hint in str(found.value.hint)
