"""HTTP APIs that answer with JSON pages: where their records are, and how the next page is requested."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from penstock.models.base import Duration, Model
from penstock.models.secrets import literal_in_query, none_literal
from penstock.models.traits import ConnectionModel

__all__ = [
    "HttpConnection",
    "HttpEndpoint",
    "LinkPages",
    "NumberedPages",
    "OffsetPages",
    "OnePage",
    "Pagination",
    "Since",
    "TokenPages",
]

MAX_TIMEOUT_SECONDS: Final = 600


def _plain_url(value: str) -> str:
    parts = urlsplit(value)
    if parts.username is not None or parts.password is not None:
        message = "contains a user or password; put them into `headers`, by reference"
        raise ValueError(message)
    if not parts.hostname or parts.query or parts.fragment:
        message = "is not a base URL such as https://api.example.com/v1; query parameters go to `parameters`"
        raise ValueError(message)
    return value


def _no_secret(path: str) -> str:
    if why := literal_in_query(path):
        message = f"{why}, in `parameters`"
        raise ValueError(message)
    return path


_Path = Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[^.\x00-\x1f]+(\.[^.\x00-\x1f]+)*$")]
"""A path of keys with dots between: ``data.items``."""
_Parameter = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[^\x00-\x20]+$")]
_ClientError = Annotated[int, Field(ge=400, le=499)]
_Size = Annotated[int, Field(ge=1, le=1_000_000)]
_Columns = dict[Annotated[str, Field(min_length=1, max_length=128)], Annotated[str, Field(min_length=1, max_length=64)]]
_Values = dict[_Parameter, Annotated[str, Field(max_length=2000)]]
_Errors = Literal["refuse", "ignore"]
Given = Annotated[_Values, AfterValidator(none_literal)]
"""Headers or parameters; secrets are references."""


class _Ending(Model):
    """Paths in the body by which an API marks the last page.

    `more` is true if there is another page; `total` is the number of records of all pages: a run that gets fewer fails,
    also by a number that is named as usual, such as ``total_count``, unless `total` is false.
    """

    more: _Path | None = None
    total: _Path | Literal[False] | None = None


class NumberedPages(_Ending):
    """``?page=1``, ``?page=2`` … until a page is empty, or the API answers 204, 404, 416 or an `end_status`.

    A page that is shorter than others is not the last one: servers cap their pages, and leave records out.
    """

    type: Literal["page"]
    parameter: _Parameter = "page"
    first: Annotated[int, Field(ge=0)] = 1
    size: _Size | None = None
    size_parameter: _Parameter = "per_page"
    end_status: list[_ClientError] = []


class OffsetPages(_Ending):
    """``?offset=0``, then raised by the number of records received; they end as `NumberedPages` do."""

    type: Literal["offset"]
    parameter: _Parameter = "offset"
    size: _Size | None = None
    size_parameter: _Parameter = "limit"
    end_status: list[_ClientError] = []


class TokenPages(_Ending):
    """Pages requested by the value at `token` in the body of the last one; without a value there are no more."""

    type: Literal["cursor"]
    parameter: _Parameter = "cursor"
    token: _Path
    size: _Size | None = None
    size_parameter: _Parameter = "limit"


class LinkPages(_Ending):
    """Pages at the URL in the ``Link`` header (RFC 8288, rel=next) of the last one, or at `next` in its body."""

    type: Literal["link"]
    next: _Path | None = None
    size: _Size | None = None
    size_parameter: _Parameter = "per_page"


class OnePage(_Ending):
    """All records that are wanted are on one page, even if the API says that there are more."""

    type: Literal["none"]
    size: _Size | None = None
    size_parameter: _Parameter = "limit"


Pagination = Annotated[OnePage | NumberedPages | OffsetPages | TokenPages | LinkPages, Field(discriminator="type")]
"""Kind of pagination: the way to request the next page."""


class Since(Model):
    """Parameter by which the server omits records older than the pipeline's cursor.

    It may omit fewer, or none: records that were read before are skipped here.
    """

    parameter: _Parameter
    form: Literal["iso", "seconds", "milliseconds"] = "iso"


class HttpEndpoint(Model):
    """One path of the API; defaults come from the connection.

    `columns` names the columns and their types; without it they are inferred from the first page. `newest` are
    parameters with which the first page starts with the newest records, so that a run need not search for them.
    """

    records: _Path | None = None
    pagination: Pagination | None = None
    since: Since | None = None
    errors: _Errors | None = None
    newest: Given = {}
    columns: _Columns = {}


class HttpConnection(ConnectionModel):
    """An HTTP API that answers GET with JSON. `records` is the path to them; without it the body itself is the array.

    `headers` and `parameters` go with each request to that host, and to no other. A response with the status 200 whose
    body says that the request failed (`error`, `success: false`) is refused, unless `errors` is ``ignore``.
    """

    type: Literal["http"]
    url: Annotated[str, Field(pattern=r"^https?://"), AfterValidator(_plain_url)]
    headers: Given = {}
    parameters: Given = {}
    records: _Path | None = None
    pagination: Pagination | None = None
    errors: _Errors = "refuse"
    timeout: Annotated[Duration, Field(gt=timedelta(0), le=timedelta(seconds=MAX_TIMEOUT_SECONDS))] = timedelta(
        seconds=30
    )
    endpoints: dict[Annotated[str, AfterValidator(_no_secret)], HttpEndpoint] = {}

    def endpoint(self, object_: str) -> HttpEndpoint:
        """Return the endpoint of an object: a path below `url`, perhaps with a query."""
        path = object_.partition("?")[0].strip("/")
        found = next((one for name, one in self.endpoints.items() if name.strip("/") == path), HttpEndpoint())
        return found.model_copy(
            update={
                "records": found.records or self.records,
                "pagination": found.pagination or self.pagination,
                "errors": found.errors or self.errors,
            }
        )
