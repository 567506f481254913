"""Launch of the flows on one machine: processes, supervision and clean-up."""
