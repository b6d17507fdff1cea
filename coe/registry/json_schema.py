"""The JSON schema of experts.yaml, for editors.

``python -m coe.registry.json_schema > docs/experts.schema.json`` remakes the file; a test checks it is
current.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from coe.registry.schema import Registry


def schema_text() -> str:
    """The schema as the file docs/experts.schema.json holds it."""
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return json.dumps({**head, **registry_schema(), "title": "experts.yaml"}, indent=1) + "\n"


def registry_schema() -> dict[str, Any]:
    """What pydantic says of the registry, with every model among the definitions."""
    schema = Registry.model_json_schema()
    _define_inner_models(schema, schema["$defs"])
    return {**schema, "$defs": dict(sorted(schema["$defs"].items()))}


def _define_inner_models(schema: Any, definitions: dict[str, Any]) -> None:
    """Models in the middle of the schema (see :class:`coe.registry.base.UsuallyOf`) become definitions."""
    branches: list[Any] = schema.get("anyOf", []) if isinstance(schema, dict) else []
    for index, branch in enumerate(branches):
        if "properties" in branch:
            definitions[branch["title"]] = branch
            branches[index] = {"$ref": f"#/$defs/{branch['title']}"}
    for inner in list(schema.values()) if isinstance(schema, dict) else schema:
        if isinstance(inner, dict | list):
            _define_inner_models(inner, definitions)


if __name__ == "__main__":
    sys.stdout.write(schema_text())
