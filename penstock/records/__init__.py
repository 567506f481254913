"""Records: the envelope, one module for each family of commands and events, and the door that readers read through.

The payloads' models are in `penstock.records.families`, which is slow to import: a client only needs the envelope.
"""

from penstock.records.door import BRAIN_LOCK, LATER, UNREADABLE, decision_in, records_of
from penstock.records.envelope import AGENT, Record, decode, encode
from penstock.records.reading import Reading

__all__ = [
    "AGENT",
    "BRAIN_LOCK",
    "LATER",
    "UNREADABLE",
    "Reading",
    "Record",
    "decision_in",
    "decode",
    "encode",
    "records_of",
]
