"""The steps from one release's schemas to the next.

A change of schema `catalog` need not carry rows over: it may drop and make the tables anew, and the projector replays
the topic. A change of `ops` must.
"""

from typing import Final

__all__ = ["REVISIONS"]

REVISIONS: Final = ("0001", "0002", "0003", "0004")
"""All revisions, oldest first: known without loading Alembic, so that a start with nothing to do is quick."""
