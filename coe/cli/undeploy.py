"""``coe undeploy``: take the service off a Ray cluster."""

from __future__ import annotations

import click

from coe.cli._options import address_option


@click.command()
@address_option
def main(address: str | None) -> None:
    """Stop the service on a Ray cluster, after the answers under way have ended. The cluster stays."""
    from coe.cluster import operator as control

    with control.connected(address):
        existed = control.undeploy()
    click.echo("taken down" if existed else "nothing was deployed")
