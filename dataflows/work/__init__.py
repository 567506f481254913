"""Work of a worker on a task."""
