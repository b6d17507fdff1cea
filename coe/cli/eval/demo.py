"""``coe eval demo``: the shipped specialists, measured through the API."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from coe.cli._options import PATH
from coe.cli.eval._progress import answering, collected

if TYPE_CHECKING:
    from coe.eval.demo.demo import Asking, Graded


@click.command()
@click.option("--url", default="http://127.0.0.1:8000", help="A running `coe serve`.")
@click.option("--per-skill", default=25, help="Held-out questions of each skill.")
@click.option("--concurrency", default=16, help="Questions asked at once.")
@click.option("--routed", default="coe", help="The model name that routes.")
@click.option("--record", type=PATH, help="JSONL file of answers; a second run continues from it.")
@click.option("--json", "json_out", type=PATH, help="Write the figures to this file.")
@click.option("--only", help="Ask this model alone, and print its accuracy on each skill.")
@click.option(
    "--lenient", is_flag=True, help="Count an answer as right when it stands anywhere in 64 tokens."
)
def main(
    url: str,
    per_skill: int,
    concurrency: int,
    routed: str,
    record: Path | None,
    json_out: Path | None,
    only: str | None,
    lenient: bool,
) -> None:
    """Compare coe on held-out demo questions with each expert, the best one, a random one, an oracle."""
    from coe.eval.demo.demo import Asking, by_skill, headline, summarise, table

    asking = Asking(url.rstrip("/"), concurrency, record, lenient=lenient)
    graded = asyncio.run(_collect(asking, only or routed, per_skill, alone=only is not None))
    if only:
        click.echo("\n".join(by_skill(graded)))
        return
    summary = summarise(graded, routed)
    click.echo("\n".join(headline(summary)))
    click.echo("\n" + table(summary))
    if json_out:
        json_out.write_text(json.dumps(asdict(summary), indent=1))


async def _collect(asking: Asking, first: str, per_skill: int, alone: bool) -> list[Graded]:
    from coe.demo.skills import all_skills
    from coe.eval.demo.demo import run_demo

    with answering(asking.url):
        models = (await _models(asking.url, first))[: 1 if alone else None]
    total = len(models) * per_skill * len(all_skills())
    return await collected(run_demo(asking, models, per_skill), total, lambda one: one.model, asking.url)


async def _models(url: str, routed: str) -> list[str]:
    """The routed model, then every expert, as the service lists them."""
    import aiohttp

    async with aiohttp.ClientSession() as session, session.get(f"{url}/v1/models") as response:
        listed = [model["id"] for model in (await response.json())["data"]]
    if routed not in listed:
        raise click.ClickException(f"the service has no model {routed!r}; it has {', '.join(listed)}")
    return [routed] + [name for name in listed if name != routed]
