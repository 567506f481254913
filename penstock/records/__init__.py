"""Records: the envelope, and one module for each family of commands and events."""

from penstock.records.envelope import AGENT, Record, decode, encode
from penstock.records.families import COMMANDS, TYPES, body, current, is_known
from penstock.records.reading import Reading, records_of

__all__ = [
    "AGENT",
    "COMMANDS",
    "TYPES",
    "Reading",
    "Record",
    "body",
    "current",
    "decode",
    "encode",
    "is_known",
    "records_of",
]
