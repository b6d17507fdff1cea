"""``coe route``: which expert would answer, and why; nothing is asked."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from coe.cli._client import ServiceClient, service_client
from coe.cli._options import json_option, registry_option, url_option

if TYPE_CHECKING:
    from coe.registry.schema import Registry, RouterSpec


@click.command()
@click.argument("question")
@url_option
@click.option("--router", help="Use this router instead of the default one.")
@click.option("--local", is_flag=True, help="Build the router here, from --registry; no service is needed.")
@registry_option
@json_option
def main(
    question: str,
    url: str | None,
    ca: Path | None,
    router: str | None,
    local: bool,
    registry: Path,
    as_json: bool,
) -> None:
    """Show which experts QUESTION would go to, with the router's confidence and reason."""
    if local:
        route = _decide_here(question, router, registry)
    else:
        route = _ask_service(question, router, service_client(url, ca, registry))
    click.echo(json.dumps(route, indent=1) if as_json else _readable(route))


def _ask_service(question: str, router: str | None, service: ServiceClient) -> dict[str, Any]:
    body = {"input": question} | ({"router": router} if router else {})
    return service.post("/v1/route", body)


def _decide_here(question: str, router: str | None, path: Path) -> dict[str, Any]:
    """As the service's /v1/route, without waits: no queue is known here."""
    from coe.core.files import folder_of
    from coe.pipeline.pipeline import Preview
    from coe.profiles.evidence import encoder_of, evidence_of
    from coe.profiles.store import open_store
    from coe.routers import build_router
    from coe.service.registry_file import load_registry

    registry = load_registry(path)
    root, spec = folder_of(path), _spec(registry, router)
    evidence = evidence_of(open_store(registry, root), registry.routed, encoder_of(spec, root))
    built = build_router(spec, registry.routed, root, evidence)
    decision = built.route(question, [expert.view() for expert in registry.routed])
    return Preview(None, decision, (math.inf,) * len(decision.ranking)).as_json()


def _spec(registry: Registry, name: str | None) -> RouterSpec:
    from coe.core.errors import ConfigError
    from coe.core.suggest import suggest
    from coe.registry.schema import RouterSpec
    from coe.routers import BUILTINS

    wanted = name or registry.routers.default
    known = {spec.name: spec for spec in registry.routers.available}
    if wanted in known:
        return known[wanted]
    if wanted in BUILTINS:
        return RouterSpec(name=wanted, kind=wanted)
    raise ConfigError(f'there is no router "{wanted}"; {suggest(wanted, [*known, *BUILTINS])}')


def _readable(route: dict[str, Any]) -> str:
    width = max(len(row["expert"]) for row in route["experts"])
    lines = [
        f"{route['expert']}: {route['reason']}",
        f"router {route['router']}, confidence {route['confidence']:.2f}",
        "",
    ]
    for row in route["experts"]:
        wait = row.get("expected_wait_s")
        line = f"  {row['expert']:<{width}}  {row['probability']:.3f}"
        lines.append(line if wait is None else f"{line}  expected wait {wait:.2f} s")
    return "\n".join(lines)
