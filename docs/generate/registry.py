"""experts.yaml, from its JSON schema and the comments of the complete example."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ruamel.yaml import YAML

from docs.generate.schema_words import Schema, branches_of, cell, default_of, name_of, type_of

_HEAD = """# experts.yaml

Made from the JSON schema and the complete example by `python -m docs.generate`.

* `coe check FILE` validates a file, names the line of each mistake and explains what the file does.
* Unknown keys are refused. The end of a key's name is its unit: `_s` seconds, `_gb` gigabytes, `_b` billions.
* Paths are relative to the file.
* Editors complete and check the file with `docs/experts.schema.json`; its first line may be
  `# yaml-language-server: $schema=PATH/experts.schema.json`.
* What an edit changes while the service runs: [Change experts while the service runs](../howto/registry.md).
"""

Path = tuple[str, ...]
"""The keys from the top of the file to a value."""
Comments = Mapping[Path, str]


def page(schema: Schema, example: str) -> str:
    """The whole page. Pure."""
    book = _Book(schema.get("$defs", {}), comments_of(example))
    whole = f"## A complete example\n\n```yaml\n{example.strip()}\n```\n"
    return "\n".join([_HEAD, book.section("Top level", schema, ()), *book.below(schema, ()), whole])


def undescribed(schema: Schema, example: str) -> list[str]:
    """The keys without a word on what they mean."""
    rows = re.findall(r"^\| `(\S+)` \|.*\| ([^|]*) \|$", page(schema, example), re.MULTILINE)
    return [key for key, meaning in rows if not meaning.strip()]


def comments_of(example: str) -> Comments:
    """The comment at the end of each line, by the path of its key; list items share their list's path."""
    found: dict[Path, str] = {}
    _collect(YAML().load(example), (), found)
    return found


def _collect(node: Any, path: Path, found: dict[Path, str]) -> None:
    if isinstance(node, list):
        for item in node:
            _collect(item, path, found)
    if not isinstance(node, dict):
        return
    for key, value in node.items():
        at = (*path, str(key))
        if words := _comment(node, key):
            found.setdefault(at, words)
        _collect(value, at, found)


def _comment(node: Any, key: object) -> str:
    tokens = [token for token in node.ca.items.get(key, ()) if token is not None]
    texts = [token.value for token in tokens if not isinstance(token, list)]
    first = texts[0].splitlines()[0] if texts and texts[0].strip() else ""
    return str(first).lstrip("# ").strip()


@dataclass(frozen=True)
class _Book:
    """The sections of the page, from the schema's definitions and the example's comments."""

    definitions: Mapping[str, Schema]
    comments: Comments
    titles: dict[str, str] = field(default_factory=dict)
    """of the sections, by definition: what several keys hold is described once, under the first of them"""
    written: set[str] = field(default_factory=set)

    def below(self, schema: Schema, path: Path) -> Iterator[str]:
        """A section for each mapping inside ``schema``, depth first."""
        for key, value in schema.get("properties", {}).items():
            at = (*path, key)
            for name, title in self._titles(value, at).items():
                if title not in self.written:
                    self.written.add(title)
                    yield self.section(title, self.definitions[name], at)
                    yield from self.below(self.definitions[name], at)

    def section(self, title: str, schema: Schema, path: Path) -> str:
        required = schema.get("required", ())
        rows = (self._row(key, value, key in required, path) for key, value in schema["properties"].items())
        words = schema.get("description", "") if path else ""
        table = "\n".join(["| key | type | default | meaning |", "|---|---|---|---|", *rows])
        return "\n".join([f"## {title}", *(["", words.replace("``", "`")] if words else []), "", table, ""])

    def _row(self, key: str, schema: Schema, required: bool, path: Path) -> str:
        kind = type_of(schema)
        for name, title in self._titles(schema, (*path, key)).items():
            kind = kind.replace(name, f"[{title}](#{_anchor(title)})")
        meaning = schema.get("description") or self.comments.get((*path, key), "")
        if key == "kind" and "const" in schema:  # the example's comment is about one of several kinds
            meaning = "the kind of this entry"
        cells = (f"`{key}`", kind, default_of(schema, required), meaning)
        return "| " + " | ".join(cell(each) for each in cells) + " |"

    def _titles(self, schema: Schema, path: Path) -> dict[str, str]:
        """The sections that ``schema`` refers to: their titles, by the names of their definitions."""
        names = list(dict.fromkeys(_references(schema)))
        kinds = {name: self.definitions[name]["properties"].get("kind", {}).get("const") for name in names}
        suffix = {name: f" of kind {kind}" if kind and len(names) > 1 else "" for name, kind in kinds.items()}
        return {name: self.titles.setdefault(name, ".".join(path) + suffix[name]) for name in names}


def _references(schema: Schema) -> Iterator[str]:
    if "$ref" in schema:
        yield name_of(schema)
    for inner in (*branches_of(schema), *([schema["items"]] if "items" in schema else [])):
        yield from _references(inner)


def _anchor(title: str) -> str:
    return re.sub(r"[^\w\s-]", "", title).lower().replace(" ", "-")
