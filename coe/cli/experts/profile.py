"""``coe experts profile``: learn what an expert can do, and keep it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from coe.cli._client import ServiceClient, service_client
from coe.cli._group import Failed
from coe.cli._options import PATH, json_option, registry_option, url_option

if TYPE_CHECKING:
    from coe.outcomes.statistics import Share
    from coe.profiles.profile import ExpertProfile


@click.command()
@click.argument("expert_id", metavar="[ID]", required=False)
@click.option(
    "--from", "folder", type=PATH,
    help="Outcome set: questions, and which experts answered them correctly."
)  # fmt: skip
@click.option(
    "--aggregation", is_flag=True, help="Measure how well an expert picks the right one of several answers."
)
@click.option("--combiner", is_flag=True, help="Train the aggregator learned on the answers of --from.")
@click.option(
    "--items", type=PATH, help="With --aggregation: JSONL file of questions. [default: demo questions]"
)
@click.option("--per-skill", default=4, help="With --aggregation: demo questions of each skill.")
@click.option(
    "--record", type=PATH, help="With --aggregation: JSONL file of answers; a second run continues from it."
)
@url_option
@click.option("--ask", is_flag=True, help="Ask the expert the questions of --from, through --url.")
@click.option("--model", help="With --ask: model name of the expert at --url. [default: ID]")
@click.option("--probes", type=click.IntRange(min=1), help="Use this many questions, and estimate the rest.")
@click.option("--split", help="Learn from this split only (never a held-out one).")
@click.option(
    "--design",
    type=click.Choice(["adaptive", "random"]),
    default="adaptive",
    help="How --probes chooses the questions.",
)
@click.option("--seed", default=0, help="Seed for choosing the questions.")
@registry_option
@json_option
def main(
    expert_id: str | None,
    folder: Path | None,
    aggregation: bool,
    combiner: bool,
    items: Path | None,
    per_skill: int,
    record: Path | None,
    url: str | None,
    ca: Path | None,
    ask: bool,
    model: str | None,
    probes: int | None,
    split: str | None,
    design: Any,
    seed: int,
    registry: Path,
    as_json: bool,
) -> None:
    """Make the profile of expert ID, in the registry's own folder of profiles.

    \b
    --from DIR            from the recorded outcomes of DIR
    --from DIR --ask      from its answers to questions of DIR: 200, or --probes;
                          a second run continues from the answers it has
    --aggregation         add how often it picks the right one of three answers,
                          through a running service; without ID for each expert
    --from DIR --combiner train the aggregator learned on the recorded answers of
                          all experts, and write it next to the profiles
    """
    if aggregation:
        from coe.cli.experts._aggregation import ask_and_keep
        from coe.cli.experts._aggregation import readable as ranked

        found = ask_and_keep(registry, expert_id, service_client(url, ca, registry), items, per_skill, record)
        click.echo(json.dumps(plain(found), indent=1) if as_json else "\n".join(ranked(found)))
        return
    if combiner:
        from coe.cli.experts._combiner import teach

        if folder is None or expert_id is not None:
            raise click.UsageError("--combiner takes --from FOLDER and no ID")
        click.echo(teach(registry, folder, split, as_json))
        return
    if expert_id is None or folder is None:
        raise click.UsageError("give an expert's ID and --from FOLDER, or --aggregation, or --combiner")
    asked = (service_client(url, ca, registry), model or "") if ask else None
    profile = _learned(registry, expert_id, folder, split, (probes, design, seed), asked)
    click.echo(
        json.dumps(summary(profile), indent=1) if as_json else "\n".join(readable(profile))
    )  # fmt: skip


def _learned(
    registry: Path,
    expert_id: str,
    folder: Path,
    split: str | None,
    how: tuple[int | None, Any, int],
    asked: tuple[ServiceClient, str] | None,
) -> ExpertProfile:
    """From recorded outcomes in ``folder``, or by asking: ``asked`` is where, and the name of the model."""
    from coe.core.files import folder_of
    from coe.onboarding.profiler import Probes, profile_asked, profile_recorded, read_recorded
    from coe.service.registry_file import load_registry

    loaded = load_registry(registry)
    expert = loaded.expert(expert_id)
    if expert is None:
        raise Failed(f'{registry} has no expert "{expert_id}"', "See `coe experts list`.")
    root, data = folder_of(registry), read_recorded(folder, split)
    if asked is None:
        return profile_recorded(loaded, root, expert, data, Probes(*how))
    service, model = asked
    return profile_asked(loaded, root, expert, data, service.url, Probes(*how), model, service.trust)


def plain(found: dict[str, dict[str, Share]]) -> dict[str, Any]:
    """Shares as JSON."""
    return {
        expert: {category: {"right": s.right, "total": s.total} for category, s in by_category.items()}
        for expert, by_category in found.items()
    }


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
    lines += [f"warning: {profile.caution}"] if profile.caution else []
    shown = profile.estimated or profile.categories
    if profile.estimated:
        lines.append("estimated from them, by category (95% interval, questions asked):")
    width = max((len(name) for name in shown), default=0)
    lines += [
        f"  {name:<{width}}  {tally.mean:.3f} [{tally.low:.3f}, {tally.high:.3f}]  {tally.count:g}"
        for name, tally in shown.items()
    ]
    return lines
