"""Options that several commands share."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

PATH = click.Path(path_type=Path)
DEFAULT_URL = "http://127.0.0.1:8000"
DEFAULT_REGISTRY = Path("experts.yaml")

registry_option = click.option(
    "--registry",
    type=PATH,
    default=DEFAULT_REGISTRY,
    help="The registry file.",
)
ca_option = click.option(
    "--ca", type=PATH, help="PEM file with the certificates to trust at an https URL that is given."
)


def url_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """``url`` and ``ca``, for :func:`coe.cli._client.service_client`."""
    shown = f"URL of a running service. [default: the one that runs in this folder, else {DEFAULT_URL}]"
    return click.option("--url", help=shown)(ca_option(command))


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
json_file_option = click.option("--json", "json_out", type=PATH, help="Write the figures to this file.")
address_option = click.option(
    "--address",
    help="Address of a Ray cluster, such as 10.0.0.1:6379. [default: RAY_ADDRESS, or the one that the folder "
    "of the registry was deployed to]",
)


def write_json(path: Path | None, figures: Any) -> None:
    """What ``json_file_option`` asks for."""
    if path is not None:
        path.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def counts(text: str, option: str) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Of a list such as 1,3,top-p:0.6 the whole numbers, 1 if there is none, and the p. Raises
    click.BadParameter."""
    from coe.aggregators.top_p import written

    parts = [part.strip() for part in text.split(",")]
    masses = [(part, written(part)) for part in parts if part.startswith("top-p")]
    for part, mass in masses:
        if mass is None:
            raise click.BadParameter(
                f'"{part}" needs a P above 0 and at most 1, such as top-p:0.6', param_hint=option
            )
    fixed = ",".join(part for part in parts if not part.startswith("top-p"))
    found = dict.fromkeys(mass.p for _, mass in masses if mass is not None)
    return numbers(fixed or "1", option) if masses else numbers(text, option), tuple(found)


def numbers(text: str, option: str) -> tuple[int, ...]:
    """The different whole numbers of a comma-separated list. Raises click.BadParameter naming ``option``."""
    try:
        found = tuple(dict.fromkeys(int(part) for part in text.split(",") if part.strip()))
    except ValueError:
        found = ()
    if not found:
        raise click.BadParameter(f'"{text}" is not a list of numbers, such as 1,3,5', param_hint=option)
    return found
