"""The JSON schema of experts.yaml, for editors.

``python -m coe.registry.json_schema > docs/experts.schema.json`` remakes the file; a test checks it is
current.
"""

from __future__ import annotations

import json
import sys

from coe.registry.schema import Registry


def schema_text() -> str:
    """The schema as the file docs/experts.schema.json holds it."""
    schema = Registry.model_json_schema()
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "experts.yaml"}
    return json.dumps(schema, indent=1) + "\n"


if __name__ == "__main__":
    sys.stdout.write(schema_text())
