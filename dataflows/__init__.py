"""What acts: the flows of the control plane and the data plane, their sources, sinks and transforms."""
