"""Options of `penstock dlq` that say which dead letters are meant."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from api.cli.moments import moment
from penstock.errors import UsageError
from penstock.models.letters import LetterChoice

__all__ = ["choice_of", "keys_of"]


def choice_of(options: Mapping[str, Any]) -> LetterChoice:
    """Return the choice that the options make. Raises UsageError."""
    since = options["since"] and moment(options["since"], "--since")
    named = {name: options[name] for name in ("run", "step", "group", "column") if options[name] is not None}
    try:
        return LetterChoice(**named, since=since, ids=tuple(options["ids"]))
    except ValueError as error:
        where = "penstock dlq"
        raise UsageError("is no choice of dead letters", where=where, value=str(named), hint="see --help") from error


def keys_of(options: Mapping[str, Any]) -> dict[str, str]:
    """Return the values that rows must have. Raises UsageError."""
    found = {}
    for text in options["keys"]:
        name, is_there, value = text.partition("=")
        if not is_there or not name:
            raise UsageError("is no column with a value", where="--key", value=text, hint="write --key id=7")
        found[name] = value
    return found
