"""``coe simulate``: the scheduler in virtual time, on a trace of requests."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from coe.cli._options import PATH

Value = TypeVar("Value", int, float)

FORMATS = ("azure", "mooncake", "csv")


def _numbers(kind: Callable[[str], Value], example: str) -> Callable[..., tuple[Value, ...]]:
    """A click callback for numbers between commas."""

    def parse(_context: click.Context, _option: click.Parameter, text: str | None) -> tuple[Value, ...]:
        try:
            return tuple(kind(part) for part in (text or "").split(",") if part.strip())
        except ValueError:
            raise click.BadParameter(
                f"{text!r} is not numbers between commas, for example {example}"
            ) from None

    return parse


def _names(_context: click.Context, _option: click.Parameter, text: str | None) -> tuple[str, ...]:
    from coe.scheduler.policies import split_policies

    return split_policies(text or "")


@click.command()
@click.option(
    "--trace", required=True, help="Trace file, or synthetic:poisson|bursty|diurnal:n=10000,rate=2."
)
@click.option(
    "--format",
    "trace_format",
    type=click.Choice(FORMATS),
    help="Format of the file. [default: recognised by its content]",
)
@click.option(
    "--assign",
    "assignment",
    help="Expert of each request: zipf:S or column:NAME. [default: the column expert, else zipf:1.0]",
)
@click.option("--experts", type=int, help="Number of experts, for zipf. [default: 16]")
@click.option(
    "--slots",
    callback=_numbers(int, "1,2,4"),
    help="Numbers of slots, each with one expert in memory. [default: 2]",
)
@click.option("--registry", type=PATH, help="Take hosts and experts from this experts.yaml.")
@click.option(
    "--preset", help="Hardware: h100, a100, sn40l or cpu. [default: h100, or cpu where --registry says so]"
)
@click.option(
    "--load",
    "loads",
    callback=_numbers(float, ".3,.6,.9"),
    help="Loads: work divided by capacity without swaps. [default: as recorded]",
)
@click.option(
    "--slo", "slo_s", type=float, default=20.0, help="Objective: seconds from arrival to the last token."
)
@click.option(
    "--policies", callback=_names, help="Policies; coe[-prefetch] is coe without prefetch. [default: all]"
)
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Seed for what is drawn.")
@click.option("--max-batch", type=int, default=16, help="Requests that a slot serves at once.")
@click.option("--load-batch", type=int, help="Load 1 is full slots with this batch. [default: measured]")
@click.option("--exact-limit", type=float, default=10.0, help="Most effort of the exact solver; 0: off.")
@click.option(
    "--replan", "replan_s", type=float, help="Place the experts again every N seconds. [default: never]"
)
@click.option(
    "--json",
    "json_out",
    type=click.Path(path_type=Path, allow_dash=True),
    help="Write the figures to this file; - is stdout.",
)
@click.option("--report", type=PATH, help="Write an HTML page, with its plots as PNG files beside it.")
def main(registry: Path | None, json_out: Path | None, report: Path | None, **options: Any) -> None:
    """Compare scheduling policies on a trace in virtual time: goodput, latency, swaps, bounds.

    --load, --slots and --policies take several values, separated by commas.
    docs/howto/simulate.md explains formats, model and figures.
    """
    from coe.service.registry_file import load_registry
    from coe.simulate.report import as_json, as_text, write_report
    from coe.simulate.study import StudyPlan, run_study

    loaded = load_registry(registry) if registry else None
    plan = StudyPlan(registry=loaded, folder=registry.parent if registry else Path(), **options)
    study = run_study(plan, progress=lambda text: click.echo(text, err=True))
    figures = json.dumps(as_json(study), indent=1)
    to_stdout = str(json_out) == "-"
    click.echo(figures if to_stdout else as_text(study))
    if json_out and not to_stdout:
        json_out.write_text(figures + "\n", encoding="utf-8")
    if report:
        picture = write_report(study, report)
        click.echo(f"wrote {report} and {picture}", err=True)
