"""``coe experts profile``: learn what an expert can do, and keep it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from coe.cli._group import Failed
from coe.cli._options import json_option, registry_option

if TYPE_CHECKING:
    from coe.profiles.profile import ExpertProfile


@click.command()
@click.argument("expert_id", metavar="ID")
@click.option(
    "--from", "folder", type=click.Path(path_type=Path), required=True,
    help="Outcome set: questions, and which expert answered them rightly.",
)  # fmt: skip
@click.option("--probes", type=click.IntRange(min=1), help="Use so many questions; the rest is estimated.")
@click.option("--split", help="Learn from this split only (never a held-out one).")
@click.option("--design", type=click.Choice(["adaptive", "random"]), default="random", show_default=True)
@click.option("--seed", default=0, show_default=True)
@registry_option
@json_option
def main(
    expert_id: str,
    folder: Path,
    probes: int | None,
    split: str | None,
    design: Any,
    seed: int,
    registry: Path,
    as_json: bool,
) -> None:
    """Make the profile of the expert ID and write it to the registry's own folder of profiles."""
    from coe.profiles.joining import Probes, profile_recorded, read_recorded
    from coe.registry.load import load_registry

    loaded = load_registry(registry)
    expert = loaded.expert(expert_id)
    if expert is None:
        raise Failed(f'{registry} has no expert "{expert_id}"', "See `coe experts list`.")
    root, data = registry.resolve().parent, read_recorded(folder, split)
    profile = profile_recorded(loaded, root, expert, data, Probes(probes, design, seed))
    click.echo(
        json.dumps(summary(profile), indent=1) if as_json else "\n".join(readable(profile))
    )  # fmt: skip


def summary(profile: ExpertProfile) -> dict[str, Any]:
    """Without the outcomes, which are for routers."""
    return profile.model_dump(mode="json", exclude={"outcomes", "estimate"})


def readable(profile: ExpertProfile) -> list[str]:
    """Overall, then each category with its interval; estimates where only some questions were asked."""
    overall = profile.overall
    lines = [
        f"{profile.expert}: {overall.mean:.3f} [{overall.low:.3f}, {overall.high:.3f}] "
        f"on {overall.count:g} questions of {profile.provenance.source} ({profile.provenance.date})"
    ]
    shown = profile.estimated or profile.categories
    if profile.estimated:
        lines.append("estimated from them, by category (95% interval, questions asked):")
    width = max((len(name) for name in shown), default=0)
    lines += [
        f"  {name:<{width}}  {tally.mean:.3f} [{tally.low:.3f}, {tally.high:.3f}]  {tally.count:g}"
        for name, tally in shown.items()
    ]
    return lines
