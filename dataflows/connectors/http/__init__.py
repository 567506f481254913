"""HTTP APIs that answer with JSON, a page at a time."""
