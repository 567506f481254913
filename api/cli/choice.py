"""Choice of pipelines: by name, by label, by a pattern of names, or all of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from shlex import quote

from catalog.overview import Overview
from penstock.errors import NotFound, UsageError, did_you_mean

__all__ = ["Choice", "known", "object_matches"]


@dataclass(frozen=True, slots=True)
class Choice:
    """Names as they are written, selectors (`LABEL=VALUE` or a pattern such as `sales-*`), or every pipeline.

    With `tables`, patterns of objects, it is the members of the chosen sets that match one of them; of all sets if
    nothing else is chosen. `command` is for messages, and `has_all` is true if it has `--all`.
    """

    names: tuple[str, ...] = ()
    selectors: tuple[str, ...] = ()
    every: bool = False
    tables: tuple[str, ...] = ()
    command: str = "run"
    has_all: bool = True

    def __post_init__(self) -> None:
        """Check the choice. Raises UsageError: nothing is chosen, or names in addition to `--all`."""
        where = f"penstock {self.command}"
        if not (self.names or self.selectors or self.every or self.tables):
            hint = f"penstock list, or {where} {'--all' if self.has_all else 'NAME'}"
            raise UsageError("name a pipeline", where=where, hint=hint)
        if self.every and (self.names or self.selectors):
            raise UsageError("names and `--all` exclude each other", where=where, hint="leave out one of them")

    @property
    def single(self) -> str | None:
        """The name, if the choice is one pipeline by name."""
        return self.names[0] if len(self.names) == 1 and not (self.selectors or self.tables) else None

    @property
    def words(self) -> str:
        """The choice as written on the command line."""
        words = (*map(quote, self.names), *(f"--select {quote(one)}" for one in self.selectors))
        tables = (f"--table {quote(one)}" for one in self.tables)
        return " ".join((*(("--all",) if self.every else words), *tables))

    def names_among(self, pipelines: Sequence[Overview]) -> list[str]:
        """Return the chosen names, each once: the named ones, then the selected ones that are active.

        Raises:
            NotFound: there is no pipeline of a name, or no active one that matches a selector.
        """
        if self.tables:
            return self._members(pipelines)
        return self._chosen(pipelines)

    def members_among(self, pipelines: Sequence[Overview]) -> list[str]:
        """Return the chosen names, with its members in place of each set. Raises NotFound, as `names_among`."""
        members: dict[str, list[str]] = {one.name: [] for one in pipelines if one.is_set}
        for one in pipelines:
            if one.member_of in members:
                members[one.member_of].append(one.name)
        return [member for name in self.names_among(pipelines) for member in members.get(name, [name])]

    def _members(self, pipelines: Sequence[Overview]) -> list[str]:
        """Return the members of the chosen sets whose objects match. Raises NotFound if there are none."""
        sets = [one.name for one in pipelines if one.is_set]
        if self.names or self.selectors:
            sets = self._chosen(pipelines)
        found = [one.name for one in pipelines if one.member_of in sets and object_matches(one.name, self.tables)]
        if not found:
            hint = f"penstock status {quote(sets[0])}" if sets else "a set is a pipeline whose source has `objects`"
            raise NotFound("no member matches", where="--table", value=", ".join(self.tables), hint=hint)
        return found

    def _chosen(self, pipelines: Sequence[Overview]) -> list[str]:
        names = [one.name for one in pipelines]
        whole = [one for one in pipelines if one.member_of is None]
        chosen = dict.fromkeys(known(name, names) for name in self.names)
        if self.every:
            chosen |= dict.fromkeys(one.name for one in whole if one.status == "active")
            if not chosen:
                raise NotFound("there is no active pipeline", hint="penstock list")
        for selector in self.selectors:
            chosen |= dict.fromkeys(_selected(selector, pipelines if "/" in selector else whole))
        return list(chosen)


def object_matches(name: str, patterns: Iterable[str]) -> bool:
    """True if the object of the member `name` matches one of the patterns, or is one of them."""
    object_ = name.partition("/")[2]
    return any(object_ == one or fnmatchcase(object_, one) for one in patterns)


def known(name: str, names: Collection[str]) -> str:
    """Return `name` if it is one of `names`. Raises NotFound, with the most similar one."""
    if name in names:
        return name
    none = "none is applied yet: penstock apply, in the folder of the project"
    hint = did_you_mean(name, names) or ("see them all: penstock list" if names else none)
    raise NotFound("there is no such pipeline", value=name, hint=hint)


def _selected(selector: str, pipelines: Sequence[Overview]) -> list[str]:
    label, is_label, value = selector.partition("=")
    found = [
        one.name
        for one in pipelines
        if one.status == "active" and (one.labels.get(label) == value if is_label else fnmatchcase(one.name, selector))
    ]
    if found:
        return found
    if is_label:
        labels = {f"{name}={value}" for one in pipelines for name, value in one.labels.items()}
        hint = did_you_mean(selector, labels) or "penstock list --json shows the labels"
        raise NotFound("no active pipeline has this label", where="--select", value=selector, hint=hint)
    hint = did_you_mean(selector, [one.name for one in pipelines]) or "penstock list"
    raise NotFound("no active pipeline has such a name", where="--select", value=selector, hint=hint)
