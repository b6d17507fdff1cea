"""The HTTP API, from its two OpenAPI documents."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from docs.generate.schema_words import Schema, cell, default_of, type_of

_HEAD = """# Endpoints and bodies

Made by `python -m docs.generate` from the OpenAPI documents that the service itself gives at
`GET /openapi.json` and `GET /admin/openapi.json`. What the fields do is explained in [HTTP API](api.md).
"""

Document = Mapping[str, Any]


def page(public: Document, admin: Document) -> str:
    """The whole page. Pure."""
    bodies = {**public["components"]["schemas"], **admin["components"]["schemas"]}
    return "\n".join(
        [
            _HEAD,
            "## Public API\n",
            *_operations(public),
            "## Admin API\n",
            *_operations(admin),
            "## Bodies\n",
            *_bodies(bodies),
        ]
    )


def _operations(document: Document) -> Iterator[str]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"### {method.upper()} {path}\n\n{_sentence(operation)}\n\n{_facts(operation)}\n"


def _sentence(operation: Schema) -> str:
    words = [operation.get("summary", ""), operation.get("description", "")]
    return " ".join(each if each.endswith((".", "?")) else f"{each}." for each in words if each)


def _facts(operation: Schema) -> str:
    facts = [
        f"* Parameter `{each['name']}` ({each['in']}): {type_of(each['schema'])}"
        for each in operation.get("parameters", ())
    ]
    if "requestBody" in operation:
        facts.append(f"* Body: {_content(operation['requestBody'])}")
    for status, answer in operation["responses"].items():
        headers = ", ".join(f"`{name}`" for name in answer.get("headers", ()))
        also = f", with the headers {headers}" if headers else ""
        facts.append(f"* {'Error' if status == 'default' else status}: {_content(answer)}{also}")
    return "\n".join(facts)


def _content(answer: Schema) -> str:
    return " or ".join(f"{_linked(each['schema'])} (`{kind}`)" for kind, each in answer["content"].items())


def _linked(schema: Schema) -> str:
    """The type of a value; names of bodies link to their sections."""
    return re.sub(r"\b[A-Z]\w+\b", lambda name: f"[{name[0]}](#{name[0].lower()})", type_of(schema))


def _bodies(schemas: Mapping[str, Schema]) -> Iterator[str]:
    for name, schema in sorted(schemas.items()):
        words = " ".join(str(schema.get("description", "")).replace("``", "`").split())
        yield "\n".join([f"### {name}", *(["", words] if words else []), "", _fields(schema), ""])


def _fields(schema: Schema) -> str:
    if "properties" not in schema:
        return f"One value: {type_of(schema)}."
    required = schema.get("required", ())
    rows = [
        f"| `{key}` | {cell(_linked(value))} | {cell(default_of(value, key in required))} "
        f"| {cell(value.get('description', ''))} |"
        for key, value in schema["properties"].items()
    ]
    return "\n".join(["| field | type | default | meaning |", "|---|---|---|---|", *rows])
