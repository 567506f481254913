"""Files, on this machine or in an object store: where they are kept, how they are encoded, and what a folder holds."""
