"""What decides: pure functions over records, and the one adapter that runs them in a flow. Nothing here does I/O."""
