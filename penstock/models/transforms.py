"""Transforms of rows between source and sink, as users write them: cleaning, mapping, steps and validation."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from penstock.models.base import Duration, Model, Name, Sql
from penstock.models.columns import ColumnName, Columns, unique
from penstock.models.secrets import literal_in_query
from penstock.models.windows import Deduplicate, Window

__all__ = [
    "CONDITIONAL",
    "OPERATIONS",
    "Clean",
    "ColumnName",
    "Columns",
    "Deduplicate",
    "Explode",
    "FieldRule",
    "Lookup",
    "MappingRule",
    "ObjectName",
    "PythonCall",
    "TransformStep",
    "Validation",
    "Window",
    "unique",
]


def _no_secret(value: str) -> str:
    if why := literal_in_query(value):
        message = f"{why}, in `parameters` of the connection"
        raise ValueError(message)
    return value


ObjectName = Annotated[str, Field(min_length=1, max_length=512, pattern=r"^[^\x00-\x1f]+$"), AfterValidator(_no_secret)]


class FieldRule(Model):
    """One target field: a source column as it is (`from`), or an expression over source columns (`sql`)."""

    target: ColumnName
    from_: ColumnName | None = Field(default=None, alias="from")
    sql: Sql | None = None

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if (self.from_ is None) == (self.sql is None):
            message = "needs exactly one of `from` and `sql`"
            raise ValueError(message)
        return self


class MappingRule(Model):
    """Mapping from source names to target names: one in the catalog (`ref`), or `fields` written here."""

    ref: Name | None = None
    fields: tuple[FieldRule, ...] | None = None

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if (self.ref is None) == (self.fields is None):
            message = "needs exactly one of `ref` and `fields`"
            raise ValueError(message)
        if self.fields is not None:
            if not self.fields:
                message = "`fields` must name at least one field"
                raise ValueError(message)
            unique(tuple(field.target for field in self.fields))
        return self


class Lookup(Model):
    """Columns of a small table, by a key: `on` maps columns to the table's key, `take` new columns to the table's.

    The table is read once, when a run starts; in a stream again after each `refresh`. Without a match the new columns
    are NULL, or the row is refused.
    """

    connection: Name
    object: ObjectName
    on: dict[ColumnName, ColumnName] = Field(min_length=1)
    take: dict[ColumnName, ColumnName] = Field(min_length=1)
    missing: Literal["null", "refuse"] = "null"
    refresh: Duration | None = Field(default=None, ge=timedelta(seconds=1))


class Explode(Model):
    """A row for each element of the JSON array in `column`; each element becomes a value of type `as`.

    NULL stays one row with NULL; an empty array yields no row, and counts as filtered.
    """

    column: ColumnName
    as_: str = Field(default="text", alias="as", min_length=1, max_length=64)


class PythonCall(Model):
    """A function ``package.module:function`` over Arrow batches, for what SQL cannot express.

    It gets the rows as a `pyarrow.RecordBatch` and returns one with the same number of rows, in order, with
    `columns`, new or changed, of the given types. Only modules listed in the setting `python_modules` are allowed.
    """

    call: Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$", max_length=255)]
    columns: dict[ColumnName, Annotated[str, Field(min_length=1, max_length=64)]] = Field(min_length=1)


class TransformStep(Model):
    """One step after the mapping, on the target's names; exactly one operation.

    `when` limits `set`, `filter` and `mask` to the rows where it is true (NULL is not true); the other operations
    apply to whole columns or rows and take no `when`.
    """

    name: Name
    when: Sql | None = None
    rename: dict[ColumnName, ColumnName] | None = None
    select: Columns | None = None
    cast: dict[ColumnName, str] | None = None
    set: dict[ColumnName, Sql] | None = None
    filter: Sql | None = None
    mask: dict[ColumnName, Literal["hash", "sha256", "redact"]] | None = None
    deduplicate: Deduplicate | None = None
    lookup: Lookup | None = None
    explode: Explode | None = None
    python: PythonCall | None = None
    window: Window | None = None

    @property
    def remembers(self) -> bool:
        """True if what it does with a row depends on rows of earlier chunks."""
        return self.window is not None or (self.deduplicate is not None and self.deduplicate.within is not None)

    @property
    def operation(self) -> str:
        """The name of its operation, one of `OPERATIONS`."""
        return next(name for name in OPERATIONS if getattr(self, name) is not None)

    @model_validator(mode="after")
    def _one_operation(self) -> Self:
        given = [name for name in OPERATIONS if getattr(self, name) is not None]
        if len(given) != 1:
            message = f"needs exactly one operation of {', '.join(OPERATIONS)}, has {', '.join(given) or 'none'}"
            raise ValueError(message)
        if not getattr(self, given[0]):
            message = f"`{given[0]}` is empty"
            raise ValueError(message)
        if self.when is not None and given[0] not in CONDITIONAL:
            message = f"`when` has no meaning for `{given[0]}`; it goes with {', '.join(CONDITIONAL)}"
            raise ValueError(message)
        return self


CONDITIONAL = ("set", "filter", "mask")
OPERATIONS = ("rename", "select", "cast", *CONDITIONAL, "deduplicate", "lookup", "explode", "python", "window")


class Clean(Model):
    """Cleaning of values as rows are read. Without it, a row that the target cannot hold becomes a dead letter.

    `nul`: characters with code 0 are removed from texts, or become U+FFFD. `zero_dates`: MySQL's dates such as
    0000-00-00 become NULL.
    """

    nul: Literal["strip", "replace"] | None = None
    zero_dates: Literal["null"] | None = None

    @model_validator(mode="before")
    @classmethod
    def _null_is_a_word(cls, data: Any) -> Any:
        """Restore ``zero_dates: null``, which YAML reads as None."""
        said = isinstance(data, dict) and "zero_dates" in data and data["zero_dates"] is None
        return {**data, "zero_dates": "null"} if said else data


class Validation(Model):
    """Conditions on each chunk before it is written; `unique` applies to a whole batch run."""

    not_null: Columns = ()
    unique: Columns = ()
    checks: dict[Name, Sql] = {}
