"""Plans: what an approval of a change is bound to."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import AwareDatetime, Field, JsonValue

from penstock.models.base import Model

__all__ = ["Difference", "Plan", "differences", "digest_of"]

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Difference(Model):
    """A value of a pipeline's file that a change sets, by its path; None where there is none."""

    path: str
    before: JsonValue = None
    after: JsonValue = None

    def __str__(self) -> str:
        sides = ("nothing" if one is None else json.dumps(one, ensure_ascii=False) for one in (self.before, self.after))
        return f"{self.path}: {' -> '.join(sides)}"


class Plan(Model):
    """What a change does to version `version` of its pipeline, under a policy, if it is approved in time.

    `hash` is that of the change, the pipeline before and after it, and the policy, which has a hash of its own.
    """

    hash: Digest
    version: Annotated[int, Field(ge=1, lt=2**31)]
    policy: str
    diff: tuple[Difference, ...] = ()
    expires: AwareDatetime


def digest_of(*parts: Any) -> str:
    """Return the SHA-256 of plain values, as canonical JSON."""
    text = json.dumps(parts, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def differences(before: Any, after: Any, path: str = "") -> Iterator[dict[str, Any]]:
    """Yield where two documents differ: mappings by key, everything else as a whole."""
    if before == after:
        return
    sides = {"before": before, "after": after}
    if all(one is None or isinstance(one, Mapping) for one in sides.values()):
        for key in dict.fromkeys([*(before or ()), *(after or ())]):
            where = f"{path}.{key}" if path else key
            yield from differences((before or {}).get(key), (after or {}).get(key), where)
        return
    yield {"path": path} | {side: value for side, value in sides.items() if value is not None}
