"""Conformance suite: the promises of the connector contract as tests, to run on a connector of your own.

::

    pytest -p dataflows.connectors.conformance --connector mypackage:MyConnector --connection connection.yaml
           --source-object orders --cursor id --target-object scratch

A connector that is a source and a sink is tested as both with `--target-object` alone: the tests read back what they
write. They create, fill and drop that object.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from pydantic import TypeAdapter

from dataflows.connectors.conformance.case import Case
from penstock.models.formats import Format

__all__ = ["case", "pytest_addoption", "pytest_configure"]

HERE: Final = Path(__file__).parent
OPTIONS: Final = {
    "--connector": "the class to test, as package.module:Class",
    "--connection": "a YAML file with the keys of one connection, as in connections.yaml",
    "--source-object": "an object of some hundred rows to read, which does not change during the tests",
    "--cursor": "a column of that object that a run can read by",
    "--target-object": "an object to create, fill and drop",
    "--file-format": "the type of format of files, such as csv",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the suite's options."""
    group = parser.getgroup("penstock", "conformance of a Penstock connector")
    for name, text in OPTIONS.items():
        group.addoption(name, help=text)


def pytest_configure(config: pytest.Config) -> None:
    """Run this suite if no other tests are named."""
    if config.getoption("--connector") and config.args_source is not pytest.Config.ArgsSource.ARGS:
        config.args[:] = [str(HERE)]


@pytest.fixture(scope="session")
def case(request: pytest.FixtureRequest) -> Case:
    """Fixture: the connector under test, with its connection and objects."""
    given: dict[str, Any] = {name: request.config.getoption(name) for name in OPTIONS}
    for name in ("--connector", "--connection"):
        if not given[name]:
            raise pytest.UsageError(f"give {name}: {OPTIONS[name]}")
    module, _, name = given["--connector"].partition(":")
    found = getattr(import_module(module), name)
    settings = found.model.model_validate(yaml.safe_load(Path(given["--connection"]).read_text()))
    kind = given["--file-format"]
    form = TypeAdapter(Format).validate_python({"type": kind}) if kind else None
    return Case(found, settings, given["--source-object"], given["--cursor"], given["--target-object"], form)
