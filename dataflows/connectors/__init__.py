"""Read and write external systems: a folder for each, and the contract between them and a run."""
