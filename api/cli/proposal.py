"""A pipeline file for all that a connection has, which `discover --write` and `init --from` propose."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from glob import escape
from typing import Final

from api.cli.console import size, visible
from penstock.models.domain import Schema
from penstock.models.sets import DATABASES, WITH_SCHEMAS

__all__ = ["Described", "Wanted", "pipeline_file"]

CHANGED: Final = re.compile(
    r"(?i)(?:row_?)?(?:updated|modified|changed|last_?update|last_?modified|last_?change)(?:_?(?:at|on|time|date|ts))?"
)
"""Names of columns that tell when a row was changed last."""
TIMES: Final = ("timestamp with time zone", "timestamp without time zone")
LAG: Final = "5m"
LOOK: Final = "*/5 * * * *"
"""Times at which a set of streams looks for new objects."""
MESSAGES: Final = frozenset({"kafka", "kinesis", "topics"})
"""Types whose objects are streams."""
FILES: Final = frozenset({"files", "s3"})
_CONTROL: Final = re.compile(r"[\x00-\x1f]")
"""Characters in a name that no pipeline file may contain."""


@dataclass(frozen=True, slots=True)
class Described:
    """An object of a source; without a `schema` only its name is known. `rows` and `bytes` are estimates."""

    object: str
    kind: str = "table"
    schema: Schema | None = None
    rows: int | None = None
    bytes: int | None = None
    personal: bool = False


@dataclass(frozen=True, slots=True)
class Wanted:
    """Contents of the file: a name, both connections with their types, and the objects by pattern."""

    name: str
    source: str
    sink: str
    tables: tuple[str, ...] = ()
    except_: tuple[str, ...] = ()
    source_type: str = "postgres"
    sink_type: str = "postgres"
    database: str | None = None
    """The database of a MySQL sink, in which all its tables are to be."""
    changes: bool = False
    """True if the source's changes are to be followed (CDC)."""

    def takes(self, name: str) -> bool:
        """True if the object of that name is wanted."""
        chosen = not self.tables or any(fnmatchcase(name, one) for one in self.tables)
        return chosen and not any(fnmatchcase(name, one) for one in self.except_)

    @property
    def streams(self) -> bool:
        """True if the members never end."""
        return self.changes or self.source_type in MESSAGES

    @property
    def keyed(self) -> bool:
        """True if rows are merged by the key of each table."""
        return self.source_type in DATABASES and self.sink_type not in FILES

    @property
    def target(self) -> str:
        """The template of the targets' names."""
        parts = {"sqlite": "_", "files": "/", "s3": "/"}.get(self.sink_type, ".")
        own = f"{{schema}}{parts}{{table}}" if self.source_type in WITH_SCHEMAS else "{table}"
        if self.sink_type in {"mysql", "mariadb"} and self.database:
            return f"{self.database}.{own.replace('.', '_')}"
        before = {"postgres": "public.", "duckdb": "main."}.get(self.sink_type, "")
        return own if "." in own else before + own

    @property
    def sink_line(self) -> str:
        """The sink, as the file has it."""
        write = "append" if self.source_type in MESSAGES else "replace"
        how = "write: merge, key: auto" if self.keyed else f"write: {write}"
        return f"  sink: {{connection: {_text(self.sink)}, object: {_text(self.target)}, {how}}}"


def pipeline_file(wanted: Wanted, found: Iterable[Described]) -> str:
    """Return the text of a pipeline file for the objects among `found`, but for views."""
    chosen = [one for one in found if wanted.takes(one.object) and _CONTROL.search(one.object) is None]
    tables = [one for one in chosen if "view" not in one.kind]
    patterns = wanted.tables or tuple(dict.fromkeys(_siblings(one.object, wanted) for one in tables)) or ("*",)
    except_ = f", except: {_list(wanted.except_)}" if wanted.except_ else ""
    lines = [line for one in tables for line in _table(one, wanted)]
    commented = all(line.lstrip().startswith("#") for line in lines)
    return "\n".join([
        _heading(wanted, tables, len(chosen) - len(tables)),
        "apiVersion: penstock/v1",
        "kind: Pipeline",
        f"metadata: {{name: {_text(wanted.name)}}}",
        "spec:",
        *(["  mode: stream"] if wanted.streams else []),
        f"  source: {{connection: {_text(wanted.source)}, objects: {_list(patterns)}{except_}}}",
        wanted.sink_line,
        *(["  # tables:" if commented else "  tables:"] if lines else []),
        *lines,
        *([f"  schedule: {{cron: {_text(LOOK)}}}   # looks for what is new"] if wanted.streams else []),
        "  appear: apply",
        "  vanish: keep",
    ]) + "\n"  # fmt: skip


def _heading(wanted: Wanted, tables: Sequence[Described], views: int) -> str:
    what = "tables" if wanted.source_type in DATABASES else "objects"
    left = f" {views} views are not in it." if what == "tables" else ""
    numbers = "; numbers are estimates." if any(one.rows is not None for one in tables) else "."
    return f"# {len(tables)} {what} of {wanted.source}{numbers}{left}"


def _table(found: Described, wanted: Wanted) -> Iterator[str]:
    """Yield the lines of an object: its estimates, and what the set's own rules do not say."""
    entry = _entry(found.schema, wanted) if found.schema is not None and wanted.keyed else []
    yield f"    # {_comment(found, wanted)}"
    name = _text(escape(found.object))
    if entry:
        yield f"    {name}: {{{', '.join(entry)}}}"
    elif found.schema is not None:
        yield f"    # {name}: {{}}"


def _entry(schema: Schema, wanted: Wanted) -> list[str]:
    if wanted.changes:
        return [] if schema.key else ["disabled: true"]
    entry = []
    if (cursor := _cursor(schema)) is not None:
        entry.append(f"source: {{cursor: {{field: {_text(cursor)}, lag: {LAG}}}}}")
    if not schema.key:
        unique = _unique(schema)
        entry.append(f"sink: {{key: {_list(unique)}}}" if unique else "sink: {write: replace, key: []}")
    return entry


def _cursor(schema: Schema) -> str | None:
    """Return the column that tells when a row was changed last, if each row has a time in it."""
    if not (schema.key or _unique(schema)):
        return None
    fits = (one for one in schema.fields if one.type.startswith(TIMES) and not one.nullable)
    return next((one.name for one in fits if CHANGED.fullmatch(one.name)), None)


def _unique(schema: Schema) -> Sequence[str]:
    """Return a unique key over columns that are never NULL, in place of a primary key."""
    sure = {one.name for one in schema.fields if not one.nullable}
    return next((one for one in schema.unique or () if sure.issuperset(one)), ())


def _comment(found: Described, wanted: Wanted) -> str:
    parts = [] if found.rows is None else [f"about {found.rows:,} rows"]
    parts += [] if found.bytes is None else [size(found.bytes)]
    if (schema := found.schema) is not None:
        key = schema.key if wanted.changes else schema.key or _unique(schema)
        without = (
            "no primary key: its changes cannot be applied" if wanted.changes else "no key: read as a whole each time"
        )
        parts += [f"{len(schema.fields)} columns", f"key {', '.join(key)}" if key else without]
    parts += ["personal data"] if found.personal else []
    text = f"{found.object}: {', '.join(parts)}" if parts else found.object
    return visible(text).replace("\n", " ").replace("\r", " ")


def _siblings(name: str, wanted: Wanted) -> str:
    """Return the pattern of all objects in the schema of one; of all objects if there are no schemas."""
    schema, dot, _ = name.partition(".")
    return f"{escape(schema)}.*" if dot and wanted.source_type in WITH_SCHEMAS else "*"


def _list(names: Iterable[str]) -> str:
    return f"[{', '.join(map(_text, names))}]"


def _text(text: str) -> str:
    """Return `text` as YAML: as it is if that is unambiguous, else as JSON, which YAML contains."""
    plain = re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*(?:[.-][A-Za-z0-9_]+)*", text) is not None
    return text if plain and text.lower() not in _WORDS else json.dumps(text, ensure_ascii=False)


_WORDS: Final = {"yes", "no", "on", "off", "true", "false", "null", "y", "n"}
