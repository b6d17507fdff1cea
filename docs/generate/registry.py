"""experts.yaml, from its JSON schema and the comments of the complete example."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
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

Comments = Mapping[tuple[str, ...], str]


def page(schema: Schema, example: str) -> str:
    """The whole page. Pure."""
    sections = [_section("", schema, comments_of(example), ())]
    inner = _sections(schema, schema["$defs"], comments_of(example), ())
    whole = f"## A complete example\n\n```yaml\n{example.strip()}\n```\n"
    return "\n".join([_HEAD, *sections, *inner, whole])


def undescribed(schema: Schema, example: str) -> list[str]:
    """The keys without a word on what they mean."""
    rows = re.findall(r"^\| `(\S+)` \|.*\| ([^|]*) \|$", page(schema, example), re.MULTILINE)
    return [key for key, meaning in rows if not meaning.strip()]


def comments_of(example: str) -> Comments:
    """The comment at the end of each line, by the path of its key; list items share their list's path."""
    found: dict[tuple[str, ...], str] = {}
    _collect(YAML().load(example), (), found)
    return found


def _collect(node: Any, path: tuple[str, ...], found: dict[tuple[str, ...], str]) -> None:
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


def _sections(
    schema: Schema, definitions: Mapping[str, Schema], comments: Comments, path: tuple[str, ...]
) -> Iterator[str]:
    """A section for each mapping below ``schema``, depth first."""
    for key, value in schema.get("properties", {}).items():
        below = (*path, key)
        names = list(dict.fromkeys(_references(value)))
        for name in names:
            kind = definitions[name]["properties"].get("kind", {}).get("const") if len(names) > 1 else None
            title = ".".join(below) + (f" of kind {kind}" if kind else "")
            yield _section(title, definitions[name], comments, below)
            yield from _sections(definitions[name], definitions, comments, below)


def _references(schema: Schema) -> Iterator[str]:
    if "$ref" in schema:
        yield name_of(schema)
    for inner in (*branches_of(schema), *([schema["items"]] if "items" in schema else [])):
        yield from _references(inner)


def _section(title: str, schema: Schema, comments: Comments, path: tuple[str, ...]) -> str:
    required = schema.get("required", ())
    rows = [
        f"| `{key}` | {cell(type_of(value))} | {cell(default_of(value, key in required))} "
        f"| {cell(_meaning(key, value, comments.get((*path, key), '')))} |"
        for key, value in schema["properties"].items()
    ]
    words = schema.get("description", "") if title else ""
    table = "\n".join(["| key | type | default | meaning |", "|---|---|---|---|", *rows])
    return "\n".join([f"## {title or 'Top level'}", *(["", words] if words else []), "", table, ""])


def _meaning(key: str, schema: Schema, comment: str) -> str:
    """The comment of ``kind`` belongs to the first of several kinds."""
    return (
        "the kind of this entry"
        if key == "kind" and "const" in schema
        else schema.get("description") or comment
    )
