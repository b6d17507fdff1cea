"""``coe experts add``: experts join, if need be while the service runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from coe.cli._admin import AdminAddress, admin_option, on_file, outcome, through_admin
from coe.cli._group import Failed
from coe.cli._options import PATH, json_option, registry_option
from coe.cli.experts._outcomes import Lesson, guessed_entry, profiles_from
from coe.cli.experts.profile import readable, summary

if TYPE_CHECKING:
    from coe.onboarding.onboarding import Onboarding

_SUFFIXES = (".yaml", ".yml", ".json")


@click.command()
@click.argument("what", nargs=-1, required=True)
@click.option("--on", "host", help="For an ID: the host under pool.hosts that it runs on.")
@click.option("--model", help="For an ID: its folder, hub id, or name on a remote host.")
@click.option("--adapter", help="For an ID: its LoRA folder.")
@click.option("--card", help="For an ID: one sentence on what it is best at.")
@click.option("--skill", "skills", multiple=True, help="For an ID: a category that it covers; repeatable.")
@click.option("--memory-gb", type=float, help="For an ID: memory of its weights, in GB (swap: sleep).")
@click.option("--general", is_flag=True, help="For an ID: it takes what no specialist covers.")
@click.option("--shadow", is_flag=True, help="Admit as a shadow: no router chooses it.")
@click.option(
    "--profile", is_flag=True, help="First ask them the questions of `probes`, to make their profiles."
)
@click.option("--outcomes", type=PATH, help="Outcome set with their answers, to make their profiles.")
@click.option(
    "--probes", type=click.IntRange(min=1), help="With --outcomes: use this many answers. [default: all]"
)
@click.option("--split", help="With --outcomes: split to learn from; held-out ones are refused.")
@click.option("--seed", default=0, help="With --probes: seed for choosing the questions.")
@registry_option
@admin_option
@json_option
def main(
    what: tuple[str, ...],
    shadow: bool,
    profile: bool,
    outcomes: Path | None,
    probes: int | None,
    split: str | None,
    seed: int,
    registry: Path,
    admin: AdminAddress,
    as_json: bool,
    **fields: Any,
) -> None:
    """Add the experts of YAML files, or one expert by its ID and options.

    The entries are validated. The regression gate compares the routing with and without the new experts.
    They join as routed experts, or as shadows where the gate refuses them.
    """
    entries = [entry for each in what for entry in _entries(each, fields, registry if outcomes else None)]
    if not as_json:
        click.echo(f"adding {', '.join(str(entry['id']) for entry in entries)}", err=True)
    learned = profiles_from(registry, entries, Lesson(outcomes, probes, seed, split)) if outcomes else []
    body = {"experts": entries, "shadow": shadow, "profile": profile}

    async def join(onboarding: Onboarding) -> Any:
        return await onboarding.add(entries, shadow, profile)

    done = through_admin(
        registry,
        admin,
        lambda client: client.post("/admin/experts", body),
        lambda: on_file(registry, join),
    )
    if as_json:
        shown = {"profiles": [summary(each) for each in learned]} if learned else {}
        click.echo(json.dumps({**done, **shown}, indent=1))
    else:
        click.echo(
            "\n".join([*(line for each in learned for line in readable(each)), outcome(done, "added")])
        )


def _entries(what: str, fields: Mapping[str, Any], registry: Path | None) -> list[dict[str, Any]]:
    """``registry``: where host and model are guessed from when they are not given; None: not at all."""
    path = Path(what)
    if path.suffix in _SUFFIXES or path.is_file():
        from coe.registry.edit import read_entries
        from coe.registry.source import read_text

        return [dict(entry) for entry in read_entries(read_text(path), what)]
    if registry is not None:
        given = {key: value for key, value in fields.items() if value is not None}
        fields = {**guessed_entry(what, registry, given.get("host")), **given}
    elif fields["host"] is None or fields["model"] is None:
        raise Failed(
            f'"{what}" is not a file, and as an id it needs --on HOST and --model MODEL',
            "Name a YAML file with its entry, or give these two options.",
        )
    given = {
        key: list(value) if isinstance(value, tuple) else value for key, value in fields.items() if value
    }
    return [{"id": what, **given}]
