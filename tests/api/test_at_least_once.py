"""A sink that may have rows more than once is named by `penstock status`."""

from __future__ import annotations

import yaml

from tests.api.project import Project


def test_status_says_that_rows_may_be_there_more_than_once(project: Project) -> None:
    path = project.folder / "connections.yaml"
    connections = yaml.safe_load(path.read_text())
    connection = {"type": "kinesis", "region": "eu-central-1", "endpoint": "http://127.0.0.1:1"}
    path.write_text(yaml.safe_dump(connections | {"events": connection}))
    pipeline = project.folder / "pipelines" / "orders.yaml"
    document = yaml.safe_load(pipeline.read_text())
    document["spec"] |= {"sink": {"connection": "events", "object": "orders", "write": "append"}}
    document["spec"]["source"] |= {"cursor": {"field": "id"}}
    document["spec"].pop("tests", None)
    pipeline.write_text(yaml.safe_dump(document))
    project.done("apply")
    said = project.do("status", "orders")
    assert "at least once" in said.out, said.out + said.err
    assert project.done("status", "orders")["at_least_once"] is True
