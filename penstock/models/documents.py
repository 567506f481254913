"""Files of a project: several YAML or JSON documents in a file, each with its line, for error messages."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from penstock.errors import InvalidDocument, Issue, NotFound, did_you_mean
from penstock.models.connection import Connection, parse_connections
from penstock.models.pipeline import Pipeline
from penstock.models.policy import AgentPolicy
from penstock.models.policy_checks import contradictions
from penstock.models.secrets import literals, literals_in_prose
from penstock.models.sets import check_written

__all__ = ["CONNECTIONS", "Documents", "read_documents", "read_project"]

CONNECTIONS = "connections.yaml"
MAX_VALUES = 100_000
"""The limit for one document."""
MAX_TEXT = 4 << 20
"""The limit for the characters of one document: a file can only exceed it by aliases."""
MAX_FILE_BYTES = 1 << 20
"""The limit for one file; YAML is parsed at about a tenth of this a second."""

KINDS: dict[str, type[Pipeline | AgentPolicy]] = {"Pipeline": Pipeline, "AgentPolicy": AgentPolicy}


class _Loader(yaml.SafeLoader):
    """YAML without its traps.

    A duplicate key is an error, and so is one that is not text; dates and ``yes``, ``no``, ``on`` stay text; only the
    tags of plain data exist.
    """


_PLAIN = "tag:yaml.org,2002:"
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in pairs if not tag.endswith((":timestamp", ":bool"))]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(f"{_PLAIN}bool", re.compile(r"^(?:true|false)$"), ["t", "f"])


class _JsonLoader(_Loader):
    """JSON, whose numbers need no dot before an exponent, unlike those of YAML 1.1."""


_JsonLoader.add_implicit_resolver(f"{_PLAIN}float", re.compile(r"^-?[0-9]+[eE][-+]?[0-9]+$"), list("-0123456789"))


def _wrong(node: yaml.Node, what: str) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(None, None, what, node.start_mark)


def _scalar(kind: str, make: Callable[[yaml.SafeLoader, Any], Any]) -> Callable[[_Loader, yaml.Node], Any]:
    """Wrap PyYAML's constructor of a scalar: a value that does not fit its tag is reported with its line."""

    def made(loader: _Loader, node: yaml.Node) -> Any:
        try:
            return make(loader, node)
        except (ValueError, ArithmeticError, LookupError):
            raise _wrong(node, f"this is not a {kind}") from None

    return made


def _sequence(loader: _Loader, node: yaml.Node) -> list[Any]:
    if not isinstance(node, yaml.SequenceNode):
        raise _wrong(node, "this is not a list")
    return [loader.construct_object(inner, deep=True) for inner in node.value]


def _mapping(loader: _Loader, node: yaml.Node) -> dict[str, Any]:
    if not isinstance(node, yaml.MappingNode):
        raise _wrong(node, "this is not a mapping")
    found: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str):
            raise _wrong(key_node, "a key is not text; quote it")
        if key in found:
            raise _wrong(key_node, f"duplicate key {key!r}")
        found[key] = loader.construct_object(value_node, deep=True)
    return found


_Loader.yaml_constructors = {
    f"{_PLAIN}null": _scalar("null", yaml.SafeLoader.construct_yaml_null),
    f"{_PLAIN}bool": _scalar("boolean", yaml.SafeLoader.construct_yaml_bool),
    f"{_PLAIN}int": _scalar("whole number", yaml.SafeLoader.construct_yaml_int),
    f"{_PLAIN}float": _scalar("number", yaml.SafeLoader.construct_yaml_float),
    f"{_PLAIN}str": yaml.SafeLoader.construct_yaml_str,
    f"{_PLAIN}seq": _sequence,
    f"{_PLAIN}map": _mapping,
    None: lambda _, node: _refuse(node),
}


def _refuse(node: yaml.Node) -> None:
    sign = node.tag.removeprefix(_PLAIN) if node.tag.startswith("tag:") else "!"  # what follows it may be a password
    raise _wrong(node, f"the tag or sign {sign!r} has no meaning here; quote it")


@dataclass(frozen=True, slots=True)
class Documents:
    """The documents of all files, each with the file it came from."""

    connections: dict[str, Connection]
    pipelines: tuple[Pipeline, ...]
    policies: tuple[AgentPolicy, ...]
    origins: dict[tuple[str, str], str]

    def __len__(self) -> int:
        return len(self.connections) + len(self.pipelines) + len(self.policies)


Check = Callable[[Pipeline], None]
"""A check of a pipeline beyond its model; raises InvalidDocument with paths into it."""


def read_project(folder: Path, check: Check | None = None) -> Documents:
    """Read a project: `connections.yaml`, `pipelines/*.yaml`, `policies/*.yaml` (or .yml, .json)."""
    paths = [folder / CONNECTIONS] if (folder / CONNECTIONS).exists() else []
    for room in ("pipelines", "policies"):
        paths += sorted(p for p in (folder / room).glob("*") if p.suffix in {".yaml", ".yml", ".json"})
    if not paths:
        below = sorted(path.parent.name for path in folder.glob("*/penstock.toml"))
        hint = (
            f"cd {below[0]}" if len(below) == 1 else "run `penstock init DIR` for a project that works, or name files"
        )
        raise NotFound("has no connections.yaml, pipelines/ or policies/", where=str(folder), hint=hint)
    return read_documents(paths, check)


def read_documents(paths: Iterable[Path], check: Check | None = None) -> Documents:
    """Read the documents of `paths`; `check` is called for each pipeline.

    Raises:
        InvalidDocument: lists every issue of every file, each as ``file:line: path: message``.
        NotFound: a path that does not exist.
    """
    connections: dict[str, Connection] = {}
    models: list[Pipeline | AgentPolicy] = []
    origins: dict[tuple[str, str], str] = {}
    issues: list[Issue] = []
    for path in paths:
        for data, node in _load(path, issues):
            where = f"{path}:{node.start_mark.line + 1}"
            try:
                if path.name.startswith("connections."):
                    connections |= parse_connections(data)
                    continue
                model = _model(data)
                if isinstance(model, Pipeline):
                    check_written(model)
                elif found := contradictions(model):
                    raise InvalidDocument(found)
                if check and isinstance(model, Pipeline):
                    check(model)
            except InvalidDocument as error:
                issues += [
                    Issue(f"{path}:{_line(node, i.path)}: {i.path}".removesuffix(": "), i.message) for i in error.issues
                ]
                continue
            key = (model.kind, model.name)
            if key in origins:
                issues.append(
                    Issue(f"{where}: metadata.name", f"{model.kind} {model.name!r} is also defined at {origins[key]}")
                )
            origins[key] = where
            models.append(model)
    if issues:
        raise InvalidDocument(issues)
    pipelines = tuple(m for m in models if isinstance(m, Pipeline))
    policies = tuple(m for m in models if isinstance(m, AgentPolicy))
    return Documents(connections, pipelines, policies, origins)


def _load(path: Path, issues: list[Issue]) -> Iterator[tuple[Any, yaml.Node]]:
    try:
        text = _text(path)
    except FileNotFoundError as error:
        raise NotFound("no such file", where=str(path), hint="without names, the project's files are used") from error
    except IsADirectoryError:
        issues.append(Issue(str(path), f"is a folder: name files, such as {path}/*.yaml, or --project {path}"))
        return
    except (OSError, ValueError) as error:
        issues.append(Issue(str(path), f"cannot be read: {error}"))
        return
    try:
        loader = (_JsonLoader if path.suffix == ".json" else _Loader)(text)
        while loader.check_node():
            if (node := loader.get_node()) is not None:
                yield _bounded(loader.construct_document(node)), node
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        issues.append(
            Issue(
                f"{path}{line}",
                f"is not YAML: {_problem(error)}",
            )
        )


def _problem(error: Exception) -> str:
    """Return what is wrong, without a word of the file: what follows a ``*`` may be a password."""
    said = str(getattr(error, "problem", None) or getattr(error, "reason", None) or error)
    return "a text that begins with * needs quotes" if said.startswith("found undefined alias") else said


def _text(path: Path) -> str:
    with path.open("rb") as file:
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        message = f"it is larger than {MAX_FILE_BYTES >> 20} MiB; split it over several files"
        raise ValueError(message)
    return data.decode()


def _bounded(data: Any) -> Any:
    """Return `data` unless it is far larger than its file: aliases of aliases grow without bound when expanded.

    Raises:
        ValueError: it has more than `MAX_VALUES` values, or its texts more than `MAX_TEXT` characters.
    """
    level, count, size = [data], 0, 0
    while level and count <= MAX_VALUES and size <= MAX_TEXT:
        count += len(level)
        size += sum(map(_size, level))
        level = [inner for value in level for inner in _inside(value)][: MAX_VALUES + 1]
    if level or size > MAX_TEXT:
        limit = f"{MAX_VALUES} values" if size <= MAX_TEXT else f"{MAX_TEXT >> 20} MiB of text"
        message = f"has more than {limit} when its aliases are expanded"
        raise ValueError(message)
    return data


def _size(value: Any) -> int:
    """Return the characters of a text, or of the keys of a mapping."""
    return len(value) if isinstance(value, str) else sum(map(len, value)) if isinstance(value, dict) else 0


def _inside(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _model(data: Any) -> Pipeline | AgentPolicy:
    if not isinstance(data, dict):
        raise InvalidDocument([Issue("", "is not a mapping with apiVersion, kind, metadata and spec")])
    kind = data.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        hint = did_you_mean(str(kind), KINDS) or f"one of {', '.join(KINDS)}"
        raise InvalidDocument([Issue("kind", f"unknown kind {kind!r}; {hint}" if kind else f"is required; {hint}")])
    prose = literals_in_prose(data.get("metadata"), "metadata")
    if found := dict([*prose, *literals(data)]):
        raise InvalidDocument([Issue(path, what) for path, what in found.items()])
    return KINDS[kind].parse(data)


def _line(node: yaml.Node, path: str) -> int:
    """Return the line of the deepest part of `path` that the document has."""
    for part in path.replace("[", ".[").split("."):
        found = None
        if isinstance(node, yaml.MappingNode):
            found = next((value for key, value in node.value if key.value == part), None)
            mark = next((key for key, _ in node.value if key.value == part), None)
            if mark is not None and not isinstance(found, yaml.MappingNode | yaml.SequenceNode):
                return int(mark.start_mark.line) + 1
        elif isinstance(node, yaml.SequenceNode) and part.startswith("["):
            index = part[1:-1]
            found = node.value[int(index)] if index.isdecimal() and int(index) < len(node.value) else None
        if found is None:
            break
        node = found
    return int(node.start_mark.line) + 1
