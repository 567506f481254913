"""The metadata store: what the log says about datasets, schemas, pipelines, runs and decisions, as rows to search."""
