from __future__ import annotations

import pytest

from tests.agents.world import World, pipeline


@pytest.fixture
def world() -> World:
    """Two connections, and nothing else."""
    world = World()
    world.connect("shop", "house")
    return world


@pytest.fixture
def orders(world: World) -> World:
    """… and the pipeline `orders` at version 1."""
    world.apply(pipeline("orders"))
    return world
