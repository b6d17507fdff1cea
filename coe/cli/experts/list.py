"""``coe experts list``: the experts and their states."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from coe.cli._client import NoService, ServiceClient, service_client
from coe.cli._group import Failed
from coe.cli._options import json_option, registry_option, url_option


@click.command()
@url_option
@registry_option
@json_option
def main(url: str | None, ca: Path | None, registry: Path, as_json: bool) -> None:
    """List the experts with their states, from the running service or else from the registry."""
    try:
        experts = _from_service(service_client(url, ca, registry))
    except NoService as missing:
        experts = _from_registry(registry)
        click.echo(f"{missing.message.splitlines()[0]}: listing {registry}", err=True)
    if as_json:
        click.echo(json.dumps({"experts": experts}, indent=1))
    else:
        click.echo(_table(experts))


def _from_service(service: ServiceClient) -> list[dict[str, Any]]:
    models = service.get("/v1/models").get("data", [])
    # The routed name is listed as a model too; only experts have a state.
    experts = [
        {
            "id": model["id"],
            "state": model["state"],
            "skills": model.get("skills", []),
            "card": model.get("description", ""),
        }
        for model in models
        if "state" in model
    ]
    if not experts:
        raise Failed(f"{service.url} lists no experts", "Is a CoE service at this address?")
    return experts


def _from_registry(path: Path) -> list[dict[str, Any]]:
    from coe.core.files import folder_of
    from coe.profiles.evidence import cautions
    from coe.service.registry_file import load_registry

    registry = load_registry(path)
    for line in cautions(registry, folder_of(path)):
        click.echo(f"warning: {line}", err=True)
    return [
        {"id": expert.id, "state": "not running", "skills": list(expert.skills), "card": expert.card}
        for expert in registry.experts
    ]


def _table(experts: list[dict[str, Any]]) -> str:
    names = max(len(expert["id"]) for expert in experts)
    states = max(len(str(expert["state"])) for expert in experts)
    return "\n".join(
        f"{expert['id']:<{names}}  {expert['state']!s:<{states}}  {expert['card']}".rstrip()
        for expert in experts
    )
