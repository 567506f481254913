from __future__ import annotations

import pytest

from tests.agents.control_plane import ControlPlane, pipeline


@pytest.fixture
def plane() -> ControlPlane:
    """A control plane with two connections."""
    plane = ControlPlane()
    plane.connect("shop", "house")
    return plane


@pytest.fixture
def orders(plane: ControlPlane) -> ControlPlane:
    """A control plane with two connections and the pipeline `orders` at version 1."""
    plane.apply(pipeline("orders"))
    return plane
