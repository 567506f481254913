# ruff: noqa: E501 - tables of statements, one a line
"""HTTP APIs as a source: every kind of paging, each record once despite failures, and secrets that never leak."""

from __future__ import annotations

import gzip
import json
import resource
import signal
import time
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import psycopg
import pyarrow as pa
import pytest

from dataflows.connectors.contract import ReadOrder
from dataflows.data.cursors import Window
from dataflows.data.types import arrow_type, column_type
from penstock.clock import now
from penstock.errors import (
    AccessDenied,
    BadData,
    InvalidDocument,
    MissingTable,
    PenstockError,
    Refused,
    SchemaMismatch,
    Unavailable,
    Unreachable,
)
from penstock.failpoints import POINTS
from penstock.models.connection import parse_connection
from tests.dataflows.connectors.http.conftest import SECRET, WAYS
from tests.dataflows.listings import discovered, found
from tests.pairs import all_pairs

if TYPE_CHECKING:
    from tests.dataflows.connectors.http.conftest import Api, Pull

    Make = Callable[..., Pull]


def read(source: Any) -> pa.Table:
    """Read all records of a source, as a run without a cursor does."""
    with closing(source):
        table = source.describe()
        schema = pa.schema([(one.name, arrow_type(column_type(one))) for one in table.columns])
        with closing(source.reader(ReadOrder(table, schema.names, None, schema, 7, lambda: None))) as reader:
            (split,) = source.plan(table, None, Window(None, None), 10, 0)
            chunks = list(reader.read("00", split))
    found = pa.Table.from_batches([one.data for one in chunks if one.data is not None], schema=schema)
    assert chunks[-1].last
    assert chunks[-1].rows == found.num_rows
    return found


@pytest.mark.parametrize("way", ["page", "cursor", "link"])
def test_all_records_and_then_only_new_ones(pull: Make, way: str) -> None:
    made = pull(way)
    assert made.completed("r1") == 90
    assert made.rows() == made.wanted()
    made.add(45)
    assert made.completed("r2") == 45
    last = made.run("r3")
    assert (last["counters"]["rows_in"], last["schemas"]["inferred"]) == (0, True), "the first page was looked at"
    assert made.rows() == made.wanted()


@pytest.mark.parametrize("rows", [0, 1, 19, 20, 21, 40])
def test_reading_ends_after_the_last_record(pull: Make, rows: int) -> None:
    for way in WAYS:
        made = pull(way, rows=rows, endpoint={"columns": {"id": "bigint", "name": "text", "at": "timestamptz"}})
        assert read(made.open()).column("id").to_pylist() == list(range(1, rows + 1)), way


def test_only_newer_records_are_requested(pull: Make, api: Api) -> None:
    made = pull(
        endpoint={
            "columns": {"id": "bigint", "name": "text", "at": "timestamptz"},
            "since": {"parameter": "since"},
            "newest": {"sort": "-at"},
        },
        connection={"pagination": {"type": "page", "size": 30}},
    )
    first = made.run("r1")
    assert (first["counters"]["rows_in"], "inferred" in first["schemas"]) == (90, False), "columns are declared"
    api.asked.clear()
    made.add(5)
    assert made.completed("r2") == 5
    assert [row[0] for row in made.rows()] == list(range(1, 96))
    asked = [target for target, _ in api.asked]
    assert all("since=2024-01-01T00%3A01%3A30Z" in target for target in asked), asked
    assert "sort=-at" in asked[0]
    assert len(asked) == 3, asked  # the newest page, the new records, and the end


def test_the_newest_page_of_an_api_without_pages_may_be_one_of_many(pull: Make, api: Api) -> None:
    def answer(query: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        some = query.get("sort") == "-at"
        items = api.records[-1:] if some else api.records
        return 200, {}, json.dumps({"data": {"items": items, "has_more": some}, "errors": ["an old one"]}).encode()

    made = pull("all", endpoint={"newest": {"sort": "-at"}, "errors": "ignore"})
    api.paths["/v1/all/items"] = answer
    assert made.completed("r1") == 90


@pytest.mark.parametrize(("form", "wanted"), [("seconds", "1704067290"), ("milliseconds", "1704067290000")])
def test_since_as_a_number(pull: Make, form: str, wanted: str) -> None:
    made = pull(endpoint={"columns": {"at": "timestamptz"}, "since": {"parameter": "after", "form": form}})
    source = made.open()
    found = source.since(source.describe().column("at"), "2024-01-01 00:01:30.75+00:00")
    assert found.params["after"].startswith(wanted[:10])
    assert found.params["after"] == (wanted if form == "seconds" else "1704067290750")


def test_a_lag_leaves_recent_records_for_the_next_run(pull: Make, api: Api) -> None:
    made = pull(
        endpoint={"columns": {"id": "bigint", "name": "text", "at": "timestamptz"}},
        source={"cursor": {"field": "at", "lag": "1h"}},
    )
    api.records.append({"id": 91, "name": "x", "at": "2999-01-01T00:00:00Z"})
    assert made.completed("r1") == 90
    assert made.completed("r2") == 0
    assert len(made.rows()) == 90


def test_records_of_whole_hours_are_read_when_the_hour_is_over(pull: Make, api: Api) -> None:
    made = pull(
        rows=0,
        endpoint={"columns": {"id": "bigint", "name": "text", "at": "timestamptz"}},
        source={"cursor": {"field": "at", "lag": "10ms"}},
    )
    hours = [f"{now() - timedelta(hours=back):%Y-%m-%dT%H}:00:00Z" for back in (3, 2, 0)]
    api.records += [{"id": at, "name": "x", "at": hour} for at, hour in enumerate(hours)]
    assert made.completed("r1") == 2
    api.records.append({"id": 4, "name": "y", "at": hours[0]})
    assert made.completed("r2") == 0


def test_a_record_with_a_future_time_hides_no_others(pull: Make, api: Api) -> None:
    made = pull(endpoint={"columns": {"id": "bigint", "name": "text", "at": "timestamptz"}})
    api.records.append({"id": 91, "name": "x", "at": "2999-01-01T00:00:00Z"})
    assert made.completed("r1") == 90
    api.records.append({"id": 92, "name": "y", "at": now().isoformat()})
    assert made.completed("r2") == 1


CUTS = tuple(
    f"{point}:0" if point.startswith(("read.", "commit.")) else point
    for point in POINTS
    if point != "prepare.shadow_made"
)


def survives(made: Pull, cut: str, *, same: bool) -> None:
    assert made.run("r1", f"{cut}=kill") == {"killed": signal.SIGKILL}, cut
    if not same:
        made.add(3)
    made.completed("r1" if same else "r2")
    assert made.rows() == made.wanted(), cut
    made.completed("r3")
    assert made.rows() == made.wanted(), cut


@pytest.mark.parametrize(
    ("way", "write", "same", "cuts"),
    [
        ("cursor", "append", True, CUTS[::6]),
        ("link", "append", False, CUTS[2::8]),
        ("page", "replace", True, CUTS[4::8]),
    ],
)
def test_killed_at_a_failpoint_and_run_again(
    pull: Make, way: str, write: str, same: bool, cuts: tuple[str, ...]
) -> None:
    for cut in cuts:
        survives(pull(way, write), cut, same=same)


@pytest.mark.chaos
@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize(("way", "write"), [("cursor", "append"), ("page", "append"), ("link", "replace")])
def test_killed_at_every_failpoint(pull: Make, way: str, write: str, same: bool) -> None:
    for cut in CUTS:
        survives(pull(way, write), cut, same=same)


def broken() -> Any:
    return 200, {"X-Broken": "yes"}, b'{"data": {"items": [{"id": 1, "name": "half of a' * 500


def test_broken_and_rate_limited_responses_are_retried(pull: Make, api: Api) -> None:
    made = pull("cursor")
    api.failing += [broken, lambda: None, lambda: (503, {}, b""), broken, lambda: None]
    api.later("0", "1")
    begin = time.monotonic()
    assert made.completed("r1") == 90
    assert time.monotonic() - begin > 1  # by Retry-After
    assert made.rows() == made.wanted()
    assert api.failing == []


@pytest.fixture
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retry as often, without the waits of 0.2 to 1.6 s."""
    monkeypatch.setattr("dataflows.connectors.http.client.BASE_WAIT", 0.01)


@pytest.mark.usefixtures("_hasty")
def test_a_response_without_a_body_is_retried(pull: Make, api: Api) -> None:
    one = pull("page", rows=25)
    api.failing += [lambda: None, lambda: (200, {}, b"")]
    assert one.completed("r1") == 25
    assert one.rows() == one.wanted()


@pytest.mark.usefixtures("_hasty")
def test_retries_are_bounded(pull: Make, api: Api) -> None:
    made = pull()
    api.later(*["0"] * 5)
    with pytest.raises(Unavailable, match="the API answers 429"):
        made.open().describe()
    assert len(api.asked) == 5
    api.later("3600")
    begin = time.monotonic()
    api.failing[0] = lambda: (503, {"Retry-After": "Wed, 21 Oct 2099 07:28:00 GMT"}, b"")
    with pytest.raises(Unavailable, match="the API answers 503"):
        made.open().describe()
    assert time.monotonic() - begin < 1
    made.connection = {"timeout": "100ms"}
    api.failing += [lambda: (200, {"X-Slow": "0.4"}, b"[]")] * 5
    with pytest.raises(Unavailable, match="did not answer in time"):
        made.open().describe()


def test_a_stopped_run_does_not_wait_for_the_server(pull: Make, api: Api) -> None:
    class Enough(Exception):
        pass

    def check() -> None:
        if time.monotonic() - begin > 0.3:
            raise Enough

    made = pull()
    for slow in ((200, {"X-Slow": "5"}, b"[]"), (503, {"Retry-After": "30"}, b"")):
        source = made.open()
        table = source.describe()
        schema = pa.schema([("id", pa.int64())])
        begin = time.monotonic()
        reader = source.reader(ReadOrder(table, ["id"], None, schema, 10, check))
        api.failing.append(lambda slow=slow: slow)  # type: ignore[misc]
        with pytest.raises(Enough):
            list(reader.read("00", source.plan(table, None, Window(None, None), 10, 0)[0]))
        assert time.monotonic() - begin < 1.5
        reader.close()
        source.close()


def assert_refused(source: Callable[[], Any], kind: type[PenstockError], *words: str) -> None:
    with pytest.raises(kind) as caught:
        read(source())
    text = str(caught.value)
    for word in (*words, "items: connection api"):
        assert word in text, text
    assert SECRET not in text + (caught.value.hint or "")


@pytest.mark.usefixtures("_hasty")
def test_problems_are_reported_in_one_sentence(pull: Make, api: Api) -> None:
    made = pull()
    assert_refused(lambda: made.open("/page/itemz"), MissingTable, "no such path (404)")
    assert_refused(lambda: made.open("/../items"), Refused, "not a path below")
    assert_refused(lambda: made.open("/page/items?api_key=abc"), Refused, "`api_key` is a literal secret")
    api.secret = "another"
    assert_refused(made.open, AccessDenied, "refuses access (401)")
    api.secret = SECRET
    for body, words in (
        (b"<html>", "not JSON"),
        (b'{"data": 1}', "nothing at `data.items`"),
        (b'{"data": {"items": {"a": 1}}}', "not an array"),
        (b'{"data": {"items": [{"a": 1}, null]}}', "row 2"),
        (b'{"data": {"items": [{"a": "\xff"}]}}', "not UTF-8"),
        (b'{"data": {"items": [{}]}}', "no columns"),
        (b'{"data": {"items": []}}', "no record to infer"),
    ):
        api.failing.append(lambda body=body: (200, {}, body))  # type: ignore[misc]
        assert_refused(made.open, SchemaMismatch if "column" in words or "infer" in words else BadData, words)
    api.failing.append(lambda: (422, {}, b"{}"))
    assert_refused(made.open, Refused, "answers 422")
    made.connection = {"url": "http://127.0.0.1:9"}
    assert_refused(made.open, Unreachable, "cannot be reached")


def test_a_decompression_bomb_is_refused(pull: Make, api: Api) -> None:
    packed = gzip.compress(bytes(200 << 20), 1)
    for coding, body, kind, words in (
        ("gzip", packed, BadData, "larger than 64 MiB"),
        ("gzip, gzip", gzip.compress(packed, 1), Refused, "more than once"),
    ):
        api.failing.append(lambda coding=coding, body=body: (200, {"Content-Encoding": coding}, body))  # type: ignore[misc]
        assert_refused(pull().open, kind, words)


@all_pairs(
    value=['"x"', "1.5", "18446744073709551616"],
    endpoint=[{}, {"columns": {"id": "bigint", "name": "text", "at": "text"}}],
    write=["append", "replace"],
)
def test_records_with_a_wrong_value_are_dead_letters_with_page_row_and_column(
    pull: Make, api: Api, catalog: str, value: str, endpoint: dict[str, Any], write: str
) -> None:
    made = pull(write=write, rows=60, endpoint=endpoint)
    good = [row[0] for row in made.wanted() if row[0] not in {45, 46}]
    for at in (44, 45):
        api.records[at] |= {"id": json.loads(value), "name": "wrong"}
    task = made.task("r1", letters=catalog)
    task["pipeline"]["spec"]["errors"] = {"dead_letter": {"fail_above": "5%"}}
    found = made.launchers.run(task)
    assert (found["status"], found["counters"]["rows_in"], found["counters"]["dead"]) == ("completed", 60, 2), found
    assert [row[0] for row in made.rows()] == good
    with psycopg.connect(catalog) as session:
        letters = session.execute('SELECT code, reason, "values" FROM ops.dead_letters ORDER BY row').fetchall()
    assert [(code, values["_page"], values["_row"], values["_column"]) for code, _, values in letters] == [
        ("not_of_type", 3, 5, "id"), ("not_of_type", 3, 6, "id"),
    ]  # fmt: skip
    assert "page 3, row 5: the value of `id` is not " in letters[0][1]
    assert f'"id":{value}' in letters[0][2]["_raw"].replace(" ", "")
    if write == "append":  # a record is refused only once
        again = made.launchers.run(task | {"run": "r2", "result": f"{task['result']}2"})
        assert (again["status"], again["counters"]["dead"]) == ("completed", 0), again
    else:
        task["pipeline"]["spec"]["errors"] = {"dead_letter": {"fail_above": "1%"}}
        failed = made.launchers.run(task | {"run": "r2", "result": f"{task['result']}2"})
        assert failed["status"] == "failed", failed


def test_a_record_with_a_duplicate_key_is_a_dead_letter(pull: Make, api: Api) -> None:
    made = pull("all", connection={"records": None})
    api.paths["/v1/all/items"] = lambda _: (200, {}, b'[{"a": 1}, {"a": 2, "a": 3}, {"a": 4}]')
    assert read(made.open()).to_pylist() == [{"a": 1}, {"a": 4}]


ROWS = b'[{"id": 1, "data": {"data": 1}}]'
TWICE = {
    "data": b'{"data": [], "meta": {"more": false}, "data": %b}' % ROWS,
    "data.items": b'{"data": {"items": [], "x": "}", "items" : %b}}' % ROWS,
    "data.rows": b'{"data": {"rows": []}, "d\\u0061ta": {"rows": %b}}' % ROWS,
    "d/e": b'{"d/e": [], "d\\/e": %b}' % ROWS,
}


@pytest.mark.parametrize("path", TWICE)
def test_a_response_that_names_its_records_twice_is_refused(pull: Make, api: Api, path: str) -> None:
    api.paths["/v1/all/items"] = lambda _: (200, {}, TWICE[path])
    name = "items" if path == "data.items" else path.partition(".")[0]
    assert_refused(pull("all", connection={"records": path}).open, BadData, f"page 1: the name `{name}` occurs twice")


@pytest.mark.parametrize(
    ("pages", "name"),
    [
        ({"type": "cursor", "token": "next"}, "next"),
        ({"type": "link", "next": "next"}, "next"),
        ({"type": "page", "more": "meta.more"}, "more"),
        ({"type": "page", "total": "total"}, "total"),
    ],
)
def test_a_response_that_says_twice_how_it_goes_on_is_refused(
    pull: Make, api: Api, pages: dict[str, Any], name: str
) -> None:
    api.paths["/v1/all/items"] = lambda _: (
        200,
        {},
        b'{"data": [{"id": 1}], "next": "t1", "next"\n: null, "meta": {"more": true, "more": false}, "total": 1, "total":7}',
    )
    made = pull("all", connection={"records": "data", "pagination": pages})
    assert_refused(lambda: read(made.open()), BadData, f"page 1: the name `{name}` occurs twice")


def test_names_that_only_look_like_duplicates_are_read(pull: Make, api: Api) -> None:
    body = b'{"a": "\\"data\\": 1", "data" : [{"data": {"data": "\\u0064"}, "x\\":y": "\\"data\\":"}], "b": 1, "b": 2}'
    api.paths["/v1/all/items"] = lambda _: (200, {}, body)
    assert read(pull("all", connection={"records": "data"}).open()).num_rows == 1


def test_a_column_missing_in_the_sample_is_refused_by_page_and_row(pull: Make, api: Api) -> None:
    made = pull(rows=60)
    api.records[44] = {"id": 1, "name": "n", "at": "t", "later": SECRET}
    assert_refused(made.open, BadData, "page 3, row 5: column `later` is in no sampled line")
    made.endpoint = {"columns": {"id": "bigint"}}
    assert read(made.open()).num_rows == 60


def test_without_dead_letters_a_wrong_record_fails_the_run(pull: Make, api: Api) -> None:
    made = pull(rows=60, write="replace")
    api.records[44]["id"] = SECRET
    error = made.run("r1")["error"]
    assert (error["code"], "page 3, row 5" in error["what"], SECRET in str(error)) == ("data.bad", True, False), error


def test_values_are_read_exactly(pull: Make, api: Api) -> None:
    columns = {
        "n": "numeric(30,10)",
        "i": "bigint",
        "t": "timestamptz",
        "d": "date",
        "j": "json",
        "u": "uuid",
        "b": "boolean",
    }
    made = pull("all", endpoint={"columns": columns})
    body = (
        '{"data": {"items": [{"n": 12345678901234567890.0123456789, "i": -9223372036854775808, "d": "2024-02-29", \r\n'
        ' "t": "2024-01-01T01:02:03.123456+02:00", "j": {"a": [1, "\\u00e4\\n"]}, "b": true, '
        '"u": "4d7aa9b0-52c1-4f93-a4b8-13f1f1d77d2b"}, {"n": null, "more": 1}]}}'
    )
    api.paths["/v1/all/items"] = lambda _: (200, {}, body.encode())
    first, second = read(made.open()).to_pylist()
    assert (str(first["n"]), first["i"]) == ("12345678901234567890.0123456789", -(2**63))
    assert (first["t"].isoformat(), str(first["d"])) == ("2023-12-31T23:02:03.123456+00:00", "2024-02-29")
    assert (json.loads(first["j"]), first["b"]) == ({"a": [1, "ä\n"]}, True)
    assert set(second.values()) == {None}


def test_a_server_that_repeats_a_page_is_reported(pull: Make, api: Api) -> None:
    for way in ("page", "offset"):
        made = pull(way, rows=60, connection={"pagination": {"type": way, "parameter": "p"}})
        assert_refused(made.open, BadData, "page 2: the API returned the same page again")
    made = pull("next")
    page = {"data": {"items": [{"id": 1}]}}
    for at in range(5):  # 0 1 2 3 4 1 2 …
        link = f"{api.url}/v1/ring{at % 4 + 1}"
        api.paths[f"/v1/ring{at}"] = lambda _, link=link: (200, {}, json.dumps(page | {"next": link}).encode())  # type: ignore[misc]
    assert_refused(lambda: made.open("ring0"), BadData, "the same page again")
    assert len(api.asked) < 40


def test_secrets_go_only_to_the_host_of_the_connection(apis: Callable[[], Api], pull: Make, api: Api) -> None:
    other = apis()
    other.paths["/elsewhere"] = lambda _: (200, {}, b'{"data": {"items": [{"id": 7}]}}')
    made = pull(
        "link",
        connection={
            "headers": {"X-Api-Key": "${file:KEY}", "X-Plain": "x"},
            "parameters": {"api_key": "${file:KEY}"},
        },
    )
    made.connection = json.loads(json.dumps(made.connection).replace("KEY", f"{made.folder}/key"))
    api.paths["/v1/moved"] = lambda _: (307, {"Location": f"{other.url}/elsewhere"}, b"")
    api.paths["/v1/near"] = lambda _: (302, {"Location": "/v1/there"}, b"")
    api.paths["/v1/there"] = lambda query: (
        200,
        {},
        json.dumps({"data": {"items": [{"key": query["api_key"]}]}}).encode(),
    )
    assert_refused(lambda: made.open("moved"), Refused, "redirects to another host, 127.0.0.1")
    assert not other.asked
    assert read(made.open("near")).column("key").to_pylist() == [SECRET]
    assert api.asked[0][1]["x-api-key"] == SECRET
    assert f"api_key={SECRET}" in api.asked[0][0]
    api.paths["/v1/far"] = lambda _: (
        200,
        {"Link": f'<{other.url}/elsewhere>; rel="next"'},
        b'{"data": {"items": [{"a": 1}]}}',
    )
    assert_refused(lambda: made.open("far"), BadData, "the next page is on another host")
    api.paths["/v1/round"] = lambda _: (302, {"Location": "/v1/round"}, b"")
    assert_refused(lambda: made.open("round"), Refused, "redirects more than 5 times")
    assert not other.asked
    assert SECRET not in repr(made.open().connected())


LAST: list[tuple[str, dict[str, Any], tuple[int, dict[str, str], Any]]] = [
    ("page", {}, (404, {}, {})),
    ("page", {}, (204, {}, None)),
    ("offset", {}, (416, {}, {})),
    ("page", {"end_status": [400]}, (400, {}, {})),
    ("page", {"more": "more"}, (500, {}, {})),
    ("offset", {"total": "meta.total"}, (500, {}, {})),
    ("cursor", {"token": "token", "more": "more"}, (500, {}, {})),
]


@pytest.mark.parametrize(("way", "pagination", "last"), LAST, ids=range(len(LAST)))
def test_reading_ends_as_the_api_says(
    pull: Make, api: Api, way: str, pagination: dict[str, Any], last: tuple[int, dict[str, str], Any]
) -> None:
    made = pull(connection={"pagination": {"type": way, **pagination}})

    def answer(query: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        at = int(query.get("page", "1")) - 1 if way == "page" else int(query.get("offset") or query.get("cursor") or 0)
        at = at if way == "page" else at // 2
        if at >= 3:
            status, headers, body = last
            return status, headers, b"" if body is None else json.dumps(body).encode()
        items = [{"id": 2 * at + one} for one in (0, 1)]
        body = {"data": {"items": items}, "more": at < 2, "meta": {"total": 6}, "token": str(2 * at + 2)}
        return 200, {}, json.dumps(body).encode()

    api.paths["/v1/ended"] = answer
    assert read(made.open("ended")).column("id").to_pylist() == list(range(6))
    if "total" in pagination:
        made.connection["pagination"]["type"] = "page"
        api.paths["/v1/ended"] = lambda query: answer(query) if query.get("page") != "2" else (404, {}, b"{}")
        assert_refused(lambda: made.open("ended"), Unavailable, "announced 6 records, but returned 2")


@pytest.mark.parametrize("way", ["page", "offset"])
def test_a_short_page_of_a_server_that_caps_pages_is_not_the_last(pull: Make, api: Api, way: str) -> None:
    api.size = 20
    made = pull(way, rows=50, connection={"pagination": {"type": way, "size": 30}})
    assert read(made.open()).num_rows == 50


def test_a_rate_limit_with_403_is_retried_and_a_refusal_is_not(pull: Make, api: Api) -> None:
    made = pull(rows=30)
    for headers in ({"Retry-After": "0"}, {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1"}):
        api.failing.append(lambda headers=headers: (403, headers, b"{}"))  # type: ignore[misc]
    assert read(made.open()).num_rows == 30
    api.failing.append(lambda: (403, {"Retry-After": "3600"}, b"{}"))
    assert_refused(made.open, Unavailable, "rate limit")
    api.failing.append(lambda: (403, {}, b"{}"))
    assert_refused(made.open, AccessDenied, "403")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'[{"id": 1, "v": ' + b"[" * 100_000 + b"]" * 100_000 + b"}]", "nested too deeply to be read"),
        (b"[" + b"0," * 2_000_000 + b"0]", "more than 1,000,000 records"),
        (b"[0]", "row 1: is not an object"),
    ],
    ids=["deep", "many", "not an object"],
)
def test_a_response_that_cannot_be_parsed_is_refused_by_page(pull: Make, api: Api, body: bytes, words: str) -> None:
    made = pull("all", connection={"records": None})
    api.paths["/v1/all/items"] = lambda _: (200, {}, body)
    assert_refused(made.open, BadData, "page 1", words)


def test_a_record_of_a_hundred_thousand_keys_is_refused_soon(pull: Make, api: Api) -> None:
    made = pull("all", connection={"records": None})
    body = json.dumps([{f"c{at}": at for at in range(100_000)}]).encode()
    api.paths["/v1/all/items"] = lambda _: (200, {}, body)
    began = time.process_time()
    assert_refused(made.open, BadData, "more than 4,096 columns")
    assert time.process_time() - began < 5


def test_numbers_beyond_doubles_are_text(pull: Make, api: Api) -> None:
    made = pull("all", connection={"records": None})
    body = b'[{"a": 1e400, "b": 0.12345678901234567891, "c": 9007199254740993}, {"a": 2, "b": 1.5, "c": 1.5}]'
    api.paths["/v1/all/items"] = lambda _: (200, {}, body)
    found = read(made.open()).to_pylist()
    assert found[0] == {"a": "1e400", "b": "0.12345678901234567891", "c": "9007199254740993"}


@pytest.mark.usefixtures("_hasty")
def test_a_response_that_arrives_byte_by_byte_is_abandoned(pull: Make, api: Api) -> None:
    made = pull("all", connection={"timeout": "500ms"})
    api.paths["/v1/all/items"] = lambda _: (200, {"X-Drip": "1"}, b"")
    began = time.monotonic()
    assert_refused(made.open, Unavailable, "did not answer in time")
    assert time.monotonic() - began < 60


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"headers": {"Authorization": "Bearer abc"}}, "api.headers: `Authorization` is a literal secret"),
        ({"parameters": {"access_token": "abc"}}, "`access_token` is a literal secret"),
        ({"url": "https://me:pass@host/"}, "api.url: contains a literal password"),
        ({"pagination": {"type": "pages"}}, "there is no type 'pages'; did you mean `page`?"), ({"headrs": {}}, "api.headrs: unknown key; did you mean `headers`?"),
        ({"pagination": {"type": "cursor"}}, "token: is required"),
    ],
)  # fmt: skip
def test_a_connection_is_checked(change: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidDocument) as caught:
        parse_connection("api", {"type": "http", "url": "https://api.example.com/v1"} | change)
    assert words in str(caught.value)
    assert "pass@" not in str(caught.value)


def test_a_byte_order_mark_before_a_response_is_none_of_it(pull: Make, api: Api) -> None:
    api.paths["/v1/all/items"] = lambda _: (200, {}, b'\xef\xbb\xbf{"data": {"items": [{"id": 1, "at": "x"}]}}')
    source = pull("all").open()
    assert source.describe().columns[0].name == "id"
    source.close()


def test_an_api_is_refused_as_sink_and_null_cursors_are_refused(pull: Make, api: Api) -> None:
    made = pull()
    task = made.task("r1")
    task["pipeline"]["spec"]["sink"] |= {"connection": "api", "object": "x"}
    task["pipeline"]["spec"]["source"]["object"] = "all/items"
    found = made.launchers.run(task)
    assert (found["status"], found["error"]["what"]) == ("failed", "an HTTP API cannot be a sink")
    api.records[70]["at"] = None
    error = made.run("r2")["error"]
    assert "page 4: records without a cursor (`at` is null or missing)" in f"{error['where']}: {error['what']}"


def test_many_pages_need_no_more_memory_than_one(pull: Make, api: Api) -> None:
    made = pull("offset", rows=0, endpoint={"columns": {"id": "bigint", "name": "text"}})
    pages, rows = 60, 1000
    page = json.dumps({"data": {"items": [{"id": at, "name": "x" * 2000} for at in range(rows)]}}).encode()
    varied = {at: page.replace(b'"id": 0,', b'"id": %d,' % (-1 - at)) for at in range(2)}

    def answer(query: dict[str, str]) -> Any:
        number = int(query["offset"]) // rows
        return 200, {}, varied[number % 2] if number < pages else b'{"data": {"items": []}}'

    api.paths["/v1/offset/items"] = answer
    source = made.open()
    table = source.describe()
    schema = pa.schema([("id", pa.int64()), ("name", pa.string())])
    with (
        closing(source),
        closing(source.reader(ReadOrder(table, ["id", "name"], None, schema, 500, lambda: None))) as reader,
    ):
        chunks = reader.read("00", source.plan(table, None, Window(None, None), 10, 0)[0])
        found = [next(chunks).rows for _ in range(6)]
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        found += [one.rows for one in chunks if not one.last]
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert sum(found) == pages * rows
    assert grown < 40 * 1024, grown  # KiB; all pages are 120 MB


def test_the_endpoints_of_a_connection_are_its_objects(pull: Make) -> None:
    one = pull(rows=3, endpoint={"columns": {"id": "bigint", "name": "text"}})
    settings = {name: value for name, value in one.settings().items() if value is not None}
    there = discovered(settings, secrets=one.folder)
    assert there.columns(one.object) == {"id": "bigint", "name": "text"}
    assert (there.objects[one.object].kind, one.api.asked) == ("endpoint", []), "what is declared is not asked for"
    settings["endpoints"] = {one.object: {}, "/v1/misspelled": {}}
    there = discovered(settings, secrets=one.folder, rows=2)
    assert {"id", "name"} <= there.columns(one.object).keys()
    assert (there.samples[one.object]["id"].rows, there.objects[one.object].looked_at) == (2, 3)
    assert there.present == ["/v1/misspelled"], "it is not taken for one that was deleted"
    assert [note.partition(":")[0] for note in there.notes] == ["/v1/misspelled is left out"]
    assert [each.table for each in found(settings, "*", secrets=one.folder).values()] == ["items", "misspelled"]
