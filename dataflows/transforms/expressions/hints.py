# ruff: noqa: E501 - a table of names and hints, one a line
"""Functions that an expression may call, and hints on what to write instead of others."""

from __future__ import annotations

from typing import Any, Final

from sqlglot import exp
from sqlglot.tokenizer_core import TokenType

from penstock.errors import SchemaMismatch, did_you_mean
from penstock.models.grammar import tokens_of

__all__ = ["check_names", "hint_for"]

FUNCTIONS: Final = (
    "abs", "btrim", "cast", "ceil", "ceiling", "char_length", "character_length", "coalesce", "concat", "concat_ws",
    "date_part", "date_trunc", "extract", "floor", "greatest", "least", "left", "length", "lower", "lpad", "ltrim", "mod",
    "nullif", "replace", "right", "round", "rpad", "rtrim", "split_part", "substr", "substring", "trim", "upper",
)  # fmt: skip
"""The allowed functions, by their names in PostgreSQL."""
_WORDS: Final = {
    "and", "or", "not", "in", "like", "ilike", "between", "is", "from", "for", "case", "when", "then", "else", "distinct",
    "as", "interval", "any", "all", "some", "varying", "both", "leading", "trailing",
}  # fmt: skip
"""Keywords that may precede a parenthesis without being a call."""

_ROW: Final = "an expression sees one row: aggregate in a view of the source, or in the target"
_TIME: Final = "give the target's column a default, or use a time of the source: a rerun must give the same rows"
_JSON: Final = "map the whole column and parse it in the target, or write a `python` step"
_ROWS: Final = "the step `explode` makes a row of each element of an array"
_REGEX: Final = "use LIKE, replace or split_part, or a `python` step"
_FORMAT: Final = "use CAST(… AS text), extract, lpad and ||"
_PARSE: Final = "CAST reads ISO dates and times, and plain numbers; rearrange others by substring and ||"
_HINTS: Final[dict[str, str]] = {
    **dict.fromkeys(("count", "sum", "avg", "array_agg", "string_agg", "json_agg", "jsonb_agg", "bool_or", "bool_and"), _ROW),
    "min": "use least(a, b) within a row; " + _ROW, "max": "use greatest(a, b) within a row; " + _ROW,
    **dict.fromkeys(("row_number", "rank", "dense_rank", "lag", "lead", "first_value", "last_value"), _ROW),
    **dict.fromkeys(("now", "current_timestamp", "current_date", "current_time", "localtime", "localtimestamp",
                     "clock_timestamp", "statement_timestamp", "transaction_timestamp"), _TIME),
    **dict.fromkeys(("random", "gen_random_uuid", "uuid_generate_v4", "uuidv7", "nextval"), _TIME),
    **dict.fromkeys(("unnest", "generate_series", "json_array_elements", "jsonb_array_elements",
                     "jsonb_array_elements_text", "regexp_split_to_table", "string_to_table"), _ROWS),
    **dict.fromkeys(("regexp_replace", "regexp_match", "regexp_matches", "regexp_like", "regexp_substr", "translate"), _REGEX),
    **dict.fromkeys(("position", "strpos", "instr"), "use LIKE '%…%', or split_part"),
    **dict.fromkeys(("json_extract_path_text", "jsonb_extract_path_text", "json_extract_path", "to_json", "to_jsonb",
                     "json_build_object", "jsonb_build_object"), _JSON),
    **dict.fromkeys(("md5", "sha256", "digest", "encode"), "the step `mask: {a: sha256}` computes SHA-256"),
    "to_char": _FORMAT, "format": _FORMAT, "to_date": _PARSE, "to_timestamp": _PARSE, "to_number": _PARSE,
    "age": "subtract dates for days (d1 - d2), or compare years and months by extract",
    "ifnull": "write coalesce(a, b)", "nvl": "write coalesce(a, b)", "isnull": "write a IS NULL, or coalesce(a, b)",
    "if": "write CASE WHEN … THEN … ELSE … END", "iif": "write CASE WHEN … THEN … ELSE … END",
    "decode": "write CASE … WHEN … THEN … END", "len": "write length(a)", "lcase": "write lower(a)",
    "ucase": "write upper(a)", "mid": "write substring(a FROM n FOR m)", "convert": "write CAST(a AS type)",
    "try_cast": "write CAST(a AS type): a row that fails becomes a dead letter", "safe_cast": "write CAST(a AS type)",
    "div": "write a / b of whole numbers", "trunc": "write floor, ceil, or a CAST to a whole number",
    "date_add": "write a + interval '1 day'", "date_sub": "write a - interval '1 day'", "datediff": "write d1 - d2",
    "substring_index": "write split_part(a, delimiter, n)", "initcap": "use upper, lower, left and substring",
}  # fmt: skip
_NODES: Final[dict[type[Any], str]] = {
    **dict.fromkeys((exp.JSONExtract, exp.JSONExtractScalar, exp.JSONBExtract, exp.JSONBExtractScalar), _JSON),
    **dict.fromkeys((exp.Subquery, exp.Select, exp.Exists), "the step `lookup` adds columns of a small table"),
    **dict.fromkeys((exp.RegexpLike, exp.RegexpILike, exp.SimilarTo), _REGEX),
    **dict.fromkeys((exp.CurrentTimestamp, exp.CurrentDate, exp.CurrentTime, exp.Localtime, exp.Localtimestamp), _TIME),
    exp.Window: _ROW, exp.Star: "name the columns", exp.Pow: "multiply: a * a", exp.Bracket: _JSON,
    exp.Collate: 'texts compare by code points, as COLLATE "C" does',
    exp.AtTimeZone: "times are computed in UTC: add an interval such as interval '2 hours'",
    exp.Alias: "name the value in the mapping or in `set`",
}  # fmt: skip
_GENERAL: Final = (
    "allowed: arithmetic, comparisons, CASE, COALESCE, CAST, LIKE and the functions of docs/expressions.md"
)


def check_names(text: str, where: str) -> None:
    """Refuse functions that are not on the list; by the text, as sqlglot maps foreign names such as ``nvl`` to others.

    Raises:
        SchemaMismatch: with a hint on what to write instead.
    """
    tokens = tokens_of(text)
    for before, token, after in zip([None, *tokens], tokens, tokens[1:], strict=False):
        named = before is not None and before.token_type in {TokenType.ALIAS, TokenType.DCOLON}
        if after.token_type != TokenType.L_PAREN or named or not token.text.isidentifier():
            continue
        name = token.text.lower()
        if token.token_type != TokenType.STRING and name not in FUNCTIONS and name not in _WORDS:
            place = f"{where}, at character {token.start + 1}"
            raise SchemaMismatch(f"{token.text}(…) is not allowed in an expression", where=place, hint=hint_for(name))


def hint_for(name: str, node: Any = None) -> str:
    """Return what to write instead of a function or an operator."""
    hint = _HINTS.get(name.lower()) or _NODES.get(type(node))
    return hint or did_you_mean(name.lower(), FUNCTIONS) or _GENERAL
