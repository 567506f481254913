"""One tree of errors: what is wrong, where, which value, and what to do next.

::

    PenstockError                 1  anything that Penstock raises on purpose
    ├── UsageError                2  the command or call is used wrongly
    │   ├── SettingsError         2  environment or penstock.toml
    │   └── InvalidDocument       2  a file or body that does not validate; lists every issue found
    ├── NotFound                  3  no such pipeline, run, version …
    ├── Refused                   1  a command that may not be carried out now (conflict, illegal transition)
    │   ├── RefusedByPolicy       4  … because a policy says so
    │   ├── Conflict              1  … because something else came first
    │   ├── ColumnChanged         1  … because a stream of changes cannot follow a column
    │   └── TooOld                1  … because it may repeat one that was answered long ago
    ├── Unavailable               1  something outside cannot be used; most such errors are temporary
    │   ├── Unreachable           1  nothing answers there
    │   ├── Stalled               1  it is connected, and nothing has moved for too long
    │   ├── AccessDenied          1  wrong password, missing privilege
    │   ├── OutOfSpace            1  disk or quota full
    │   └── PortInUse             1  another process listens there
    ├── SchemaMismatch            1  a table, column or type is not what the pipeline expects
    │   ├── MissingTable          1
    │   ├── MissingColumn         1
    │   ├── SchemaBroken          1  … has changed so that the pipeline is to pause
    │   ├── SchemaRenamed         1  … has other names for columns, which the pipeline is to follow
    │   └── SchemaMoved           1  … has another name for the source's object, which the pipeline is to follow
    ├── BadData                   1  a value that an expression or a type cannot take
    │   └── TooManyRefused        1  more rows of a run went to the dead letters than its pipeline allows
    ├── OutOfMemory               1  a run used more memory than its pipeline allows
    ├── Fenced                    1  a newer run, brain or projector took over; stop at once
    └── LogError                  1  the topic log broke a promise or was used against one
        └── ForeignLog            1  the log is not the one that the catalog was made from, or an older copy

The number is the exit code of a command that ends with it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypedDict, Unpack

__all__ = [
    "UNKNOWN_HOST",
    "AccessDenied",
    "BadData",
    "ColumnChanged",
    "Conflict",
    "Fenced",
    "ForeignLog",
    "InvalidDocument",
    "Issue",
    "LogError",
    "MissingColumn",
    "MissingTable",
    "NotFound",
    "OutOfMemory",
    "OutOfSpace",
    "PenstockError",
    "PortInUse",
    "Refused",
    "RefusedByPolicy",
    "SchemaBroken",
    "SchemaMismatch",
    "SchemaMoved",
    "SchemaRenamed",
    "SettingsError",
    "Stalled",
    "TooManyRefused",
    "TooOld",
    "Unavailable",
    "Unreachable",
    "UsageError",
    "did_you_mean",
    "error_from_report",
]

UNKNOWN_HOST: Final = ("Name or service not known", "nodename nor servname", "No address associated with hostname")
"""What resolvers of names say of a host that does not exist; clients repeat it in errors of their own."""
_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def _line(text: str) -> str:
    """Return `text` as one line that is safe in any terminal: control characters and lone surrogates are escaped."""
    return _UNSEEN.sub(lambda found: ascii(found.group())[1:-1], text)


class _Parts(TypedDict, total=False):
    """What an error may have beside its sentence."""

    where: str | None
    value: object
    hint: str | None


class PenstockError(Exception):
    """An error that a person can act on.

    `what` is one sentence without a full stop; `where` a file and path, a connection or an object; `value` the value
    found there (never a secret, never a row's value in anything that reaches the log); `hint` the next step.
    """

    code = "error"
    exit_code = 1
    transient = False
    """True if a retry a little later may well succeed."""

    def __init__(self, what: str, *, where: str | None = None, value: object = None, hint: str | None = None) -> None:
        self.what, self.where, self.value, self.hint = what, where, value, hint
        super().__init__(str(self))

    def __str__(self) -> str:
        """Return one line: ``where: what, got value; hint``."""
        text = f"{self.where}: {self.what}" if self.where else self.what
        if self.value is not None:
            text += f", got {self.value!r}"
        return _line(f"{text}; {self.hint}" if self.hint else text)


class UsageError(PenstockError):
    """The command or call is used wrongly."""

    code = "usage"
    exit_code = 2


class SettingsError(UsageError):
    """A setting in the environment or in penstock.toml is wrong."""

    code = "settings.invalid"


@dataclass(frozen=True, slots=True)
class Issue:
    """One error in a document, at a path such as ``spec.transforms[2].when``."""

    path: str
    message: str

    def __str__(self) -> str:
        return _line(f"{self.path}: {self.message}" if self.path else self.message)


class InvalidDocument(UsageError):
    """A file or body that does not validate; `issues` lists all errors at once."""

    code = "document.invalid"

    def __init__(self, issues: Sequence[Issue], *, where: str | None = None, hint: str | None = None) -> None:
        self.issues = tuple(issues)
        super().__init__("; ".join(str(i) for i in self.issues), where=where, hint=hint)


class NotFound(PenstockError):
    """There is no object of that name."""

    code = "not_found"
    exit_code = 3


class Refused(PenstockError):
    """The command may not be carried out now."""

    code = "refused"


class RefusedByPolicy(Refused):
    """A policy forbids it."""

    code = "refused.policy"
    exit_code = 4


class ColumnChanged(Refused):
    """A column was altered in a way that a stream of changes cannot follow; `rule` is that of `schema` about it."""

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        value: object = None,
        hint: str | None = None,
        rule: str = "lost",
    ) -> None:
        self.rule = rule
        super().__init__(what, where=where, value=value, hint=hint)


class Conflict(Refused):
    """Something else came first: the run, task or start `other`; `rule` names the rule by which that counts."""

    def __init__(self, rule: str, other: str, what: str, *, where: str, hint: str) -> None:
        self.rule, self.other = rule, other
        super().__init__(what, where=where, hint=hint)


class TooOld(Refused):
    """The command is older than what is remembered of commands: it may have been carried out."""

    code = "refused.too_old"


class Unavailable(PenstockError):
    """Something outside cannot be used; trying again may help."""

    code = "unavailable"
    transient = True


class Unreachable(Unavailable):
    """No server answers at that address."""

    code = "unavailable.unreachable"


class Stalled(Unavailable):
    """The other side is connected, and has given or taken nothing for longer than the limit."""

    code = "unavailable.stalled"


class AccessDenied(Unavailable):
    """The other side refuses this user: wrong password, missing privilege."""

    code = "unavailable.access_denied"
    transient = False


class OutOfSpace(Unavailable):
    """A disk or quota is full."""

    code = "unavailable.out_of_space"
    transient = False


class PortInUse(Unavailable):
    """Another process listens on that port."""

    code = "unavailable.port_in_use"


class SchemaMismatch(PenstockError):
    """A table, column or type is not what the pipeline expects.

    `proposed` are changes that would help, once they are approved, as builtins.
    """

    code = "schema.mismatch"
    proposed: Sequence[Mapping[str, Any]] = ()


class MissingTable(SchemaMismatch):
    """The table does not exist, or this user cannot see it."""

    code = "schema.missing_table"


class MissingColumn(SchemaMismatch):
    """The table has no such column."""

    code = "schema.missing_column"


class SchemaBroken(SchemaMismatch):
    """A source or target has changed, and the pipeline's rule says to pause until a person has looked at it."""

    code = "schema.broken"


class SchemaRenamed(SchemaMismatch):
    """Columns of the source were renamed, and the pipeline's rule says to follow: `renamed` maps old names to new."""

    code = "schema.renamed"

    def __init__(self, what: str, *, renamed: Mapping[str, str] | None = None, **parts: Unpack[_Parts]) -> None:
        self.renamed = dict(renamed or {})
        super().__init__(what, **parts)


class SchemaMoved(SchemaMismatch):
    """The source's object has another name, `moved`, and the pipeline's rule says to follow."""

    code = "schema.moved"

    def __init__(self, what: str, *, moved: str = "", **parts: Unpack[_Parts]) -> None:
        self.moved = moved
        super().__init__(what, **parts)


class BadData(PenstockError):
    """A value that an expression or a type cannot take."""

    code = "data.bad"


class TooManyRefused(BadData):
    """More rows of a run went to the dead letters than its pipeline allows."""

    code = "data.too_many_refused"


class OutOfMemory(PenstockError):
    """A run used more memory than its pipeline allows."""

    code = "memory.exceeded"

    @classmethod
    def beyond(cls, limit: int, pipeline: str) -> OutOfMemory:
        """Return the error of a run that used more than `limit` bytes."""
        shown = next(
            (f"{limit / unit:.4g}{name}" for unit, name in ((10**9, "GB"), (10**6, "MB")) if limit >= unit), limit
        )
        hint = "look for huge values or pages at its source, lower `limits.batch_rows`, or raise `limits.memory`"
        return cls(
            f"the run used more than `limits.memory` {shown}", where=f"{pipeline}: spec.limits.memory", hint=hint
        )


class Fenced(PenstockError):
    """A newer run, brain or projector took over; the process that gets this stops at once."""

    code = "fenced"


class LogError(PenstockError):
    """The topic log broke a promise, or was used against one."""

    code = "log"


class ForeignLog(LogError):
    """The log is not the one that the catalog was made from, or an older copy of it."""

    code = "log.foreign"


def error_from_report(report: Mapping[str, Any]) -> PenstockError:
    """Rebuild an error that another process reported by `code`, `what`, `where`, `hint` and `issues`.

    A code that this release does not know gives a plain `PenstockError`.
    """
    kinds: list[type[PenstockError]] = [PenstockError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    found = next((kind for kind in kinds if kind.code == report["code"]), PenstockError)
    where, hint = report.get("where"), report.get("hint")
    if found.code == InvalidDocument.code:
        issues = [Issue(issue["path"], issue["message"]) for issue in report.get("issues") or ()]
        return InvalidDocument(issues or [Issue("", report["what"])], where=where, hint=hint)
    return found(report["what"], where=where, hint=hint)


def did_you_mean(name: str, known: Iterable[str]) -> str | None:
    """Return ``did you mean `total`?`` for the name nearest to `name` (Levenshtein ratio of 60 or more), else None."""
    from rapidfuzz import fuzz, process  # noqa: PLC0415 - needed only in error messages

    best = process.extractOne(name, list(known), scorer=fuzz.ratio, score_cutoff=60)
    return f"did you mean `{best[0]}`?" if best else None
