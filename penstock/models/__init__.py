"""The domain's models: what users write (pipelines, policies, connections) and what travels in records."""

from penstock.models.base import Duration, Model, Name
from penstock.models.connection import (
    Connection,
    DuckdbConnection,
    FilesConnection,
    HttpConnection,
    KafkaConnection,
    KinesisConnection,
    PostgresConnection,
    S3Connection,
    SqliteConnection,
    TopicsConnection,
)
from penstock.models.domain import (
    AgentDecision,
    Alternative,
    Counters,
    DatasetRef,
    Error,
    Field,
    FieldMapping,
    PipelineStatus,
    Run,
    RunStatus,
    Schema,
    SchemaMapping,
    Task,
)
from penstock.models.pipeline import Pipeline, PipelineSpec
from penstock.models.policy import AgentPolicy

__all__ = [
    "AgentDecision",
    "AgentPolicy",
    "Alternative",
    "Connection",
    "Counters",
    "DatasetRef",
    "DuckdbConnection",
    "Duration",
    "Error",
    "Field",
    "FieldMapping",
    "FilesConnection",
    "HttpConnection",
    "KafkaConnection",
    "KinesisConnection",
    "Model",
    "Name",
    "Pipeline",
    "PipelineSpec",
    "PipelineStatus",
    "PostgresConnection",
    "Run",
    "RunStatus",
    "S3Connection",
    "Schema",
    "SchemaMapping",
    "SqliteConnection",
    "Task",
    "TopicsConnection",
]
