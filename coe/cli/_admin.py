"""Changes of a registry: through the admin API of the running service, else on the file, checked alike."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from coe.cli._client import NoService, ServiceClient, running, trust
from coe.cli._options import ca_option

if TYPE_CHECKING:
    from coe.onboarding.file_editor import FileEditor
    from coe.onboarding.onboarding import Onboarded, Onboarding
    from coe.registry.schema import Registry

TOKEN_ENV = "COE_ADMIN_TOKEN"


def admin_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """``admin``, for :func:`admin_client`: the URL and the file with the certificates to trust there."""

    @functools.wraps(command)
    def with_admin(*args: Any, admin_url: str | None, ca: Path | None, **options: Any) -> Any:
        return command(*args, admin=AdminAddress(admin_url, ca), **options)

    shown = f"URL of the admin API; its token is in ${TOKEN_ENV}. [default: of the service of --registry]"
    return click.option("--admin", "admin_url", metavar="URL", help=shown)(ca_option(with_admin))


@dataclass(frozen=True)
class AdminAddress:
    """What the options say; without a URL, as the registry and the service that runs with it say."""

    url: str | None = None
    ca: Path | None = None


def admin_client(registry: Path, admin: AdminAddress) -> ServiceClient | None:
    """A way to the admin API, if one is configured. Raises ConfigError for a registry or token that cannot
    be used."""
    found = running(registry, "--admin", admin.url)
    trusted = trust(admin.ca, found)
    if admin.url is not None:
        return ServiceClient(admin.url, os.environ.get(TOKEN_ENV, ""), trusted)
    from coe.core.files import folder_of
    from coe.service.admin import read_token

    listener = _loaded(registry).service.admin
    if listener is None or (found is not None and found.admin is None):
        return None
    token = read_token(listener, folder_of(registry))
    if found is not None and found.admin is not None:
        return ServiceClient(found.admin, token, trusted)
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(listener.host, listener.host)
    address = f"[{host}]" if ":" in host else host
    return ServiceClient(f"{'https' if admin.ca else 'http'}://{address}:{listener.port}", token, trusted)


def through_admin(
    registry: Path,
    admin: AdminAddress,
    act: Callable[[ServiceClient], dict[str, Any]],
    instead: Callable[[], dict[str, Any]],
) -> dict[str, Any]:
    """``act`` on the admin API; where none is configured, or none is there and no service runs, ``instead``
    on the file."""
    client = admin_client(registry, admin)
    if client is not None:
        try:
            return act(client)
        except NoService as missing:
            if admin.url is not None or running(registry, "--admin") is not None:
                raise
            click.echo(f"{missing.message.splitlines()[0]}: working on {registry}", err=True)
    done = instead()
    click.echo(f"{registry}: a service that watches this file follows within seconds", err=True)
    return done


def on_file(registry: Path, work: Callable[[Onboarding], Any]) -> dict[str, Any]:
    """``work``, a coroutine that may give a list of :class:`coe.onboarding.onboarding.Onboarded`, on the file
    itself."""
    from coe.core.files import folder_of
    from coe.onboarding.onboarding import Onboarding
    from coe.service.build_onboarding import build_gate

    joined: Sequence[Onboarded] | None = asyncio.run(
        work(Onboarding(editor(registry), build_gate(folder_of(registry))))
    )
    return {"generation": None, "experts": [dataclasses.asdict(each) for each in joined or ()]}


def editor(registry: Path) -> FileEditor:
    from coe.service.build_onboarding import file_editor

    return file_editor(registry)


def outcome(done: Mapping[str, Any], verb: str) -> str:
    """What was done, in lines for people."""
    lines = []
    for expert in done.get("experts", ()):
        how = "as a shadow: requests that name it get it, no router chooses it" if expert["shadow"] else verb
        lines.append(f"{expert['expert']}: {how}")
        lines += [f"  {line}" for line in ((expert.get("profile") or {}).get("lines", ()))]
        lines += [f"  {reason}" for reason in expert["reasons"]]
    if done.get("generation") is not None:
        lines.append(f"generation {done['generation']}")
    lines += [f"takes effect after a restart: {name}" for name in done.get("needs_restart", ())]
    return "\n".join(lines)


def _loaded(path: Path) -> Registry:
    from coe.service.registry_file import load_registry

    return load_registry(path)
