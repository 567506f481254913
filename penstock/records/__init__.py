"""Records: the envelope, and one module for each family of commands and events.

The payloads' models are in `penstock.records.families`, which is slow to import: a client only needs the envelope.
"""

from penstock.records.envelope import AGENT, Record, decode, encode
from penstock.records.reading import Reading, records_of

__all__ = [
    "AGENT",
    "Reading",
    "Record",
    "decode",
    "encode",
    "records_of",
]
