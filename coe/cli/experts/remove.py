"""``coe experts remove``: experts leave, after the work that they have."""

from __future__ import annotations

import json
import urllib.parse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from coe.cli._admin import AdminAddress, admin_option, on_file, outcome, through_admin
from coe.cli._options import json_option, registry_option

if TYPE_CHECKING:
    from coe.onboarding.onboarding import Onboarding


@click.command()
@click.argument("expert")
@registry_option
@admin_option
@json_option
def main(expert: str, registry: Path, admin: AdminAddress, as_json: bool) -> None:
    """Remove EXPERT. It takes no new requests, finishes those it has, and leaves."""

    async def leave(onboarding: Onboarding) -> Any:
        await onboarding.remove(expert)

    path = f"/admin/experts/{urllib.parse.quote(expert)}"
    done = through_admin(
        registry, admin, lambda client: client.delete(path), lambda: on_file(registry, leave)
    )
    click.echo(json.dumps(done, indent=1) if as_json else f"{expert}: removed\n{outcome(done, '')}".rstrip())
