"""Measures in the text format of Prometheus, version 0.0.4."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from api.measures import BUCKETS, Family, Measured, Values
from penstock.histogram import BOUNDS

__all__ = ["CONTENT_TYPE", "exposition"]

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
PREFIX: Final = "penstock_"


def exposition(families: Iterable[Family]) -> str:
    """Return families as text; those without values are left out."""
    return "".join(f"{line}\n" for family in families if family.values for line in _lines(family))


def _lines(family: Family) -> Iterator[str]:
    name = f"{PREFIX}{family.name}" + ("_total" if family.kind == "counter" else "")
    about = family.about.replace("\\", "\\\\").replace("\n", "\\n")
    yield f"# HELP {name} {about}"
    yield f"# TYPE {name} {family.kind}"
    for one in family.values:
        yield from _samples(name, one)


def _samples(name: str, one: Measured) -> Iterator[str]:
    if not isinstance(one.value, Values):
        yield f"{name}{_labels(one.labels)} {_number(one.value)}"
        return
    for part, count in zip(BUCKETS, one.value.buckets(), strict=True):
        yield f"{name}_bucket{_labels({**one.labels, 'le': _number(BOUNDS[part])})} {count}"
    yield f"{name}_bucket{_labels({**one.labels, 'le': '+Inf'})} {one.value.count}"
    yield f"{name}_sum{_labels(one.labels)} {_number(one.value.sum)}"
    yield f"{name}_count{_labels(one.labels)} {one.value.count}"


def _labels(labels: Mapping[str, str]) -> str:
    """Return labels in braces; a quote that is not escaped would make the whole scrape unreadable."""
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items()) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)
