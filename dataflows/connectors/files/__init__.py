"""Read and write files, in a folder of this machine or in an object store."""
