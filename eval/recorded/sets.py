"""Routers over several outcome sets and seeds, with one correction for all of them.

    python -m coe.eval.recorded.sets DATA --out DIR [--sets pool-a,gpqa] [--seeds 0,1,2,3,4] [--routers
    blend,...]
        [--seeds-of pool-a=0,1,2,3,4]

Every set is kept in ``DIR/NAME.json``, and each seed of it in ``DIR/seeds``, as it is done: an interrupted
run goes on where it was, and the table is of all sets that stand there. Other options need another DIR. With
``--learn-share 0.25`` a router learns from a quarter of its learning questions: a point of a learning curve.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import click
import numpy as np

from coe.core.errors import ConfigError
from coe.core.suggest import suggest
from coe.core.types import ExpertId
from coe.eval.recorded.cascading import alone, curve
from coe.eval.recorded.folds import cross_folds, thinned
from coe.eval.recorded.methods import BASELINES, STATIC
from coe.eval.recorded.pools import POOL_A, POOL_B, POOL_C
from coe.eval.recorded.report import DEFAULT
from coe.eval.recorded.run import Settings, listed, open_study
from coe.eval.recorded.study import Study
from coe.eval.recorded.tradeoff import KEPT_SHARE, unread_share
from coe.eval.statistics import holm, paired_bootstrap
from coe.outcomes.outcome_set import Floats, read_outcomes

UNCERTAIN = ("fork", "unknown", "unverified")
"""Words in the names of experts whose identity is not certain."""


@dataclass(frozen=True)
class Part:
    """An outcome set, or a pool of it; ``pool`` empty: all experts of certain identity."""

    folder: str
    pool: tuple[ExpertId, ...] = ()


PARTS: Mapping[str, Part] = MappingProxyType(
    {
        "pool-a": Part("mmlu_pro", POOL_A),
        "pool-b": Part("mmlu_pro", POOL_B),
        "pool-c": Part("mmlu_pro", POOL_C),
        "mmlu_pro": Part("mmlu_pro"),
        "open_llm_v2": Part("open_llm_v2"),
        "gpqa": Part("gpqa"),
        "routellm_mmlu": Part("routellm_mmlu"),
        "routellm_gsm8k": Part("routellm_gsm8k"),
        "ulab_llmrouter": Part("ulab_llmrouter"),
    }
)


@dataclass(frozen=True)
class Line:
    """One router on one set: accuracy, and the gain over the best single expert with its 95% interval.

    Numbers are means over seeds; the interval is of questions, each with its mean over seeds.
    ``cost_share`` is the least cost at 95% of the best single expert's accuracy over that expert's cost.
    """

    router: str
    accuracy: float
    gain: float
    low: float
    high: float
    p: float
    gains: tuple[float, ...]
    cost_share: float | None


@dataclass(frozen=True)
class _Seed:
    """What one seed found: scores (n,) by router, and shares of the cost by router."""

    scores: Mapping[str, Floats]
    shares: Mapping[str, float | None]
    unread: float | None
    category_oracle: float
    chosen: tuple[str, ...]


def settings_of(part: Part, data: Path, routers: Sequence[str], encoder: str, fits: Path | None) -> Settings:
    outcomes = data / "outcomes" / part.folder
    pool = part.pool or certain(read_outcomes(outcomes).experts)
    return Settings(outcomes, pool, tuple(routers), encoder=encoder, fits=fits)


def measure(settings: Settings, seeds: Sequence[int], learn_share: float, kept: Path) -> dict[str, Any]:
    """The set's document: references and one line a router, the default among them. Blocking: minutes.

    What a seed found is kept in the folder ``kept``, so that an interrupted run goes on where it was.
    """
    study, found = open_study(settings), []
    for seed in seeds:  # one study after the other: the fits of a seed are large
        if not (kept / f"{seed}.json").exists():
            folds = cross_folds(study.outcomes.questions, len(study.plan.folds), seed)
            _keep(_measured(study.with_folds(thinned(folds, learn_share, seed), seed)), kept / f"{seed}.json")
        found.append(_read(kept / f"{seed}.json"))
    return {
        "experts": len(settings.pool),
        "questions": len(study.rows),
        "seeds": list(seeds),
        "encoder": settings.encoder,
        "learned_from": round(len(study.plan.folds[0].train) * learn_share),
        "best_single": float(_over_seeds(found, STATIC).mean()),
        "category_oracle": float(np.mean([one.category_oracle for one in found])),
        "oracle": float(study.oracle().mean()),
        "unread_share": _mean_share([one.unread for one in found]),
        "lines": [asdict(_line(router, found)) for router in (*settings.routers, DEFAULT)],
        "default": sorted({name for one in found for name in one.chosen}),
    }


def _measured(study: Study) -> _Seed:
    routers = [router for router in study.plan.routers if router not in BASELINES]
    asked = {router: alone(study, router).scores for router in (*study.plan.routers, STATIC)}
    return _Seed(
        scores=asked | {DEFAULT: study.default(1).scores},
        shares={router: curve(study, router).share for router in routers},
        unread=unread_share(study),
        category_oracle=float(study.category_oracle().mean()),
        chosen=tuple(choice.router for choice in study.default_choices(1)),
    )


def certain(experts: Sequence[ExpertId]) -> tuple[ExpertId, ...]:
    """Those whose name does not say that their identity is doubtful."""
    return tuple(expert for expert in experts if not any(word in expert for word in UNCERTAIN))


def _keep(seed: _Seed, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    scores = {router: found.tolist() for router, found in seed.scores.items()}
    file.write_text(json.dumps(asdict(replace(seed, scores=scores))))


def _read(file: Path) -> _Seed:
    read = json.loads(file.read_text())
    return _Seed(**read | {"scores": {router: np.asarray(s) for router, s in read["scores"].items()}})


def _line(router: str, found: Sequence[_Seed]) -> Line:
    scores = _over_seeds(found, router)
    tested = paired_bootstrap(scores, _over_seeds(found, STATIC))
    return Line(
        router=router,
        accuracy=float(scores.mean()),
        gain=tested.mean,
        low=tested.low,
        high=tested.high,
        p=tested.p,
        gains=tuple(float((one.scores[router] - one.scores[STATIC]).mean()) for one in found),
        cost_share=_mean_share([one.shares.get(router) for one in found]),
    )


def _over_seeds(found: Sequence[_Seed], router: str) -> Floats:
    """(n,) mean scores: every seed asks the same questions in the same order."""
    means: Floats = np.mean([one.scores[router] for one in found], axis=0)
    return means


def _mean_share(shares: Sequence[float | None]) -> float | None:
    """None where one seed has none."""
    known = [share for share in shares if share is not None]
    return float(np.mean(known)) if known and len(known) == len(shares) else None


def table(documents: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown: one row a set and router, p values of the default corrected over all sets (Holm).

    The last two columns: the least cost at 95% of the best single expert's accuracy, in percent of that
    expert's cost, by the router and by drawing experts without reading the question.
    """
    adjusted = holm({name: _default(document)["p"] for name, document in documents.items()})
    head = ["set", "experts", "questions", "seeds", "encoder", "best single", "router", "accuracy",
            "to best single", "p", "p (Holm)", f"cost at {100 * KEPT_SHARE:.0f}%", "unread"]  # fmt: skip
    rows = [head, ["---"] * len(head)]
    for name, document in documents.items():
        counts = [document["experts"], document["questions"], len(document["seeds"])]
        about = [name, *counts, document["encoder"], _percent(document["best_single"])]
        for line in document["lines"]:
            is_default = line["router"] == DEFAULT
            cells = _cells(line, adjusted[name] if is_default else None)
            rows.append([*map(str, about), *cells, _percent(document["unread_share"])])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _cells(line: Mapping[str, Any], adjusted: float | None) -> list[str]:
    return [
        line["router"],
        _percent(line["accuracy"]),
        f"{100 * line['gain']:+.2f} [{100 * line['low']:+.2f}, {100 * line['high']:+.2f}]",
        f"{line['p']:.4f}",
        "" if adjusted is None else f"{adjusted:.4f}",
        _percent(line["cost_share"]),
    ]


def _default(document: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = next(line for line in document["lines"] if line["router"] == DEFAULT)
    return found


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}"


@click.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of NAME.json.")
@click.option("--sets", "names", default=",".join(PARTS), show_default=True)
@click.option("--routers", default="static,knn,category,linear,traits,blend", show_default=True)
@click.option("--seeds", default="0,1,2,3,4", show_default=True)
@click.option("--seeds-of", multiple=True, metavar="SET=SEEDS", help="Other seeds for this set.")
@click.option("--encoder", default="minilm-int8", show_default=True)
@click.option("--learn-share", default=1.0, show_default=True, help="Of the learning questions of each fold.")
@click.option(
    "--fits", type=click.Path(path_type=Path), help="Folder of fits that runs on the same data share."
)
def main(
    data: Path,
    out: Path,
    names: str,
    routers: str,
    seeds: str,
    seeds_of: tuple[str, ...],
    encoder: str,
    learn_share: float,
    fits: Path | None,
) -> None:
    """Measure routers on several outcome sets; the default's p values are corrected over all of them."""
    others = dict(each.partition("=")[::2] for each in seeds_of)
    for name in (*listed(names), *others):
        if name not in PARTS:
            raise ConfigError(f'there is no set "{name}"; {suggest(name, PARTS)}')
    for name in listed(names):
        numbers = [int(seed) for seed in listed(others.get(name, seeds))]
        settings = settings_of(PARTS[name], data, listed(routers), encoder, fits)
        document = measure(settings, numbers, learn_share, out / "seeds" / name)
        (out / f"{name}.json").write_text(json.dumps(document, indent=1))
        click.echo(f"{name}: done", err=True)
    kept = {name: out / f"{name}.json" for name in PARTS}
    click.echo(table({name: json.loads(path.read_text()) for name, path in kept.items() if path.exists()}))


if __name__ == "__main__":
    main()
