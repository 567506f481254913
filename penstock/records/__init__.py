"""Records: the envelope, and one module for each family of commands and events."""

from penstock.records.envelope import AGENT, Record, decode, encode
from penstock.records.families import COMMANDS, TYPES, body, current, is_known

__all__ = ["AGENT", "COMMANDS", "TYPES", "Record", "body", "current", "decode", "encode", "is_known"]
