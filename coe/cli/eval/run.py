"""``coe eval run``: a task asked live, resumable."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from coe.cli._options import PATH

if TYPE_CHECKING:
    from coe.aggregators.votes import Dependence
    from coe.eval.live.plan import Settings
    from coe.eval.live.records import Summary
    from coe.eval.live.run import Progress
    from coe.eval.live.session import Order
    from coe.eval.live.task import Task


@click.command()
@click.argument("task")
@click.option("--url", default="http://127.0.0.1:8000", help="Any OpenAI-compatible API.")
@click.option("--out", type=PATH, required=True, help="Folder of the run; the same command continues it.")
@click.option("--data", help="File or folder of the task's data, or hub, or hub:ORG/NAME.")
@click.option(
    "--password-env", default="GPQA_PASSWORD", help="Environment variable with a zip file's password."
)
@click.option("--model", default="coe", help="Model name to ask.")
@click.option("--limit", type=click.IntRange(1), help="Ask only this many questions, drawn by --seed.")
@click.option("--seed", default=0, help="Seed for drawing questions and shuffling options.")
@click.option("--concurrency", type=click.IntRange(1), default=8, help="Questions asked at once.")
@click.option("--router", help="Router of the service to use.")
@click.option(
    "--experts", type=click.IntRange(1), help="Experts a question; the service combines their answers."
)
@click.option("--aggregate", help="Aggregator of the service to use.")
@click.option(
    "--recruit",
    type=click.IntRange(1),
    help="Ask this many of the service's best-ranked experts; combine here.",
)
@click.option("--grouped", is_flag=True, help="Route all questions first, then ask expert by expert.")
@click.option(
    "--aggregator", default="weighted_vote", help="With --recruit: vote, weighted_vote or synthesise:EXPERT."
)
@click.option("--samples", type=click.IntRange(1), default=1, help="Answers of each model; a vote decides.")
@click.option("--temperature", type=click.FloatRange(0, 2), help="Temperature instead of the task's.")
@click.option("--max-tokens", type=click.IntRange(1), help="Longest answer instead of the task's.")
@click.option("--registry", type=PATH, help="experts.yaml whose profiles tell which experts err together.")
@click.option("--prices", type=PATH, help="Prices: experts.yaml, or a CSV file as in an outcome set.")
@click.option("--api-key-env", default="OPENAI_API_KEY", help="Environment variable with the API key.")
@click.option("--timeout", "timeout_s", default=600.0, help="Longest time for one answer, in seconds.")
@click.option("--encoder", type=PATH, help="For a retrieval task: a local encoder instead of --url.")
@click.option("--report", type=PATH, help="Write an HTML page about the run.")
def main(task: str, out: Path, report: Path | None, **options: Any) -> None:
    """Ask a service the questions of TASK (a shipped task or a .toml file), grade the answers, report.

    The figures go to stdout; records.jsonl, records.parquet and summary.json go into --out. Every answer is
    on disk before the next question is asked, so the same command continues an interrupted run. One Ctrl-C
    finishes the questions under way. docs/howto/evaluation.md explains tasks, modes and figures.
    """
    from coe.eval.live.task import load_task
    from coe.eval.report.tables import summary_table

    loaded = load_task(task)
    if loaded.data.kind == "beir":
        from coe.cli.eval._retrieval import run_retrieval

        run_retrieval(loaded, out, options)
        return
    order = _order(loaded, options)
    summary = asyncio.run(_run(order, out))
    _warn(summary)
    click.echo(summary_table([summary]))
    if report:
        from coe.eval.report.live import write_live_report

        write_live_report(out, report)


def _order(task: Task, options: Mapping[str, Any]) -> Order:
    from coe.eval.live.prices import read_prices
    from coe.eval.live.questions import Source
    from coe.eval.live.service import Address
    from coe.eval.live.session import Order

    password = os.environ.get(options["password_env"])
    return Order(
        task,
        Source(options["data"], password, options["limit"], options["seed"]),
        _settings(options),
        Address(options["url"], options["api_key_env"], options["timeout_s"], private=task.data.withheld),
        read_prices(options["prices"]),
        options["concurrency"],
        _dependence(options["registry"]),
    )


def _dependence(registry: Path | None) -> Dependence | None:
    """What the service's own weighted_vote learns from the profiles of this registry."""
    from coe.aggregators.votes import Dependence
    from coe.profiles.evidence import evidence_of
    from coe.profiles.store import open_store
    from coe.service.registry_file import load_registry

    if registry is None:
        return None
    read = load_registry(registry)
    evidence = evidence_of(open_store(read, registry.parent), read.routed)
    return None if evidence is None else Dependence.fit(evidence.experts, evidence.scores)


def _settings(options: Mapping[str, Any]) -> Settings:
    from coe.eval.live.plan import Settings

    names = (
        "model",
        "router",
        "experts",
        "aggregate",
        "grouped",
        "aggregator",
        "samples",
        "temperature",
        "max_tokens",
    )
    recruit = options["recruit"] or int(options["grouped"])
    return Settings(recruit=recruit, **{name: options[name] for name in names})


async def _run(order: Order, out: Path) -> Summary:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from coe.eval.live.session import run_session

    columns = (
        TextColumn("{task.fields[stage]}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[expert]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        progress = _shown(bar)
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, _interrupted(progress))
        return await run_session(order, out, progress)


def _shown(bar: Any) -> Progress:
    from coe.eval.live.run import Progress

    stage = bar.add_task("", total=1, stage="", expert="")

    def started(name: str, total: int) -> None:
        bar.reset(stage, total=total, stage=name, expert="")

    def advanced(expert: str) -> None:
        bar.update(stage, advance=1, expert=expert)

    return Progress(started, advanced)


def _interrupted(progress: Progress) -> Any:
    def signalled() -> None:
        if progress.stop.is_set():
            raise KeyboardInterrupt
        progress.stop.set()
        click.echo("finishing what is under way; Ctrl-C again drops it", err=True)

    return signalled


def _warn(summary: Summary) -> None:
    left = summary.wanted - summary.questions
    if left:
        click.echo(f"{left} questions were not asked; the same command continues", err=True)
    if summary.failed:
        click.echo(
            f"{summary.failed} questions failed and count as wrong; the same command asks them again",
            err=True,
        )
