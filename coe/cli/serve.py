"""``coe serve``: run the service in one process."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from coe.cli._options import registry_option

if TYPE_CHECKING:
    from coe.observe.logs import LogFormat
    from coe.registry.schema import Registry

PEM = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@registry_option
@click.option("--host", help="Listen on this address instead of service.host.")
@click.option("--port", type=click.IntRange(0, 65535), help="Listen on this port instead of service.port.")
@click.option("--tls-cert", type=PEM, help="Serve HTTPS with this certificate (PEM, with its chain).")
@click.option("--tls-key", type=PEM, help="Key of the certificate (PEM), if it is in a separate file.")
@click.option("--traces", help="Send traces to this OTLP/HTTP collector, such as http://127.0.0.1:4318.")
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    help="Log as text, or as JSON objects with request ids.",
)
def main(
    registry: Path,
    host: str | None,
    port: int | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    traces: str | None,
    log_format: LogFormat,
) -> None:
    """Run the service that the registry describes, until Ctrl-C."""
    from coe.core.files import folder_of
    from coe.registry.source import read_text
    from coe.service.http_server import Tls
    from coe.service.live_registry import RegistryFile
    from coe.service.service import run_service

    if tls_key is not None and tls_cert is None:
        raise click.UsageError("--tls-key needs --tls-cert")
    given = {key: value for key, value in (("host", host), ("port", port)) if value is not None}

    def adjust(loaded: Registry) -> Registry:
        service = loaded.service.model_copy(update=given)
        observe = loaded.observe.model_copy(update={"traces": traces} if traces else {})
        return loaded.model_copy(update={"service": service, "observe": observe})

    file = RegistryFile(registry, read_text(registry), adjust)
    tls = Tls(tls_cert, tls_key) if tls_cert else None
    sys.exit(run_service(file.registry(), folder_of(registry), file=file, tls=tls, log_format=log_format))
