"""Agents: pure functions over the control topic, the fold that runs them, and the one adapter to Bytewax."""
