"""Databases that are one file on this machine, SQLite and DuckDB: what they share, and what each says of itself."""
