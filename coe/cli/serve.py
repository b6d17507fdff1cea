"""``coe serve``: run the service in one process."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from coe.cli._options import registry_option

if TYPE_CHECKING:
    from coe.registry.models import Registry


@click.command()
@registry_option
@click.option("--host", help="Listen on this address instead of service.host.")
@click.option("--port", type=click.IntRange(0, 65535), help="Listen on this port instead of service.port.")
def main(registry: Path, host: str | None, port: int | None) -> None:
    """Run the service that the registry describes, until Ctrl-C."""
    from coe.live import RegistryFile
    from coe.local import run_service
    from coe.registry.source import read_text

    given = {key: value for key, value in (("host", host), ("port", port)) if value is not None}

    def adjust(loaded: Registry) -> Registry:
        return loaded.model_copy(update={"service": loaded.service.model_copy(update=given)})

    file = RegistryFile(registry, read_text(registry), adjust)
    sys.exit(run_service(file.registry(), registry.resolve().parent, file=file))
