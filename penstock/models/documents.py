"""Files of a project: many YAML or JSON documents to a file, each with its line, and errors that name it."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from penstock.errors import InvalidDocument, Issue, NotFound, did_you_mean
from penstock.models.connection import Connection, parse_connections
from penstock.models.pipeline import Pipeline
from penstock.models.policy import AgentPolicy

__all__ = ["CONNECTIONS", "Documents", "read_documents", "read_project"]

CONNECTIONS = "connections.yaml"
MOST_VALUES = 100_000
"""In one document."""

KINDS: dict[str, type[Pipeline | AgentPolicy]] = {"Pipeline": Pipeline, "AgentPolicy": AgentPolicy}


class _Loader(yaml.SafeLoader):
    """YAML without its traps: a key that stands twice is an error; dates and ``yes``, ``no``, ``on`` stay text."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in pairs if not tag.endswith((":timestamp", ":bool"))]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|false)$"), ["t", "f"])


class _JsonLoader(_Loader):
    """JSON, whose numbers need no dot before an exponent, as YAML 1.1 asks for one."""


_JsonLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^-?[0-9]+[eE][-+]?[0-9]+$"), list("-0123456789")
)


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    found: dict[Any, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, Hashable):
            raise yaml.constructor.ConstructorError(None, None, "a key is no text", key_node.start_mark)
        if key in found:
            raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} stands twice", key_node.start_mark)
        found[key] = loader.construct_object(value_node, deep=True)
    return found


for _one in (_Loader, _JsonLoader):
    _one.add_constructor("tag:yaml.org,2002:map", _mapping)


@dataclass(frozen=True, slots=True)
class Documents:
    """What the files hold, each with the file it came from."""

    connections: dict[str, Connection]
    pipelines: tuple[Pipeline, ...]
    policies: tuple[AgentPolicy, ...]
    origins: dict[tuple[str, str], str]

    def __len__(self) -> int:
        return len(self.connections) + len(self.pipelines) + len(self.policies)


Check = Callable[[Pipeline], None]
"""A look at a pipeline that goes further than its model; raises InvalidDocument with paths into it."""


def read_project(folder: Path, check: Check | None = None) -> Documents:
    """All of a project: `connections.yaml`, `pipelines/*.yaml`, `policies/*.yaml` (or .yml, .json)."""
    paths = [folder / CONNECTIONS] if (folder / CONNECTIONS).exists() else []
    for room in ("pipelines", "policies"):
        paths += sorted(p for p in (folder / room).glob("*") if p.suffix in {".yaml", ".yml", ".json"})
    if not paths:
        hint = "run `penstock init DIR` for a project that runs, or name files"
        raise NotFound("holds no connections.yaml, pipelines/ or policies/", where=str(folder), hint=hint)
    return read_documents(paths, check)


def read_documents(paths: Iterable[Path], check: Check | None = None) -> Documents:
    """The documents of `paths`, each pipeline looked at by `check` too.

    Raises:
        InvalidDocument: with every issue of every file, each as ``file:line: path: message``.
        NotFound: a path that is not there.
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
                    Issue(f"{where}: metadata.name", f"{model.kind} {model.name!r} stands in {origins[key]} too")
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
        text = path.read_text()
    except FileNotFoundError as error:
        raise NotFound("no such file", where=str(path)) from error
    except (OSError, UnicodeDecodeError) as error:
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
                f"is no YAML: {getattr(error, 'problem', None) or getattr(error, 'reason', None) or error}",
            )
        )


def _bounded(data: Any) -> Any:
    """`data`, unless it is far larger than its file looks: aliases of aliases grow without bound when written out.

    Raises:
        ValueError: it holds more than `MOST_VALUES` values.
    """
    level, count = [data], 0
    while level and count <= MOST_VALUES:
        count += len(level)
        level = [inner for value in level for inner in _inside(value)][: MOST_VALUES + 1]
    if level:
        message = f"holds more than {MOST_VALUES} values when its aliases are written out"
        raise ValueError(message)
    return data


def _inside(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _model(data: Any) -> Pipeline | AgentPolicy:
    if not isinstance(data, dict):
        raise InvalidDocument([Issue("", "is no mapping with apiVersion, kind, metadata and spec")])
    kind = data.get("kind")
    if kind not in KINDS:
        hint = did_you_mean(str(kind), KINDS) or f"one of {', '.join(KINDS)}"
        raise InvalidDocument([Issue("kind", f"unknown kind {kind!r}; {hint}" if kind else f"is required; {hint}")])
    return KINDS[kind].parse(data)


def _line(node: yaml.Node, path: str) -> int:
    """The line of the deepest part of `path` that the document has."""
    for part in path.replace("[", ".[").split("."):
        found = None
        if isinstance(node, yaml.MappingNode):
            found = next((value for key, value in node.value if key.value == part), None)
            mark = next((key for key, _ in node.value if key.value == part), None)
            if mark is not None and not isinstance(found, yaml.MappingNode | yaml.SequenceNode):
                return int(mark.start_mark.line) + 1
        elif isinstance(node, yaml.SequenceNode) and part.startswith("["):
            index = int(part[1:-1])
            found = node.value[index] if index < len(node.value) else None
        if found is None:
            break
        node = found
    return int(node.start_mark.line) + 1
