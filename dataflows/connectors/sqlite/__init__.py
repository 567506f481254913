"""SQLite files as sources and sinks."""
