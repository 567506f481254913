"""Check a connector, its sources and its targets against the contract, before a run trusts them.

Detects three mistakes: a missing member, a method that cannot be called as a run calls it, and a name so similar to
that of an optional ability that it must be a misspelling, which would leave the ability silently unused.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator
from difflib import get_close_matches
from types import CodeType
from typing import Any, Final

from dataflows.connectors.abilities import OF_SOURCES, OF_TARGETS
from dataflows.connectors.cataloguing import OF_CONNECTORS, OF_DESCRIBED
from dataflows.connectors.contract import Connector, Source, Target
from dataflows.connectors.state import State
from penstock.errors import Refused

__all__ = ["check_connector", "check_source", "check_target", "members"]

SIMILAR: Final = 0.82
"""Similarity from which on a name counts as misspelt: `window` and `in_window` are at 0.8."""
_CHECKED: Final[set[tuple[type, type]]] = set()
"""Classes already checked, with the protocol."""
_ABSENT: Final = object()


def check_connector(candidate: object, where: str) -> None:
    """Check the class that a connection's type names.

    Raises:
        Refused: it does not fulfil the contract; says why, and what to change.
    """
    _check(candidate, Connector, OF_CONNECTORS, where)


def check_source(candidate: Source, where: str) -> None:
    """Check what a connector opened as a source.

    Raises:
        Refused: as for a connector.
    """
    _check(candidate, Source, (*OF_SOURCES, *OF_DESCRIBED), where)


def check_target(candidate: Target, where: str) -> None:
    """Check what a connector opened as a target, and its state.

    Raises:
        Refused: as for a connector.
    """
    _check(candidate, Target, OF_TARGETS, where)
    _check(candidate.state, State, (), where)


def _check(candidate: object, protocol: type, abilities: Collection[type], where: str) -> None:
    kind = candidate if isinstance(candidate, type) else type(candidate)
    if (kind, protocol) in _CHECKED:
        return
    if wrong := [*_misfits(candidate, protocol, required=True), *_optional(candidate, protocol, abilities)]:
        name = f"{kind.__module__}.{kind.__qualname__}"
        hint = f"`python -m pydoc {protocol.__module__}.{protocol.__name__}` describes each member"
        raise Refused(f"{name} is not a {protocol.__name__}: {'; '.join(wrong)}", where=where, hint=hint)
    _CHECKED.add((kind, protocol))


def members(protocol: type) -> dict[str, Any]:
    """Return the public members of a protocol; those that are only annotated map to None."""
    names = {**inspect.get_annotations(protocol), **vars(protocol)}
    return {name: vars(protocol).get(name) for name in names if not name.startswith("_")}


def _misfits(candidate: object, protocol: type, *, required: bool) -> Iterator[str]:
    for name, member in members(protocol).items():
        have = inspect.getattr_static(candidate, name, _ABSENT)
        if have is not _ABSENT and not _same_parameters(have, member):
            yield from _uncallable(candidate, name, member)
        elif have is _ABSENT and required:
            near = get_close_matches(name, dir(candidate), 1, SIMILAR)
            yield f"it has no `{name}{_parameters(member)}`{f' but `{near[0]}`' if near else ''}"


def _same_parameters(have: object, member: object) -> bool:
    """True if both are functions with the same parameters: the fast path, which nearly always applies."""
    given, wanted = (getattr(getattr(one, "__func__", one), "__code__", None) for one in (have, member))
    return given is not None and wanted is not None and _parts(given) == _parts(wanted)


def _parts(code: CodeType) -> tuple[int, int, tuple[str, ...]]:
    named = code.co_argcount + code.co_kwonlyargcount
    return code.co_argcount, code.co_kwonlyargcount, code.co_varnames[:named]


def _uncallable(candidate: object, name: str, member: Any) -> Iterator[str]:
    """Yield a message if the method of that name cannot be called like the protocol's."""
    if (wanted := _signature(member)) is None:
        return
    try:
        given = inspect.signature(getattr(candidate, name))
    except TypeError:
        yield f"`{name}` is not a method"
        return
    except ValueError:  # a function that is not written in Python has no signature
        return
    parts = wanted.parameters.values()
    try:
        given.bind(
            *(None for one in parts if one.kind is not one.KEYWORD_ONLY),
            **{one.name: None for one in parts if one.kind is one.KEYWORD_ONLY},
        )
    except TypeError:
        takes = ", ".join(given.parameters)
        yield f"`{name}` is called as `{name}{_parameters(member)}`, this one takes `({takes})`"


def _signature(member: Any) -> inspect.Signature | None:
    """Return the call signature of a protocol's method; None for anything else."""
    if isinstance(member, staticmethod):
        return inspect.signature(member.__func__)
    if not inspect.isfunction(member):
        return None
    return inspect.Signature([*inspect.signature(member).parameters.values()][1:])  # without self


def _parameters(member: Any) -> str:
    signature = _signature(member)
    if signature is None:
        return ""
    bare = [one.replace(annotation=inspect.Parameter.empty) for one in signature.parameters.values()]
    return str(inspect.Signature(bare))


def _optional(candidate: object, protocol: type, abilities: Collection[type]) -> Iterator[str]:
    """Yield a message for each ability that cannot be called, and for each name that looks like a misspelt one."""
    known = {name for ability in abilities for name in members(ability)}
    for ability in abilities:
        yield from _misfits(candidate, ability, required=False)
    for name in dir(candidate):
        if not name.startswith("_") and name not in known and name not in members(protocol):
            for near in get_close_matches(name, known, 1, SIMILAR):
                yield f"`{name}` is not in the contract: call it `{near}`, or `_{name}` if it is your own"
