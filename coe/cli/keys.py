"""``coe keys``: make and list API keys."""

from __future__ import annotations

from pathlib import Path

import click

from coe.cli._group import Group
from coe.cli._options import PATH

_LIMITS = (
    "requests_per_minute",
    "tokens_per_minute",
    "requests_per_month",
    "tokens_per_month",
    "usd_per_month",
    "gpu_seconds_per_month",
    "swaps_per_month",
)


@click.group(cls=Group)
def main() -> None:
    """Make and list API keys (access.keys_file in the registry)."""


@main.command()
@click.argument("name")
@click.option("--file", "path", type=PATH, default="keys.yaml")
@click.option("--tenant", help="Tenant, whose cached answers the key may get. [default: NAME]")
@click.option(
    "--limit", "limits", multiple=True, metavar="NAME=NUMBER", help=f"A limit: {', '.join(_LIMITS)}."
)
def create(name: str, path: Path, tenant: str | None, limits: tuple[str, ...]) -> None:
    """Make a key for NAME. It is printed once; the file keeps its hash only."""
    from pydantic import ValidationError

    from coe.access.api_keys import Holder, KeyLimits, add_key, make_key

    made = make_key()
    try:
        bounds = KeyLimits(**dict(_limit(text) for text in limits))
        holder = Holder(id=name, sha256=made.sha256, tenant=tenant, limits=bounds)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_input=False)
        raise click.UsageError("; ".join(f"{d['loc'][-1]}: {d['msg']}" for d in faults)) from None
    add_key(path, holder)
    click.echo(made.key)
    click.echo(f"its hash is in {path}; a running service accepts the key within about a second", err=True)


@main.command("list")
@click.option("--file", "path", type=PATH, default="keys.yaml")
def list_keys(path: Path) -> None:
    """List the holders and their limits."""
    from coe.access.api_keys import read_keys

    for holder in read_keys(path).holders():
        bounds = holder.limits.model_dump(exclude_none=True)
        shown = ", ".join(f"{name} {value:g}" for name, value in bounds.items()) or "no limits"
        click.echo(f"{holder.id}  {shown}")


def _limit(text: str) -> tuple[str, float]:
    from coe.core.suggest import suggest

    name, _, number = text.partition("=")
    if name not in _LIMITS:
        raise click.UsageError(f'no limit "{name}"; {suggest(name, _LIMITS)}')
    try:
        return name, float(number)
    except ValueError:
        raise click.UsageError(f"{text}: write {name}=NUMBER") from None
