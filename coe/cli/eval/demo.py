"""``coe eval demo``: the shipped specialists, measured through the API."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from coe.cli._client import ServiceClient
from coe.cli._options import PATH, json_file_option, write_json
from coe.cli._progress import collected

if TYPE_CHECKING:
    from coe.eval.demo.demo import Asking


@click.command()
@click.option("--url", default="http://127.0.0.1:8000", help="A running `coe serve`.")
@click.option("--per-skill", default=25, help="Held-out questions of each skill.")
@click.option("--concurrency", default=16, help="Questions asked at once.")
@click.option("--routed", default="coe", help="The model name that routes.")
@click.option("--record", type=PATH, help="JSONL file of answers; a second run continues from it.")
@json_file_option
@click.option("--only", help="Ask this model alone, and print its accuracy on each skill.")
@click.option(
    "--lenient", is_flag=True, help="Count an answer as right when it stands anywhere in 64 tokens."
)
@click.option(
    "--conversations",
    is_flag=True,
    help="Where more than a thousand conversations by rule are routed, by kind; no expert is asked.",
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
    conversations: bool,
) -> None:
    """Compare coe on held-out demo questions with each expert, the best one, a random one, an oracle."""
    from coe.demo.skills import all_skills
    from coe.eval.demo.demo import Asking, by_skill, headline, run_demo, summarise, table

    asking = Asking(url.rstrip("/"), concurrency, record, lenient=lenient)
    if conversations:
        _route_conversations(asking, json_out)
        return
    models = _models(asking.url, only or routed)[: 1 if only else None]
    total = len(models) * per_skill * len(all_skills())
    answers = run_demo(asking, models, per_skill)
    graded = asyncio.run(collected(answers, total, lambda one: one.model, asking.url))
    if only:
        click.echo("\n".join(by_skill(graded)))
        return
    summary = summarise(graded, routed)
    click.echo("\n".join(headline(summary)))
    click.echo("\n" + table(summary))
    write_json(json_out, asdict(summary))


def _route_conversations(asking: Asking, json_out: Path | None) -> None:
    from coe.eval.demo.conversations import conversations, lines, route_all, shares

    asked = conversations("test")
    rows = route_all(asked, asking)
    sent = asyncio.run(collected(rows, len(asked), lambda one: one.conversation.kind, asking.url))
    found = shares(sent)
    click.echo("\n".join(lines(found)))
    write_json(json_out, asdict(found))


def _models(url: str, routed: str) -> list[str]:
    """The routed model, then every expert, as the service lists them."""
    listed = [model["id"] for model in ServiceClient(url).get("/v1/models")["data"]]
    if routed not in listed:
        raise click.ClickException(f"the service has no model {routed!r}; it has {', '.join(listed)}")
    return [routed] + [name for name in listed if name != routed]
