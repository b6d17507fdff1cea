"""``coe place``: which host each expert belongs on, by the exact programme."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from coe.cli._options import json_option, registry_option

if TYPE_CHECKING:
    from coe.placement.solver import Placement, Recruited
    from coe.registry.schema import Registry


@click.command()
@registry_option
@click.option("--trace", help="Trace that gives the loads, as in `coe simulate`. [default: equal shares]")
@click.option(
    "--assign",
    help="Expert of each request: zipf:S or column:NAME. [default: the column expert, else zipf:1.0]",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Seed for zipf.")
@click.option(
    "--together",
    multiple=True,
    metavar="A+B=SHARE",
    help="Share of requests that use A and B together; repeatable.",
)
@click.option("--free", is_flag=True, help="Also place experts whose entry names a host.")
@click.option(
    "--limit", "limit_s", type=float, default=10.0, help="Most effort of the solver, in its own time units."
)
@json_option
def main(
    registry: Path,
    trace: str | None,
    assign: str | None,
    seed: int,
    together: tuple[str, ...],
    free: bool,
    limit_s: float,
    as_json: bool,
) -> None:
    """Find the best placement of the experts on the hosts: its cost, and a proof.

    Balances the load, keeps busy experts awake, and keeps apart experts that are used together.
    """
    from coe.placement.assign import place_experts
    from coe.service.registry_file import load_registry
    from coe.simulate.study import expert_loads

    loaded = load_registry(registry)
    loads = expert_loads(loaded, trace, assign, seed) if trace else {}
    placement = place_experts(loaded, loads, [_pair(text) for text in together], free, limit_s)
    figures = _figures(loaded, placement, loads)
    click.echo(json.dumps(figures, indent=1) if as_json else _readable(figures))


def _pair(text: str) -> Recruited:
    from coe.placement.solver import Recruited

    names, _, share = text.partition("=")
    one, plus, other = names.partition("+")
    try:
        value = float(share)
    except ValueError:
        value = -1.0
    if not (one and plus and other and 0.0 <= value <= 1.0):
        raise click.BadParameter(
            f'"{text}" is not a pair; write for example code+math=0.2', param_hint="--together"
        )
    return Recruited(one, other, value)


def _figures(registry: Registry, placement: Placement, loads: Mapping[str, float]) -> dict[str, Any]:
    """``load``: share of the load of all experts that were placed."""
    plan = placement.plan
    placed = [expert for experts in plan.kept.values() for expert in experts]
    shares = loads if any(loads.get(expert) for expert in placed) else dict.fromkeys(placed, 1.0)
    total = sum(shares.get(expert, 0.0) for expert in placed)
    pinned = set(registry.pool.pinned)
    hosts = []
    for host, kept in plan.kept.items():
        awake = plan.awake[host]
        hosts.append(
            {
                "host": host,
                "device": getattr(registry.host(host), "device", None),
                "load": round(sum(shares.get(expert, 0.0) for expert in kept) / total, 4),
                "pinned": sorted(awake & pinned),
                "awake": sorted(awake),
                "asleep": sorted(kept - awake),
            }
        )
    return {
        "hosts": hosts,
        "objective": round(placement.cost, 4),
        "bound": round(placement.bound, 4),
        "status": placement.status,
        "optimal": placement.status == "optimal",
    }


def _readable(figures: Mapping[str, Any]) -> str:
    lines = []
    for host in figures["hosts"]:
        lines.append(f"{host['host']} ({host['device']}): {host['load']:.1%} of the load")
        for name, label in (("pinned", "pinned"), ("awake", "awake"), ("asleep", "asleep or cold")):
            if host[name]:
                lines.append(f"  {label}: {', '.join(host[name])}")
    proof = "no plan costs less" if figures["optimal"] else f"none costs less than {figures['bound']:.4f}"
    return "\n".join([*lines, f"cost {figures['objective']:.4f} ({figures['status']}: {proof})"])
