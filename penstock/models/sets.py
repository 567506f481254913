"""Sets of pipelines: which objects of a source become members, and the pipeline of each. Pure.

A set is a pipeline file whose source has `objects`. A member is an ordinary pipeline named ``SET/OBJECT``. Selection
looks at names only.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Annotated, Any, Final

from pydantic import Field

from penstock.errors import InvalidDocument, Issue, Refused
from penstock.models.base import Model
from penstock.models.pipeline import Pipeline
from penstock.models.transforms import ObjectName

__all__ = [
    "DATABASES",
    "FoundObject",
    "Members",
    "check_written",
    "circle",
    "in_circle",
    "is_member",
    "matches",
    "member_name",
    "member_of",
    "placeholder_issue",
    "selects",
    "set_of",
]

DATABASES: Final = frozenset({"postgres", "mysql", "mariadb", "sqlite", "duckdb"})
"""Types of connections whose objects are tables, ``schema.table``."""
WITH_SCHEMAS: Final = DATABASES - {"sqlite"}
"""Types whose objects are in a schema, or in a database that takes its place."""
WITHOUT_SCHEMAS: Final = frozenset({"sqlite", "files", "s3", "kafka", "kinesis", "topics", "http"})
"""Types whose objects are in none; of other types it shows when they are listed."""
CASELESS: Final = frozenset({"mysql", "mariadb", "sqlite", "duckdb"})
"""Types whose tables may be one and the same if their names differ in case only."""
OF_SET: Final = ("tables", "appear", "vanish", "schedule", "after", "triggers", "tests")
"""Keys of a set's specification that its members do not have."""
WILD: Final = frozenset("*?[")
PLACEHOLDERS: Final = "{schema}, {table} and {object}"
_PLACEHOLDER: Final = re.compile(r"\{(schema|table|object)\}")


class FoundObject(Model):
    """An object of a source, as a listing found it: its name in full, its parts, and its primary key.

    `schema` is empty if the source has none; `table` is the name without what only tells where the object is.
    `identity` is what the server keeps for a table that gets another name, if it keeps something.
    """

    object: ObjectName
    schema_: Annotated[str, Field(max_length=512)] = Field(default="", alias="schema")
    table: Annotated[str, Field(min_length=1, max_length=512)]
    key: tuple[Annotated[str, Field(min_length=1, max_length=256)], ...] = ()
    identity: Annotated[str, Field(min_length=1, max_length=256)] | None = None

    def called(self, name: str) -> FoundObject:
        """Return the same table under the name ``schema.table`` that it had before; others keep no identity."""
        schema, _, table = name.partition(".")
        return self.model_copy(update={"object": name, "schema_": schema, "table": table})


def set_of(name: str) -> str | None:
    """Return the set that a pipeline of this name is a member of; None if it is not one."""
    found, slash, _ = name.partition("/")
    return found if slash else None


def is_member(name: str) -> bool:
    """True if a pipeline of this name is a member of a set."""
    return "/" in name


def member_name(name: str, object_: str) -> str:
    """Return the name of a set's member."""
    return f"{name}/{object_}"


def circle(after: Callable[[str], Iterable[str]], name: str) -> list[str]:
    """Return a shortest way from a name by what comes before it back to itself; [] if there is none."""
    ways, left = {name: [name]}, [name]
    while left:
        one = left.pop(0)
        for other in after(one):
            if other == name:
                return [*ways[one], name]
            if other not in ways:
                ways[other] = [*ways[one], other]
                left.append(other)
    return []


def in_circle(way: Iterable[str]) -> str:
    """Return what is wrong with targets that refer to each other."""
    return f"foreign keys of the targets make a circle, so that none can be loaded first: {' -> '.join(way)}"


def matches(pattern: str, object_: str) -> bool:
    """True if the pattern is this name, or matches it."""
    return pattern == object_ or fnmatchcase(object_, pattern)


def selects(spec: Mapping[str, Any], object_: str) -> bool:
    """True if the set's specification, as plain data, selects an object of this name."""
    source = spec["source"]
    return any(matches(one, object_) for one in source["objects"]) and not any(
        matches(one, object_) for one in source.get("except", ())
    )


def _exactness(pattern: str) -> tuple[bool, int]:
    """Return how exact a pattern is: a name more than any pattern, then by the number of its literal characters."""
    wild = sum(one in WILD for one in pattern)
    return not wild, len(pattern) - wild


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with the values of `over`, key by key; null takes a key away."""
    found = dict(base)
    for key, value in over.items():
        inner = found.get(key)
        if value is None:
            found.pop(key, None)
        elif isinstance(value, Mapping):
            found[key] = merged(inner if isinstance(inner, Mapping) else {}, value)
        else:
            found[key] = value
    return found


@dataclass(frozen=True, slots=True)
class Members:
    """The rule that makes members of a set: its document as plain data, and the types of its connections."""

    document: Mapping[str, Any]
    sink: str = "postgres"
    source: str = "postgres"

    @property
    def name(self) -> str:
        """The set's name."""
        return str(self.document["metadata"]["name"])

    def selects(self, object_: str) -> bool:
        """True if an object of this name is selected, and no entry of `tables` disables it."""
        if not selects(self.document["spec"], object_):
            return False
        said = [entry["disabled"] for entry in self._entries(object_) if "disabled" in entry]
        return not (said and said[-1])

    def load_target(self, found: FoundObject) -> str | None:
        """Return the target of an object; None if it is no member, or a stream, which has no load of its own."""
        if not self.selects(found.object):
            return None
        mode, template = self.document["spec"].get("mode"), self.document["spec"]["sink"]["object"]
        for entry in self._entries(found.object):
            mode = entry.get("mode", mode)
            template = (entry.get("sink") or {}).get("object", template)
        try:
            return None if mode == "stream" else self._target(template, found)
        except Refused:
            return None

    def unmatched(self, objects: Iterable[str]) -> list[str]:
        """Return the patterns of `objects` that match none of these names."""
        left = list(self.document["spec"]["source"]["objects"])
        for one in objects:
            if not left:
                break
            left = [pattern for pattern in left if not matches(pattern, one)]
        return left

    def _entries(self, *names: str) -> list[Mapping[str, Any]]:
        """Return the parts of a specification that `tables` has for an object's names, the most exact pattern last."""
        tables = self.document["spec"].get("tables") or {}
        fitting = [pattern for pattern in tables if any(matches(pattern, one) for one in names)]
        return [tables[pattern] for pattern in sorted(fitting, key=_exactness)]  # stable: later ones win among equals

    def tables_rule(self, *names: str) -> str | None:
        """Return the rule by which a member of these names follows its table to another name; None for the default."""
        rule = (self.document["spec"].get("schema") or {}).get("tables")
        for entry in self._entries(*names):
            rule = (entry.get("schema") or {}).get("tables", rule)
        return rule

    def named(self, object_: str, readers: Mapping[str, str]) -> str:
        """Return the name of an object's member: the one that reads it, unless only names count for that one."""
        reader = readers.get(object_)
        if reader is None or self.tables_rule(reader.partition("/")[2], object_) == "ignore":
            return member_name(self.name, object_)
        return reader

    def is_taken(self, object_: str, reads: str) -> bool:
        """True if the member of an object's name goes on with another object, which had that name before."""
        return reads != object_ and self.tables_rule(object_, reads) != "ignore"

    def member(self, found: FoundObject, known_as: str | None = None) -> dict[str, Any]:
        """Return the pipeline of an object, as plain data.

        An object that was `known_as` another when it became a member has that member's pipeline, whose target has the
        name that the template made then. What `tables` says of either name holds.

        Raises:
            Refused: it cannot be a pipeline: no name for its target, or no key where one is needed.
            InvalidDocument: what `tables` says of it does not fit together.
        """
        metadata, spec = self.document["metadata"], self.document["spec"]
        own = {key: value for key, value in spec.items() if key not in OF_SET}
        names = (found.object, known_as or found.object)
        found = found.called(known_as) if known_as not in {None, found.object} else found
        for entry in self._entries(*names):  # one by one: a null takes away what the set has, too
            own = merged(own, {key: value for key, value in entry.items() if key != "disabled"})
        source = {key: value for key, value in own["source"].items() if key not in {"objects", "except"}}
        sink = own["sink"] | {"object": self._target(own["sink"]["object"], found)}
        if "key" in sink and sink["key"] == "auto":
            sink, source = self._keyed(sink, source, own, found)
        own |= {"source": source | {"object": found.object}, "sink": sink}
        if sink.get("write") == "replace":  # it has the rows of its source anyway
            own.pop("deletes", None)
        kept = {key: value for key, value in metadata.items() if key in {"owner", "labels"}}
        name = member_name(self.name, found.object)
        document = {"metadata": {"name": name, **kept}, "spec": own}
        return Pipeline.parse(document, where=f"pipeline {name}").to_dict()

    def _keyed(
        self, sink: dict[str, Any], source: dict[str, Any], own: Mapping[str, Any], found: FoundObject
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the sink with the object's primary key.

        Without one, a batch that merges replaces the whole target. A stream that merges appends, if its source sends
        events or files; changes of a table's rows cannot be applied without a key.
        """
        if found.key:
            return sink | {"key": list(found.key)}, source
        sink = {key: value for key, value in sink.items() if key != "key"}
        write = sink.get("write", "append")
        if write not in {"merge", "scd2"}:
            return sink, source
        if write == "merge" and own.get("mode", "batch") == "batch":
            sink = {key: value for key, value in sink.items() if key not in {"version", "delete"}}
            return sink | {"write": "replace"}, {key: value for key, value in source.items() if key != "cursor"}
        if write == "merge" and self.source not in DATABASES:
            return {key: value for key, value in sink.items() if key not in {"write", "version", "delete"}}, source
        what = f"it has no primary key, which `write: {write}` needs"
        hint = f"name its columns: tables: {{{found.object!r}: {{sink: {{key: […]}}}}}}; or leave it out by `except`"
        raise Refused(what, where=found.object, hint=hint)

    def _target(self, template: str, found: FoundObject) -> str:
        """Return the name that the template makes for an object; a target of a database is ``schema.table``."""
        parts = {"schema": found.schema_, "table": found.table, "object": found.object}
        if "{schema}" in template and not found.schema_:
            what = f"{{schema}} in `{template}` has no meaning: it is in no schema"
            raise Refused(what, where=found.object, hint="write {table} or {object}")
        name = _PLACEHOLDER.sub(lambda one: parts[one[1]], template)
        if self.sink in WITH_SCHEMAS:
            before = _PLACEHOLDER.sub(lambda one: parts[one[1]], template.partition(".")[0])
            if "." in before:
                what = f"`{template}` makes the name {name!r}, whose first dot would end the schema's name"
                raise Refused(what, where=found.object, hint="give it a target by `tables`, or write SCHEMA.{table}")
        return name

    def identity(self, member: Mapping[str, Any]) -> str:
        """Return the text that two members with the same target share."""
        return self.same(str(member["spec"]["sink"]["object"]))

    def same(self, target: str) -> str:
        """Return the text that all names of one target share."""
        return target.casefold() if self.sink in CASELESS else target


def member_of(
    document: Mapping[str, Any], found: FoundObject, *, sink: str = "postgres", source: str = "postgres"
) -> dict[str, Any]:
    """Return the pipeline that an object becomes in a set. Raises as `Members.member`."""
    return Members(document, sink, source).member(found)


def placeholder_issue(template: str, source: str) -> str | None:
    """Return why the template of a set's targets has no meaning for a source of this type; None if it has one."""
    if "{schema}" not in template or source not in WITHOUT_SCHEMAS:
        return None
    return f"{{schema}} has no meaning: a source of type {source} has no schemas; write {{table}} or {{object}}"


def check_written(pipeline: Pipeline) -> None:
    """Check what only holds for a file that a user writes: its name, and that each entry of `tables` makes a pipeline.

    Raises:
        InvalidDocument: with the path of each issue.
    """
    issues: list[Issue] = []
    if is_member(pipeline.name):
        message = "a name with `/` is that of a member, which its set makes; write `tables` in the set's file"
        issues.append(Issue("metadata.name", message))
    if pipeline.spec.is_set:
        issues += _issues(pipeline)
    if issues:
        raise InvalidDocument(issues, where=f"pipeline {pipeline.name}")


def _issues(pipeline: Pipeline) -> list[Issue]:
    document = pipeline.to_dict()
    spec, issues = document["spec"], list[Issue]()
    template = spec["sink"]["object"]
    if not _PLACEHOLDER.search(template) and _is_wild(spec["source"]["objects"]):
        issues.append(Issue("spec.sink.object", f"every member would write to {template!r}; write {{table}} in it"))
    if unknown := re.findall(r"\{(?!schema\}|table\}|object\})[^{}]*\}", template):
        issues.append(Issue("spec.sink.object", f"{unknown[0]} means nothing; there are {PLACEHOLDERS}"))
    issues += _trial(document, "spec", "a.a")
    for pattern, entry in spec.get("tables", {}).items():
        where = f"spec.tables[{pattern!r}]"
        if malformed := _malformed(where, entry):
            issues += malformed
            continue
        if any("connection" in (entry.get(end) or {}) for end in ("source", "sink")):
            issues.append(Issue(where, "the connections are the set's; a table of another one needs a pipeline"))
        if OWN & {*(entry.get("source") or {})} or {"tables", "appear", "vanish"} & {*entry}:
            issues.append(Issue(where, "`objects`, `except`, `object`, `tables`, `appear`, `vanish` are the set's"))
        elif not isinstance(entry.get("disabled", False), bool):
            issues.append(Issue(f"{where}.disabled", "is true or false"))
        else:
            issues += _trial(merged(document, {"spec": {"tables": None}}), where, pattern, entry)
    return issues


def _malformed(where: str, entry: Mapping[str, Any]) -> list[Issue]:
    """Return what of an entry cannot be merged into a specification."""
    ends = [end for end in ("source", "sink") if not isinstance(entry.get(end, {}), Mapping)]
    if ends:
        message = "is an object, with the keys that differ from the set's"
        return [Issue(f"{where}.{end}", message) for end in ends]
    if not isinstance(entry.get("sink", {}).get("object", ""), str):
        return [Issue(f"{where}.sink.object", "is the name of a target; {schema}, {table} and {object} may be in it")]
    return []


OWN: Final = {"object", "objects", "except", "topics", "pattern"}


def _is_wild(objects: Sequence[str]) -> bool:
    return len(objects) > 1 or any(WILD & {*one} for one in objects)


def _trial(document: Mapping[str, Any], where: str, name: str, entry: Mapping[str, Any] | None = None) -> list[Issue]:
    """Return what is wrong with the pipeline of an object of this name, with `entry` for it."""
    spec = document["spec"] | {"tables": {name: entry} if entry else {}}
    schema, _, table = name.rpartition(".")
    trial = FoundObject.model_construct(object=name, schema_=schema or "a", table=table, key=("id",))
    try:
        Members({**document, "spec": spec}, sink="files").member(trial)
    except InvalidDocument as error:
        return [Issue(f"{where}{one.path.removeprefix('spec')}", one.message) for one in error.issues]
    return []
