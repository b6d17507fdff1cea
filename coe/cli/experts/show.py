"""``coe experts show``: one expert's entry and state."""

from __future__ import annotations

import io
import json
import urllib.parse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from coe.cli._admin import AdminAddress, admin_client, admin_option
from coe.cli._client import NoService
from coe.cli._group import Failed
from coe.cli._options import json_option, registry_option
from coe.cli.experts.profile import readable, summary

if TYPE_CHECKING:
    from coe.profiles.profile import ExpertProfile


@click.command()
@click.argument("expert")
@registry_option
@admin_option
@json_option
def main(expert: str, registry: Path, admin: AdminAddress, as_json: bool) -> None:
    """Show EXPERT: its state in the running service (through the admin API), its entry, and its profiles."""
    client = admin_client(registry, admin)
    try:
        shown = client.get(f"/admin/experts/{urllib.parse.quote(expert)}") if client else None
    except NoService:
        shown = None
    shown = shown or _from_file(expert, registry)
    profiles = _profiles(expert, registry)
    if as_json:
        click.echo(json.dumps({**shown, "profiles": [summary(each) for each in profiles]}, indent=1))
    else:
        state = f"{shown['state']}, {shown['queued']} waiting, {shown['running']} running"
        click.echo(
            f"# {state if shown['state'] != 'not running' else 'no service was asked'}\n{_yaml(shown)}"
        )
        click.echo("\n".join(f"# {line}" for each in profiles for line in readable(each)), nl=bool(profiles))


def _from_file(expert: str, registry: Path) -> dict[str, Any]:
    from coe.core.suggest import suggest
    from coe.service.registry_file import load_registry

    loaded = load_registry(registry)
    found = loaded.expert(expert)
    if found is None:
        raise Failed(f'expert "{expert}" does not exist; {suggest(expert, [e.id for e in loaded.experts])}')
    entry = found.model_dump(mode="json", exclude_defaults=True)
    return {"id": expert, "state": "not running", "queued": 0, "running": 0, "entry": entry}


def _profiles(expert: str, registry: Path) -> list[ExpertProfile]:
    """Those that stand beside ``registry``; none where that file does not list the expert."""
    from coe.core.files import folder_of
    from coe.profiles.store import open_store
    from coe.service.registry_file import load_registry

    if not registry.is_file():
        return []
    loaded = load_registry(registry)
    found = loaded.expert(expert)
    return list(open_store(loaded, folder_of(registry)).of(found)) if found else []


def _yaml(shown: dict[str, Any]) -> str:
    from ruamel.yaml import YAML

    out = io.StringIO()
    yaml = YAML()
    yaml.width = 100
    yaml.dump([shown["entry"]], out)
    return out.getvalue().rstrip()
