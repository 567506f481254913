import re
from pathlib import Path

import pytest

from penstock.models.connection import parse_connections
from penstock.models.pipeline import Pipeline
from penstock.settings import load

ROOT = Path(__file__).parents[2]
PAGES = sorted(path.name for path in ROOT.glob("*.md"))


def examples(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)


def test_the_readme_s_connections_and_pipeline_are_valid() -> None:
    import yaml

    connections, pipeline = (yaml.safe_load(example) for example in examples("yaml"))
    known = parse_connections(connections)
    spec = Pipeline.parse(pipeline).spec
    assert {spec.source.connection, spec.sink.connection} <= set(known)


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
    assert [link for link in links if not (ROOT / link).exists()] == []


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
