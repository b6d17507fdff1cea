"""A JSON schema in the words of a reader: types, bounds and defaults."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

Schema = Mapping[str, Any]

_KINDS = {
    "string": "text",
    "integer": "whole number",
    "number": "number",
    "boolean": "true or false",
    "object": "mapping",
    "null": "null",
}
_BOUNDS = (("minimum", "at least"), ("exclusiveMinimum", "above"), ("maximum", "at most"))


def type_of(schema: Schema) -> str:
    """What a value looks like: ``whole number, at least 1``, ``list of text`` ..."""
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    branches = [each for each in branches_of(schema) if each.get("type") != "null"]
    if branches:
        return " or ".join(dict.fromkeys(type_of(each) for each in branches))
    if "$ref" in schema:
        return name_of(schema)
    if schema.get("type") == "array":
        inner = schema.get("items")
        return f"list of {type_of(inner)}" if inner else "list"
    kind = _KINDS.get(schema.get("type", ""), "any value")
    bounds = [f"{words} {schema[key]:g}" for key, words in _BOUNDS if key in schema]
    return ", ".join([kind, *bounds])


def branches_of(schema: Schema) -> list[Schema]:
    """The alternatives of a schema; none where it is one."""
    return list(schema.get("anyOf", schema.get("oneOf", ())))


def name_of(schema: Schema) -> str:
    """The name of the definition that a reference points to."""
    return str(schema["$ref"]).rpartition("/")[2]


def default_of(schema: Schema, required: bool) -> str:
    """The default as YAML has it; empty for a mapping with a section of its own."""
    if required:
        return "required"
    value = schema.get("default")
    if isinstance(value, dict) and value:
        return ""
    return "" if value is None else f"`{json.dumps(value)}`"


def cell(text: str) -> str:
    """``text`` as a table's cell."""
    return " ".join(text.replace("|", "\\|").replace("``", "`").split())
