"""Documentation that is made from the code is up to date."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from nullspace_cli.engine.documents.commands.registry import DOCUMENTS, LINES
from nullspace_cli.engine.documents.kinds import ARTEFACTS
from nullspace_cli.engine.documents.meanings import MEANINGS

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("script", ["make_cli.py", "make_schemas.py"])
def test_what_is_made_is_current(script: str) -> None:
    made = subprocess.run([sys.executable, f"docs/{script}", "--check"], cwd=ROOT, check=False)
    assert made.returncode == 0, "run `make docs`"


OTHERS = {"model-folder.json", "transformers-config.json", "image-processor.json"}
"""Files of timm's and transformers', whose keys are theirs to explain."""


@pytest.mark.parametrize("name", [path.name for path in (ROOT / "docs/schemas").iterdir() if path.name not in OTHERS])
def test_every_key_has_a_meaning(name: str) -> None:
    schema = json.loads((ROOT / "docs/schemas" / name).read_text(encoding="utf-8"))
    objects = {"": schema, **schema.get("$defs", {})}
    keys = [(owner, key, node) for owner, found in objects.items() for key, node in found.get("properties", {}).items()]
    assert len(keys) > 1
    assert [f"{owner}.{key}" for owner, key, node in keys if not node.get("description")] == []


def test_every_meaning_is_that_of_a_key() -> None:
    models = [*DOCUMENTS.values(), *LINES.values(), *ARTEFACTS.values()]
    said = "".join(json.dumps(model.model_json_schema()) for model in models)
    assert [name for name, meaning in MEANINGS.items() if json.dumps(meaning)[1:-1] not in said] == []


def test_every_schema_is_listed() -> None:
    text = (ROOT / "docs/documents.md").read_text(encoding="utf-8")
    assert [path.name for path in (ROOT / "docs/schemas").iterdir() if f"schemas/{path.name}" not in text] == []


@pytest.mark.parametrize(
    "page", ["README.md", "CONTRIBUTING.md", *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md"))]
)
def test_links_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    links = [link.partition("#")[0] for link in re.findall(r"\]\((?!https?:)([^)#]+[^)]*)\)", text)]
    assert [link for link in links if not (ROOT / page).parent.joinpath(link).exists()] == []


def test_every_page_of_the_docs_is_in_the_sites_navigation() -> None:
    listed = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert [page.name for page in (ROOT / "docs").glob("*.md") if f" {page.name}\n" not in listed] == []
