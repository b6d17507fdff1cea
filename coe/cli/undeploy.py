"""``coe undeploy``: take the service off a Ray cluster."""

from __future__ import annotations

from pathlib import Path

import click

from coe.cli._options import address_option, registry_option


@click.command()
@registry_option
@address_option
def main(registry: Path, address: str | None) -> None:
    """Stop the service on a Ray cluster, after the answers under way have ended. The cluster stays."""
    from coe.cluster.known import find_cluster
    from coe.core.files import folder_of

    cluster = find_cluster(address, folder_of(registry))
    from coe.cluster import operator as control

    with control.connected(cluster):
        existed = control.undeploy()
    click.echo("taken down" if existed else "nothing was deployed")
