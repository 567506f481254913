"""Everything that happens to rows between source and sink."""
