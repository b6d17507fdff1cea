"""``coe route``: which expert would answer, and why; nothing is asked."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from coe.cli._client import service_client
from coe.cli._options import json_option, registry_option, url_option

if TYPE_CHECKING:
    from coe.registry.schema import Registry, RouterSpec

SHOWN_CHARS = 100


@click.command()
@click.argument("question", required=False)
@click.option(
    "--messages",
    type=click.File(encoding="utf-8"),
    help='Route this conversation instead: a JSON list of messages, or {"messages": [...]}; - reads stdin.',
)
@url_option
@click.option("--router", help="Use this router instead of the default one.")
@click.option("--local", is_flag=True, help="Build the router here, from --registry; no service is needed.")
@registry_option
@json_option
def main(
    question: str | None,
    messages: IO[str] | None,
    url: str | None,
    ca: Path | None,
    router: str | None,
    local: bool,
    registry: Path,
    as_json: bool,
) -> None:
    """Show which experts QUESTION would go to, with what the router reads, its confidence and reason."""
    if (question is None) == (messages is None):
        raise click.UsageError("give either QUESTION or --messages FILE")
    asked = {"input": question} if messages is None else {"messages": _conversation(messages)}
    body = asked | ({"router": router} if router else {})
    if local:
        route = _decide_here(body, registry)
    else:
        route = service_client(url, ca, registry).post("/v1/route", body)
    click.echo(json.dumps(route, indent=1) if as_json else _readable(route))


def _conversation(file: IO[str]) -> Any:
    try:
        found = json.load(file)
    except ValueError as error:
        raise click.UsageError(f"{file.name} is not JSON: {error}") from None
    return found.get("messages") if isinstance(found, dict) else found


def _decide_here(body: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """As the service's /v1/route, without waits: no queue is known here."""
    from coe.core.decision import generals, settled
    from coe.core.files import folder_of
    from coe.core.json_codec import encode
    from coe.gateway.requests import parse_route
    from coe.pipeline.pipeline import Preview
    from coe.profiles.evidence import encoder_of, evidence_of
    from coe.profiles.store import open_store
    from coe.routers import build_router
    from coe.service.registry_file import load_registry

    registry = load_registry(path)
    request = parse_route(encode(body), registry.limits, "local", registry.service.model_name)
    root, spec = folder_of(path), _spec(registry, request.options.router)
    evidence = evidence_of(open_store(registry, root), registry.routed, encoder_of(spec, root))
    built = build_router(spec, registry.routed, root, evidence)
    views = [expert.view() for expert in registry.routed]
    decision = settled(built.route(request.reading, views), generals(views))
    return Preview(None, request.reading, decision, (math.inf,) * len(decision.ranking)).as_json()


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
        *_what_was_read(route.get("read", {})),
        "",
    ]
    for row in route["experts"]:
        wait = row.get("expected_wait_s")
        line = f"  {row['expert']:<{width}}  {row['probability']:.3f}"
        lines.append(line if wait is None else f"{line}  expected wait {wait:.2f} s")
    return "\n".join(lines)


def _what_was_read(read: dict[str, Any]) -> Iterator[str]:
    """Lines for what a plain question has not: a task, turns before, parts left out."""
    if read.get("task"):
        yield f"task: {_shown(read['task'])}"
    if read.get("turns"):
        relation = "leaning on" if read["follow_up"] else "standing alone after"
        turns = len(read["turns"])
        yield f"read: {_shown(read['last'])}, {relation} {turns} earlier turn{'s' * (turns != 1)}"
    elif read.get("task") or read.get("left_out"):
        yield f"read: {_shown(read['last'])}"
    if read.get("left_out"):
        yield "left out: " + ", ".join(f"{part['what']} ({part['chars']:,})" for part in read["left_out"])


def _shown(text: str) -> str:
    one_line = " ".join(text.split())
    return one_line if len(one_line) <= SHOWN_CHARS else f"{one_line[: SHOWN_CHARS - 3]}..."
