import re
from pathlib import Path
from typing import get_args

import pytest

from penstock.models.documents import CONNECTIONS, read_project
from penstock.models.pipeline import OPERATIONS, Sink
from penstock.settings import load

ROOT = Path(__file__).parents[2]
PAGES = sorted(str(path.relative_to(ROOT)) for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")))


@pytest.mark.parametrize("page", ["README.md", "docs/pipelines.md"])
def test_connections_and_pipelines_of_a_page_are_valid(page: str, tmp_path: Path) -> None:
    connections, *pipelines = re.findall(r"^```yaml\n(.*?)^```", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)
    (tmp_path / CONNECTIONS).write_text(connections)
    (tmp_path / "pipelines").mkdir()
    (tmp_path / "pipelines/all.yaml").write_text("---\n".join(pipelines))
    found = read_project(tmp_path)
    assert len(found.pipelines) == len(pipelines) > 0
    for spec in (one.spec for one in found.pipelines):
        assert {spec.source.connection, spec.sink.connection} <= set(found.connections)


def test_the_page_of_pipelines_names_every_step_and_write_mode() -> None:
    text = (ROOT / "docs/pipelines.md").read_text()
    modes = get_args(Sink.model_fields["write"].annotation)
    assert [name for name in (*OPERATIONS, *modes) if f"| `{name}" not in text] == []


def test_the_readme_s_settings_exist(tmp_path: Path) -> None:
    named = set(re.findall(r"^\| `(PENSTOCK_\w+)`", (ROOT / "README.md").read_text(), re.MULTILINE))
    assert len(named) > 3
    assert (
        load(tmp_path, {name: "dbname=x" if name.endswith("_URL") else "1" for name in named}).project
        == tmp_path.resolve()
    )


@pytest.mark.parametrize("page", PAGES)
def test_every_link_inside_the_tree_leads_somewhere(page: str) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", (ROOT / page).read_text())
    assert [link for link in links if not (ROOT / page).parent.joinpath(link).exists()] == []


@pytest.mark.parametrize("page", PAGES)
def test_every_path_that_a_page_names_exists(page: str) -> None:
    named = re.findall(
        r"`((?:penstock|catalog|agents|dataflows|api|tests|tools|terraform|k8s)/[\w./]*)`", (ROOT / page).read_text()
    )
    assert [path for path in named if "NAME" not in path and not (ROOT / path).exists()] == []


@pytest.mark.parametrize("page", PAGES)
def test_every_make_target_that_a_page_names_exists(page: str) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:^|`|to/python3\.12 )make ([a-z]+)", (ROOT / page).read_text(), re.MULTILINE))
    assert named - targets == set()
