"""Dataflows of the control plane and the data plane, with their connectors and transforms."""
