"""Read HTTP APIs that return JSON, page by page."""
