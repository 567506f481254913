"""Classification of an error by its codes and its place; pure, and quick enough for every failure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from dataflows.work.classify.fingerprint import fingerprint, likest, template
from dataflows.work.classify.signs import signs_of
from penstock.models.domain import Error
from penstock.models.failures import Classification, Origin

__all__ = ["classified"]

_PLATFORM: Final = ("run.crashed", "worker.", "agent", "log", "memory.", "defect", "unexpected", "fenced", "settings.")
"""Beginnings of the codes of errors that come from Penstock or its machine."""
LEAST: Final = 0.3
"""Confidence in the kind of an error that has no known sign."""
BY_TARGET: Final = "most often by `target`"
"""Part of the sentence about a run with too many dead letters, if it is the target that refused them."""
_AGREED: Final = 0.02
"""How much more confidence each further sign of the same kind gives."""


def classified(error: Error, spec: Mapping[str, Any] | None, known: Mapping[str, str]) -> Classification:
    """Classify an error of a pipeline's task; `spec` is its file, None if it has none.

    `known` are the templates of errors seen before, by fingerprint: the same fingerprint is the same error, and of
    others the one that reads most like it is named.
    """
    found = list(signs_of(error.code, error.what))
    if error.transient and not any(kind == "transient" for _, kind, _ in found):
        found.append(("a retry may help", "transient", LEAST))
    sign = found[0] if found else ("nothing", "bug", LEAST)
    agreeing = sum(kind == sign[1] for _, kind, _ in found) - 1
    sentence = template(error.what)
    origin, connection = _origin(error, spec)
    print_ = fingerprint(error.code, connection, sentence)
    return Classification(
        kind=sign[1],
        confidence=round(min(0.99, sign[2] + _AGREED * max(0, agreeing)), 2),
        origin=origin,
        connection=connection,
        fingerprint=print_,
        template=sentence,
        signs=tuple(dict.fromkeys(name[:100] for name, _, _ in found)),
        like=None if print_ in known or not known else likest(sentence, known),
    )


def _origin(error: Error, spec: Mapping[str, Any] | None) -> tuple[Origin, str | None]:
    """Return where an error comes from, and the connection that it is about."""
    where = error.where or ""
    name = _named(where)
    if error.code.startswith(_PLATFORM):
        return "platform", None
    if spec is None:
        return "source", name
    if "transforms" in where or "mapping" in where:
        return "transform", None
    ends = {f"spec.{side}": str(spec["spec"][side].get("connection")) for side in ("source", "sink")}
    source, sink = ends.values()
    if BY_TARGET in error.what:
        name = sink
    name = name or next((one for part, one in ends.items() if part in where), None)
    if name == sink and (source != sink or _is_about_target(error)):
        return "sink", sink
    if name is not None:
        return ("source" if name == source else "transform"), name  # a step may look up another table
    return ("transform" if error.code.startswith("data.") else "platform"), None


def _named(where: str) -> str | None:
    """Return the connection that the place of an error names."""
    _, found, name = where.partition("connection ")
    return name.split(",")[0].split(" ")[0].rstrip(":") or None if found else None


def _is_about_target(error: Error) -> bool:
    return error.code.startswith("data.") or "target" in error.what or "sink" in error.what
