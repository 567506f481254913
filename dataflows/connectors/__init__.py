"""Read and write external systems: a folder for each, and the contract between them and a run.

This is the surface that a connector of another package imports; `docs/add-a-connector.md` says what to do with it.
"""

from __future__ import annotations

from dataflows.connectors.abilities import (
    CreateReporting,
    Estimating,
    Filling,
    GrantChecking,
    Growing,
    GrowthReporting,
    Keyed,
    KeyLimits,
    Native,
    OlderRows,
    Reloading,
    RiskReporting,
    RowPlaces,
    SingleProcess,
    Unique,
    Widening,
    Windowed,
    Zoned,
)
from dataflows.connectors.contract import (
    Connector,
    Method,
    Owner,
    Place,
    PublishOrder,
    Reader,
    ReadOrder,
    Source,
    SplitReader,
    Target,
    Writer,
    WriterOrder,
)
from dataflows.connectors.listing import Listed, ListedObject
from dataflows.connectors.publication import Outcome, publishing, recorded
from dataflows.connectors.reading import chunks
from dataflows.connectors.state import Claim, Loaded, RunRow, State
from dataflows.connectors.writing import OpenSplit, SplitSink, SplitWriter
from dataflows.data.chunks import Chunk
from dataflows.data.counters import Counters
from dataflows.data.cursors import CursorRule, Window
from dataflows.data.splits import Split, between
from dataflows.data.tables import Column, Table
from dataflows.data.types import SqlType, arrow_type, column_type, parse_type
from penstock.errors import (
    AccessDenied,
    BadData,
    Fenced,
    MissingColumn,
    MissingTable,
    OutOfSpace,
    PenstockError,
    Refused,
    SchemaMismatch,
    Unavailable,
    Unreachable,
)
from penstock.failpoints import failpoint
from penstock.models.base import Model
from penstock.models.secrets import resolve
from penstock.models.traits import ConnectionModel

__all__ = [
    "AccessDenied",
    "BadData",
    "Chunk",
    "Claim",
    "Column",
    "ConnectionModel",
    "Connector",
    "Counters",
    "CreateReporting",
    "CursorRule",
    "Estimating",
    "Fenced",
    "Filling",
    "GrantChecking",
    "Growing",
    "GrowthReporting",
    "KeyLimits",
    "Keyed",
    "Listed",
    "ListedObject",
    "Loaded",
    "Method",
    "MissingColumn",
    "MissingTable",
    "Model",
    "Native",
    "OlderRows",
    "OpenSplit",
    "OutOfSpace",
    "Outcome",
    "Owner",
    "PenstockError",
    "Place",
    "PublishOrder",
    "ReadOrder",
    "Reader",
    "Refused",
    "Reloading",
    "RiskReporting",
    "RowPlaces",
    "RunRow",
    "SchemaMismatch",
    "SingleProcess",
    "Source",
    "Split",
    "SplitReader",
    "SplitSink",
    "SplitWriter",
    "SqlType",
    "State",
    "Table",
    "Target",
    "Unavailable",
    "Unique",
    "Unreachable",
    "Widening",
    "Window",
    "Windowed",
    "Writer",
    "WriterOrder",
    "Zoned",
    "arrow_type",
    "between",
    "chunks",
    "column_type",
    "failpoint",
    "parse_type",
    "publishing",
    "recorded",
    "resolve",
]
