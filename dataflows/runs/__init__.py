"""One run of a pipeline, from its task to its result."""
