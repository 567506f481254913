"""Where rows go, one module for each system."""
