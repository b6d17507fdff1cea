"""``coe serve``: run the service in one process."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from coe.cli._options import registry_option


@click.command()
@registry_option
@click.option("--host", help="Listen on this address instead of service.host.")
@click.option("--port", type=click.IntRange(0, 65535), help="Listen on this port instead of service.port.")
def main(registry: Path, host: str | None, port: int | None) -> None:
    """Run the service that the registry describes, until Ctrl-C."""
    from coe.local import run_service
    from coe.registry.load import load_registry

    loaded = load_registry(registry)
    given = {key: value for key, value in (("host", host), ("port", port)) if value is not None}
    service = loaded.service.model_copy(update=given)
    sys.exit(run_service(loaded.model_copy(update={"service": service}), registry.resolve().parent))
