"""``coe registry rollback``: an earlier version of experts.yaml again, as a new generation."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import click

from coe.cli._admin import AdminAddress, admin_option, editor, outcome, through_admin
from coe.cli._options import json_option, registry_option


@click.command()
@click.argument("number", type=click.IntRange(min=1))
@registry_option
@admin_option
@json_option
def main(number: int, registry: Path, admin: AdminAddress, as_json: bool) -> None:
    """Write the text of generation NUMBER back to the registry; it becomes a new generation."""
    done = through_admin(
        registry,
        admin,
        lambda client: client.post("/admin/registry/rollback", {"generation": number}),
        lambda: _on_file(number, registry),
    )
    text = f"back to the text of generation {number}\n{outcome(done, '')}".rstrip()
    click.echo(json.dumps(done, indent=1) if as_json else text)


def _on_file(number: int, registry: Path) -> dict[str, Any]:
    files = editor(registry)
    entry = files.history().entry(number)
    asyncio.run(files.edit(lambda _: entry.text))
    return {"generation": None, "experts": []}
