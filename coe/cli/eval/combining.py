"""``coe eval combining``: how several recorded answers become one, compared over several seeds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from coe.cli._options import PATH, json_file_option, write_json


@click.command()
@click.option("--outcomes", type=PATH, required=True, help="Folder of an outcome set.")
@click.option("--pool", help="Experts, separated by commas (quote a name that has one). [default: all]")
@click.option("--router", default="skill", help="Router that chooses the experts.")
@click.option("--experts-per-query", default="3,5", help="Numbers of experts, separated by commas.")
@click.option(
    "--mean-experts",
    default=2.28,
    help="For ways that decide how many: experts a question, on average over learning questions.",
)
@click.option(
    "--ablation",
    "with_ablation",
    is_flag=True,
    help="Also measure with parts left out, and with fewer learning questions.",
)
@click.option("--seeds", default="0", help="Seeds of the folds, such as 0,1,2.")
@click.option("--folds", default=5, help="Folds of cross-validation.")
@click.option("--encoder", default="minilm-int8", help="Sentence encoder of the questions.")
@click.option("--fits", type=PATH, help="Folder of fitted models, shared by runs on the same data.")
@json_file_option
def main(
    pool: str | None,
    router: str,
    experts_per_query: str,
    mean_experts: float,
    with_ablation: bool,
    seeds: str,
    json_out: Path | None,
    **options: Any,
) -> None:
    """Compare ways to combine the answers of a router's experts.

    They are votes, the learned combiner with a fixed number of experts, and the learned combiner that asks
    one expert after another until the next answer is not worth its price.
    """
    from coe.cli._options import numbers
    from coe.eval.recorded.run import Settings, listed, open_study
    from coe.eval.recorded.ways import ablation, compared, figures, table, usual_ways

    counts = numbers(experts_per_query, "--experts-per-query")
    experts = listed(pool or "")
    study = open_study(Settings(pool=experts, routers=(router,), experts_per_query=counts, **options))
    studies = [study.reseeded(seed) for seed in numbers(seeds, "--seeds")]
    ways = usual_ways(counts, mean_experts)
    if with_ablation:
        ways += [way for count in counts for way in ablation(count)]
    rows = compared(studies, router, ways)
    click.echo(table(rows))
    meta = {"router": router, "seeds": seeds, "outcomes": options["outcomes"].name}
    write_json(json_out, figures(rows, {**meta, **{key: options[key] for key in ("folds", "encoder")}}))
