"""A pipeline file for all that a connection has, which `penstock discover --write` proposes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from glob import escape
from typing import Final

from api.cli.console import size, visible
from catalog.entries import Dataset
from penstock.models.domain import Schema

__all__ = ["Wanted", "pipeline_file"]

CHANGED: Final = re.compile(
    r"(?i)(?:row_?)?(?:updated|modified|changed|last_?update|last_?modified|last_?change)(?:_?(?:at|on|time|date|ts))?"
)
"""Names of columns that tell when a row was changed last."""
TIMES: Final = ("timestamp with time zone", "timestamp without time zone")
LAG: Final = "5m"
_CONTROL: Final = re.compile(r"[\x00-\x1f]")
"""Characters in a name that no pipeline file may contain."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the file is for: a name, both connections, and the objects by pattern."""

    name: str
    source: str
    sink: str
    tables: tuple[str, ...] = ()
    except_: tuple[str, ...] = ()

    def takes(self, name: str) -> bool:
        """True if the object of that name is wanted."""
        chosen = not self.tables or any(fnmatchcase(name, one) for one in self.tables)
        return chosen and not any(fnmatchcase(name, one) for one in self.except_)


def pipeline_file(wanted: Wanted, found: Iterable[tuple[Dataset, Schema]]) -> str:
    """Return the text of a pipeline file for the tables among `found`."""
    chosen = [one for one in found if wanted.takes(one[0].object) and _CONTROL.search(one[0].object) is None]
    tables = [one for one in chosen if "view" not in one[0].kind]
    patterns = wanted.tables or tuple(dict.fromkeys(_siblings(one.object) for one, _ in tables))
    left = len(chosen) - len(tables)
    except_ = f", except: {_list(wanted.except_)}" if wanted.except_ else ""
    lines = [
        f"# {len(tables)} tables of {wanted.source}; numbers are estimates. {left} views are not in it.",
        "apiVersion: penstock/v1",
        "kind: Pipeline",
        f"metadata: {{name: {_text(wanted.name)}}}",
        "spec:",
        f"  source: {{connection: {_text(wanted.source)}, objects: {_list(patterns)}{except_}}}",
        f"  sink: {{connection: {_text(wanted.sink)}, object: {_text('{schema}.{table}')}, write: merge, key: auto}}",
        "  tables:",
        *(line for one, schema in tables for line in _table(one, schema)),
        "  appear: apply",
        "  vanish: keep",
    ]
    return "\n".join(lines if tables else [line for line in lines if line != "  tables:"]) + "\n"


def _table(found: Dataset, schema: Schema) -> Iterator[str]:
    """Yield the lines of a table: its estimates, and what the set's own rules do not say."""
    entry = []
    if (cursor := _cursor(schema)) is not None:
        entry.append(f"source: {{cursor: {{field: {_text(cursor)}, lag: {LAG}}}}}")
    if not schema.key:
        unique = _unique(schema)
        entry.append(f"sink: {{key: {_list(unique)}}}" if unique else "sink: {write: replace, key: []}")
    yield f"    # {_comment(found, schema)}"
    name = _text(escape(found.object))
    yield f"    {name}: {{{', '.join(entry)}}}" if entry else f"    # {name}: {{}}"


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


def _comment(found: Dataset, schema: Schema) -> str:
    parts = [] if found.rows is None else [f"about {found.rows:,} rows"]
    parts += [] if found.bytes is None else [size(found.bytes)]
    key = schema.key or _unique(schema)
    parts += [f"{len(schema.fields)} columns", f"key {', '.join(key)}" if key else "no key: read as a whole each time"]
    parts += ["personal data"] if "personal" in found.tags else []
    return visible(f"{found.object}: {', '.join(parts)}").replace("\n", " ").replace("\r", " ")


def _siblings(name: str) -> str:
    """Return the pattern of all objects in the schema of one; of all objects if there are no schemas."""
    schema, dot, _ = name.partition(".")
    return f"{escape(schema)}.*" if dot else "*"


def _list(names: Iterable[str]) -> str:
    return f"[{', '.join(map(_text, names))}]"


def _text(text: str) -> str:
    """Return `text` as YAML: as it is if that is unambiguous, else as JSON, which YAML contains."""
    plain = re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*(?:[.-][A-Za-z0-9_]+)*", text) is not None
    return text if plain and text.lower() not in _WORDS else json.dumps(text, ensure_ascii=False)


_WORDS: Final = {"yes", "no", "on", "off", "true", "false", "null", "y", "n"}
