"""What a run knows of a system before it connects."""

from penstock.models.base import Model
from penstock.models.connection import TYPES
from penstock.models.traits import ConnectionModel, traits


class _Plain(Model):
    """The settings of a connector of another package."""

    type: str


def test_a_model_of_another_package_has_the_traits_of_most_systems() -> None:
    assert traits(_Plain(type="stones")) is ConnectionModel
    assert traits(_Plain).holds_nul
    assert not traits(_Plain).only_streams
    assert traits(None) is ConnectionModel


def test_each_built_in_system_has_its_own_traits() -> None:
    streams = {name for name, model in TYPES.items() if traits(model).only_streams}
    assert streams == {"kafka", "kinesis", "topics"}
    assert {name for name, model in TYPES.items() if traits(model).sends_changes} == {"postgres"}
    assert {name for name, model in TYPES.items() if traits(model).at_least_once} == {"kinesis"}
    assert {name for name, model in TYPES.items() if not traits(model).holds_nul} == {"postgres"}
    assert all(issubclass(model, ConnectionModel) for model in TYPES.values())
