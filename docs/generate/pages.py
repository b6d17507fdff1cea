"""All generated pages, by file name below docs/reference/."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from coe.registry.json_schema import registry_schema
from coe.registry.schema import Registry
from coe.service.admin_api import AdminGateway
from coe.service.service import build_service
from coe.testing.engines import FakeEngine
from docs.generate import cli, http_api, registry

REFERENCE = Path(__file__).parents[1] / "reference"
_EXAMPLE = REFERENCE.parent / "experts.example.yaml"


def pages() -> dict[str, str]:
    """The text of each page."""
    return {
        "cli.md": cli.page(),
        "experts-yaml.md": registry.page(registry_schema(), _EXAMPLE.read_text(encoding="utf-8")),
        "openapi.md": http_api.page(*documents()),
    }


def documents() -> tuple[dict[str, Any], dict[str, Any]]:
    """The OpenAPI documents of the API and of the admin API, of a service that nobody asks anything."""
    registry = Registry.model_validate(
        {
            "pool": {"hosts": [{"id": "engine"}]},
            "experts": [{"id": "expert", "host": "engine", "model": "model"}],
            "routers": {"default": "random"},
        }
    )
    service = build_service(registry, Path(), lambda *_: FakeEngine("engine"))
    nothing: Any = None
    return service.gateway.document, AdminGateway(nothing, nothing, "").document
