"""DuckDB files as sources and sinks."""
