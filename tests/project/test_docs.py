import ast
import re
from pathlib import Path
from typing import get_args

import pytest

import dataflows.connectors as surface
from dataflows.connectors.abilities import OF_SOURCES, OF_TARGETS
from dataflows.connectors.cataloguing import OF_CONNECTORS, OF_DESCRIBED
from dataflows.connectors.conformance import OPTIONS
from dataflows.connectors.inspection import members
from penstock.models.documents import CONNECTIONS, read_project
from penstock.models.pipeline import Sink
from penstock.models.transforms import OPERATIONS
from penstock.settings import load

ROOT = Path(__file__).parents[2]
PAGES = sorted(str(path.relative_to(ROOT)) for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")))
DECISIONS = sorted(path.name for path in ROOT.glob("docs/decisions/[0-9]*.md"))


@pytest.mark.parametrize("page", ["README.md", "docs/pipelines.md"])
def test_connections_and_pipelines_of_a_page_are_valid(page: str, tmp_path: Path) -> None:
    connections, *pipelines = re.findall(r"^```yaml\n(.*?)^```", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)
    (tmp_path / CONNECTIONS).write_text(connections)
    (tmp_path / "pipelines").mkdir()
    (tmp_path / "pipelines/all.yaml").write_text("---\n".join(pipelines))
    found = read_project(tmp_path)
    policies = [one for one in pipelines if "kind: AgentPolicy" in one]
    assert len(found.pipelines) == len(pipelines) - len(policies) > 0
    for spec in (one.spec for one in found.pipelines):
        assert {spec.source.connection, spec.sink.connection} <= set(found.connections)


def test_the_page_of_pipelines_names_every_step_and_write_mode() -> None:
    text = (ROOT / "docs/pipelines.md").read_text()
    modes = get_args(Sink.model_fields["write"].annotation)
    assert [name for name in (*OPERATIONS, *modes) if f"| `{name}" not in text] == []


def test_the_page_of_connectors_names_what_there_is() -> None:
    text = (ROOT / "docs/add-a-connector.md").read_text()
    imported = [
        name
        for line in re.findall(r"^from dataflows.connectors import (.*)$", text, re.MULTILINE)
        for name in line.split(", ")
    ]
    assert imported
    assert set(imported) <= set(surface.__all__)
    abilities = {
        ability.__name__: set(members(ability)) for ability in (*OF_CONNECTORS, *OF_DESCRIBED, *OF_SOURCES, *OF_TARGETS)
    }
    named = re.findall(r"^\| `([A-Z]\w+)` \| (`\w+`(?:, `\w+`)*) \|", text, re.MULTILINE)
    assert {name: set(re.findall(r"\w+", found)) for name, found in named} == abilities
    assert set(re.findall(r" (--[a-z-]+) ", text)) - {"--full"} == set(OPTIONS) - {"--file-format"}


def test_the_readme_s_settings_exist(tmp_path: Path) -> None:
    named = set(re.findall(r"^\| `(PENSTOCK_\w+)`", (ROOT / "README.md").read_text(), re.MULTILINE))
    assert len(named) > 3
    values = {f"PENSTOCK_{one}_KEY": f"${{env:PENSTOCK_SECRET_{one}_KEY}}" for one in ("MASK", "OPENLINEAGE")}
    values["PENSTOCK_OPENLINEAGE"] = "https://lineage.example.org/api/v1/lineage"
    given = {name: values.get(name, "dbname=x" if name.endswith("_URL") else "1") for name in named}
    assert load(tmp_path, given).project == tmp_path.resolve()


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


def _names_in(module: Path) -> set[str]:
    """The names that a module defines at its top."""
    found: set[str] = set()
    for node in ast.parse(module.read_text()).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return found


@pytest.mark.parametrize("page", PAGES)
def test_every_class_and_function_that_a_page_links_is_in_the_linked_module(page: str) -> None:
    links = re.findall(r"\[`(\w+)`\]\(([^)#]+\.py)\)", (ROOT / page).read_text())
    missing = [(name, path) for name, path in links if name not in _names_in((ROOT / page).parent / path)]
    assert missing == []


def test_the_architecture_page_and_the_glossary_link_into_every_package() -> None:
    for page in ("docs/architecture.md", "docs/glossary.md"):
        text = (ROOT / page).read_text()
        assert [name for name in ("penstock", "catalog", "agents", "dataflows") if f"](../{name}/" not in text] == []


def test_decisions_are_numbered_in_order_and_listed_in_the_index() -> None:
    assert [int(name[:4]) for name in DECISIONS] == list(range(1, len(DECISIONS) + 1))
    index = (ROOT / "docs/decisions/README.md").read_text()
    listed = re.findall(r"^\| (\d{4}) \| \[(.+)\]\((.+)\) \| (\d{4}-\d\d-\d\d) \|$", index, re.MULTILINE)
    assert [name for _, _, name, _ in listed] == DECISIONS
    for number, title, name, date in listed:
        text = (ROOT / "docs/decisions" / name).read_text()
        assert text.startswith(f"# {number}. {title}\n\nDate: {date}"), name


@pytest.mark.parametrize("name", DECISIONS)
def test_a_decision_has_a_status_context_decision_and_consequences(name: str) -> None:
    text = (ROOT / "docs/decisions" / name).read_text()
    assert re.search(r"^Status: (accepted|replaced by \[?\d{4})", text, re.MULTILINE)
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == ["Context", "Decision", "Consequences"]
    assert len(text.splitlines()) <= 60
