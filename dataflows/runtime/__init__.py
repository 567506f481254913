"""How flows are launched."""
