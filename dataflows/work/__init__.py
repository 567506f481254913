"""Execution of tasks by a worker: its child processes, and the records of their outcomes."""
