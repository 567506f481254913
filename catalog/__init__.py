"""The metadata store: datasets, schemas, pipelines, runs and decisions of the log, as rows to search."""
