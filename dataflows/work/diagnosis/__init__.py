"""Why has a run failed? What can be seen of its systems, and the cause that this shows."""
