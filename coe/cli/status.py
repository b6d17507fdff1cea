"""``coe status``: what runs on a Ray cluster."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from coe.cli._options import address_option, json_option, registry_option

if TYPE_CHECKING:
    from coe.cluster.messages import GatewayReport, OwnerReport
    from coe.cluster.operator import ClusterStatus

EXIT_NOT_RUNNING = 1


@click.command()
@registry_option
@address_option
@json_option
def main(registry: Path, address: str | None, as_json: bool) -> None:
    """Show the service on a Ray cluster: generation, gateways, owners, experts, queues and swaps.

    Exit code 0: it runs; 1: it does not, or only in part.
    """
    from coe.cluster.known import find_cluster
    from coe.core.files import folder_of

    cluster = find_cluster(address, folder_of(registry))
    from coe.cluster import operator as control

    with control.connected(cluster):
        status = control.status()
    if as_json:
        click.echo(json.dumps(_finite(status.as_json()), indent=1))
    else:
        click.echo("\n".join(lines(status)))
    sys.exit(0 if status.state == "RUNNING" else EXIT_NOT_RUNNING)


def lines(status: ClusterStatus) -> list[str]:
    """For a terminal."""
    if status.generation is None:
        return ["nothing is deployed"]
    replicas = ", ".join(f"{name} {count}" for name, count in status.replicas.items())
    found = [f"{status.state}: generation {status.generation} at {status.url}; replicas: {replicas}"]
    found += [f"  {line}" for line in status.message.splitlines()]
    for gateway in status.gateways:
        found.append(f"{gateway.session}: {_generation(gateway)}")
    for owner in status.owners:
        found += _owner(owner)
    return found + [f"{owner}: does not answer" for owner in status.silent_owners]


def _owner(owner: OwnerReport) -> list[str]:
    engines = ", ".join(f"{host} {stats.state}" for host, stats in owner.engines.items())
    found = [f"{owner.owner}: {_generation(owner)}, {owner.swaps} swaps; {engines}"]
    found += [
        f"  {expert}: {each.state}, {each.queued} waiting, {each.running} running"
        + (f", STUCK: {each.stuck}" if each.stuck else "")
        for expert, each in owner.experts.items()
    ]
    return found


def _generation(part: GatewayReport | OwnerReport) -> str:
    refused = f", refuses {part.refused}" if part.refused else ""
    outdated = f", still with former {', '.join(part.outdated)}" if part.outdated else ""
    return f"generation {part.generation}{refused}{outdated}"


def _finite(value: object) -> object:
    """JSON has no number for a wait without end."""
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if value == float("inf") else value
