"""Launching of flows."""
