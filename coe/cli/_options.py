"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path

import click

DEFAULT_URL = "http://127.0.0.1:8000"

registry_option = click.option(
    "--registry",
    type=click.Path(path_type=Path),
    default=Path("experts.yaml"),
    show_default=True,
    help="The registry file.",
)
url_option = click.option("--url", default=DEFAULT_URL, show_default=True, help="A running `coe serve`.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
address_option = click.option(
    "--address", help="Of a Ray cluster, for example 10.0.0.1:6379. [default: the one on this machine]"
)
