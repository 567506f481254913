"""Data that travels through a pipeline: tables, types, chunks, splits, cursors and counters."""
