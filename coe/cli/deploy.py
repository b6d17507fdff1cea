"""``coe deploy``: the service on a Ray cluster."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from coe.cli._group import Failed, FailedConfig
from coe.cli._options import address_option, registry_option

if TYPE_CHECKING:
    from coe.cluster.operator import ClusterStatus
    from coe.registry.schema import Registry

WATCH_S = 3.0
"""How often --local looks whether `coe undeploy` has taken the service down."""
STOP_S = 60.0
"""How long --local may take to stop, beside service.drain_s."""


@click.command()
@registry_option
@click.option("--local", is_flag=True, help="Start a cluster on this machine, and keep it until Ctrl-C.")
@address_option
@click.option("--dry-run", is_flag=True, help="Print what would be deployed, and change nothing.")
@click.option(
    "--format",
    "kind",
    type=click.Choice(["serve", "kuberay"]),
    default="serve",
    help="With --dry-run: print a Ray Serve config or a KubeRay manifest.",
)
@click.option("--host", help="Listen on this address instead of service.host.")
@click.option("--port", type=click.IntRange(1, 65535), help="Listen on this port instead of service.port.")
@click.option("--root", help="Folder of the registry on the cluster's machines. [default: as it is here]")
@click.option("--image", default="coe:latest", help="Container image (with --format kuberay).")
@click.option("--timeout", "timeout_s", type=float, default=300.0, help="Longest wait, in seconds.")
@click.option("--guarded", is_flag=True, hidden=True, help="What --local starts: Ray's driver.")
def main(
    registry: Path,
    local: bool,
    address: str | None,
    dry_run: bool,
    kind: str,
    host: str | None,
    port: int | None,
    root: str | None,
    image: str,
    timeout_s: float,
    guarded: bool,
) -> None:
    """Deploy the registry on a Ray cluster, as the next generation of what runs there.

    Without --local and --address the cluster is RAY_ADDRESS, or the one that the folder of the registry was
    deployed to before. An edited registry is taken up without restarting anything, except by a change of the
    cluster's nodes.
    """
    from coe.core.files import folder_of
    from coe.service.registry_file import load_registry

    loaded = load_registry(registry)
    given = {key: value for key, value in (("host", host), ("port", port)) if value is not None}
    loaded = loaded.model_copy(update={"service": loaded.service.model_copy(update=given)})
    here = folder_of(registry)
    root = root or str(here)
    if guarded:
        _drive(loaded, here, root, timeout_s)
        return
    _require_servable(loaded, here)
    if dry_run:
        click.echo(_manifest(loaded, root, kind, image), nl=False)
    elif local and address:
        raise click.UsageError("--local starts a cluster of its own: leave out --address.")
    elif local:
        service = loaded.service
        options = {"registry": registry, "host": service.host, "port": service.port, "root": root}
        options["timeout"] = timeout_s
        given_on = [f"--{name}={value}" for name, value in options.items()]
        sys.exit(_guard(["deploy", "--guarded", *given_on], here, service.drain_s + STOP_S))
    else:
        _deploy(registry, loaded, root, address, timeout_s)


def _require_servable(registry: Registry, root: Path) -> None:
    from coe.service.check import explain

    errors = explain(registry, root).errors
    if errors:
        raise FailedConfig("\n".join(error.message for error in errors), "`coe check` explains the registry.")


def _manifest(registry: Registry, root: str, kind: str, image: str) -> str:
    from coe.cluster.serve_config import kuberay_manifest, serve_config, to_yaml
    from coe.cluster.settings import Deployed

    deployed = Deployed.of(registry, root, 1)
    service = registry.service
    found = (
        serve_config(deployed, service.host, service.port)
        if kind == "serve"
        else kuberay_manifest(deployed, image)
    )
    return to_yaml(found)


def _deploy(file: Path, registry: Registry, root: str, address: str | None, timeout_s: float) -> None:
    from coe.cluster.known import find_cluster, record
    from coe.core.files import folder_of
    from coe.registry.changes import fixed_hosts
    from coe.registry.source import parse_source, read_text

    cluster = find_cluster(address, folder_of(file))
    from coe.cluster import operator as control

    where = control.Listening(registry.service.host, registry.service.port)
    with control.connected(cluster) as connected:
        running = control.deployed_registry()
        if running is not None:
            parse_source(read_text(file), file).refuse(fixed_hosts(running, registry))
        record(folder_of(file), connected)
        _tell(control.deploy(registry, root, where, timeout_s, _say))


def _guard(command: Sequence[str], folder: Path, patience_s: float) -> int:
    """Returns the exit code."""
    from coe.cluster.guarded import run_guarded
    from coe.cluster.known import local_claim

    with local_claim(folder) as lock:
        return run_guarded([sys.executable, "-m", "coe.cli", *command], lock, patience_s, _say)


def _drive(registry: Registry, folder: Path, root: str, timeout_s: float) -> None:
    """A cluster on this machine with the service on it, until it is told to stop. Does not return then."""
    from coe.cluster.settings import set_local_env

    set_local_env()
    from coe.cluster import operator as control
    from coe.cluster.known import record

    where = control.Listening(registry.service.host, registry.service.port)
    control.require_free(where)
    _say("starting Ray on this machine")
    cluster = control.start_local_cluster()
    # Ray's own handler takes its time, and until the service answers there is nothing to end well.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    record(folder, cluster, local=True)
    _tell(control.deploy(registry, root, where, timeout_s, _say))
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    _say("Ctrl-C stops it")
    while not stop.wait(WATCH_S) and control.is_deployed():
        pass
    _say("stopping: answers under way end first")
    control.undeploy()
    os._exit(0)  # Ray would take seconds to end by itself what our guard ends at once


def _tell(status: ClusterStatus) -> None:
    refused = [g.refused for g in status.gateways if g.refused]
    refused += [o.refused for o in status.owners if o.refused]
    if refused:
        raise Failed(f"the cluster refuses {refused[0]}", "The former generation keeps serving.")
    click.echo(f"generation {status.generation} answers at {status.url}/v1")


def _say(what: str) -> None:
    click.echo(what, err=True)
