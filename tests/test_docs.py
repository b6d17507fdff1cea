"""The documentation: generated pages are current, the site builds, and what pages name exists."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

from coe.registry.schema import Registry
from coe.service.registry_file import load_registry
from docs.generate.pages import REFERENCE, pages
from docs.generate.registry import undescribed

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"])


@pytest.mark.parametrize("name", ["cli.md", "experts-yaml.md", "openapi.md"])
def test_generated_pages_are_current(name: str) -> None:
    shown = (REFERENCE / name).read_text(encoding="utf-8")
    assert shown == pages()[name], "run python -m docs.generate"


def test_every_key_of_the_registry_has_its_meaning() -> None:
    example = (DOCS / "experts.example.yaml").read_text(encoding="utf-8")
    schema = Registry.model_json_schema()
    assert undescribed(schema, example) == []
    assert "max_body_bytes" in undescribed(schema, "limits: {max_body_bytes: 1}")


class Resources(HTMLParser):
    """What a browser loads by itself for a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        if tag in {"script", "img", "iframe", "source"} and named.get("src"):
            self.found.append(str(named["src"]))
        if tag == "link" and named.get("rel") != "canonical":
            self.found.append(str(named.get("href")))


@pytest.mark.slow
def test_the_site_builds_strictly_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    made = sorted(tmp_path.rglob("*.html"))
    assert {page.name for page in DOCS.rglob("*.md")} <= {f"{page.stem}.md" for page in made}
    read = Resources()
    for page in made:
        read.feed(page.read_text(encoding="utf-8"))
    assert read.found
    assert [each for each in read.found if re.match(r"(\w+:)?//", each)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_a_page_names_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    named = set(
        re.findall(r"(?<![\w/.-])((?:benchmarks|coe|deploy|docs|eval|routers|tests)/[\w/.-]*\w)", text)
    )
    modules = set(re.findall(r"python -m ((?:benchmarks|coe|docs)[\w.]*\w)", text))
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []
    assert [name for name in sorted(modules) if not _is_module(name)] == []


def _is_module(name: str) -> bool:
    path = ROOT / name.replace(".", "/")
    return path.with_suffix(".py").is_file() or path.is_dir()


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_links_of_pages_beside_the_site_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_code_names_pages_that_exist() -> None:
    sources = [
        path for folder in ("coe", "eval", "routers", "benchmarks") for path in (ROOT / folder).rglob("*.py")
    ]
    named = {
        name for path in sources for name in re.findall(r"docs/[\w/.-]*\w", path.read_text(encoding="utf-8"))
    }
    assert named
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_the_registry_of_the_start_page_can_be_read(tmp_path: Path) -> None:
    page = (DOCS / "start" / "your-experts.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    file = tmp_path / "my-experts.yaml"
    file.write_text(block)
    assert [expert.id for expert in load_registry(file).experts] == [
        e["id"] for e in yaml.safe_load(block)["experts"]
    ]


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 110


def _paragraphs(text: str) -> list[str]:
    """Paragraphs and list items outside of code and tables."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    blocks = re.split(r"\n\s*\n|\n(?=\s*(?:[*+-]|\d+\.) )", prose)
    return [block for block in blocks if not block.lstrip().startswith(("|", "#"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_paragraphs_are_short(page: Path) -> None:
    long = [each for each in _paragraphs(page.read_text(encoding="utf-8")) if len(each.split()) > 100]
    assert long == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_list_begins_after_an_empty_line(page: Path) -> None:
    """Else the site shows it as text."""
    prose = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    for block in re.split(r"\n\s*\n", prose):
        lines = [line for line in block.splitlines() if line.strip()]
        items = [re.match(r"\s*([*+-]|\d+\.) ", line) is not None for line in lines]
        assert not any(items) or items[0], block
