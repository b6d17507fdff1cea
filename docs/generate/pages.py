"""All generated pages, by file name below docs/reference/."""

from __future__ import annotations

from pathlib import Path

from coe.gateway.openapi import openapi_document
from coe.registry.json_schema import registry_schema
from coe.service.admin_openapi import admin_document
from docs.generate import cli, http_api, registry

REFERENCE = Path(__file__).parents[1] / "reference"
_EXAMPLE = REFERENCE.parent / "experts.example.yaml"


def pages() -> dict[str, str]:
    """The text of each page."""
    return {
        "cli.md": cli.page(),
        "experts-yaml.md": registry.page(registry_schema(), _EXAMPLE.read_text(encoding="utf-8")),
        "openapi.md": http_api.page(openapi_document(), admin_document()),
    }
