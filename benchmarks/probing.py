"""How much of an expert a few answers tell: ``python -m benchmarks.probing --outcomes DIR [--pool a,b,...]``.

Each expert of the pool whose full profile brings something (its gain's interval excludes 0) is left out and
added back with some of its answers on the training folds, chosen adaptively or at random; all else is known
in full. Two figures for each number of answers:

- the mean absolute error of its estimated category scores against all its training answers;
- how much of what it brings comes back: (probed - without) / (full - without), where each term is the
  accuracy of routing the test folds, summed over these experts.

``--errors`` puts normal errors of that size on its exact category scores, instead of asking: how exactly
they must be known for the gain to come back.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import click
import numpy as np
import numpy.typing as npt

from coe.core.errors import ConfigError
from coe.eval.recorded.folds import Fold, cross_folds
from coe.eval.recorded.run import listed
from coe.eval.statistics import paired_bootstrap
from coe.onboarding.profiler import read_recorded
from coe.profiles.newcomer import NewcomerModel
from coe.profiles.outcomes import Recorded
from coe.profiles.probing import BATCH, Answer, Design, Probing, ask_more, probe
from coe.routers.category_evidence import PRIOR, CategoryEstimator
from coe.routers.learning.calibration import completed
from coe.routers.learning.evidence import Evidence, Matrix
from coe.routers.learning.ridge import Inputs
from coe.routers.linear import STRENGTHS

Floats = npt.NDArray[np.float64]
Estimates = npt.NDArray[np.floating[Any]]
"""(test rows, experts) or (test rows,)"""
DESIGNS: tuple[Design, ...] = ("adaptive", "random")
Once = Callable[[str, int], tuple[list[Floats], list[float]]]
"""Expert and draw -> test scores by fold, and errors of its category scores."""


@dataclass(frozen=True)
class Row:
    """``recovered`` over draws: mean and 95% of the draws. ``answers``: None where none were asked."""

    design: str
    answers: int | None
    category_error: float
    recovered: float
    low: float
    high: float


@dataclass(frozen=True)
class Gain:
    """What an expert's full profile brings to the routed accuracy, with its paired interval."""

    expert: str
    mean: float
    low: float
    high: float


Smoother = Callable[[Estimates], Estimates]
"""From what is known of experts on the training rows (r, ...) to estimates on the test rows (t, ...)."""


def category_smoother(evidence: Evidence, fold: Fold) -> Smoother:
    """P(category) x mean in it, as :class:`CategoryEstimator` without wording."""
    train = replace(evidence.rows(fold.train), features=None)
    made = CategoryEstimator().fit(train)
    shares = made.category_shares([""] * len(fold.test), evidence.vectors[fold.test])
    labels = np.asarray(train.categories, dtype=object)
    members = np.stack([labels == name for name in made.categories_]).astype(np.float32)
    means = (members + PRIOR / len(labels)) / (members.sum(axis=1, keepdims=True) + PRIOR)
    return lambda scores: shares @ (means @ scores)


def linear_smoother(evidence: Evidence, fold: Fold) -> Smoother:
    """Ridge regression on vectors and wording, as :class:`LinearEstimator`."""
    inputs = Inputs().fit(evidence.rows(fold.train))
    train, test = (inputs.of_evidence(evidence.rows(rows)) for rows in (fold.train, fold.test))
    mean = train.mean(axis=0)
    centred = train - mean
    gram = centred.T @ centred
    gram[np.diag_indices_from(gram)] += STRENGTHS[0]
    raw: Matrix = (test - mean) @ np.linalg.solve(gram, centred.T)
    weights = np.asarray(raw + (1 - raw.sum(axis=1, keepdims=True)) / len(train), dtype=np.float32)
    return lambda scores: weights @ scores


ROUTERS: Mapping[str, Callable[[Evidence, Fold], Smoother]] = MappingProxyType(
    {"category": category_smoother, "linear": linear_smoother}
)


def probe_in_steps(
    model: NewcomerModel, answer: Answer, counts: Sequence[int], design: Design, seed: int
) -> Iterator[Probing]:
    """What :func:`probe` finds for each of the rising ``counts``. Adaptively the larger numbers begin with
    the whole batches of the smaller ones, which are chosen once."""
    found, left, rng = probe(model, answer, 0), np.arange(len(model.known)), np.random.default_rng(seed)
    for count in counts:
        if design == "random":
            yield probe(model, answer, count, design=design, seed=seed)
            continue
        while min(count - len(found.rows), len(left)) >= BATCH:
            found, left = ask_more(found, left, answer, BATCH, design, rng)
        last, rest, own = found, left, deepcopy(rng)
        while size := min(count - len(last.rows), len(rest), BATCH):
            last, rest = ask_more(last, rest, answer, size, design, own)
        yield last


class Bench:
    """Routing of the test folds with one expert known in full, not at all, or from some answers.

    Estimates are linear in what is known of an expert, so a fold has one smoother that does for every expert
    and draw: :func:`category_smoother` or :func:`linear_smoother`. No calibration.
    """

    def __init__(
        self, data: Recorded, pool: Sequence[str], context: Sequence[str], router: str = "category"
    ) -> None:
        self.data, self.pool, self.context = data, tuple(pool), tuple(context)
        self.evidence = data.evidence(self.pool)
        self.folds = cross_folds(data.outcomes.questions, 5, seed=0)
        made = ROUTERS[router]
        self._smooth = [made(self.evidence, fold) for fold in self.folds]
        self._known = [
            smooth(completed(self.evidence.rows(fold.train)))
            for smooth, fold in zip(self._smooth, self.folds, strict=True)
        ]

    def full(self) -> list[Floats]:
        return [self._routed(k, known) for k, known in enumerate(self._known)]

    def without(self, expert: str) -> list[Floats]:
        return [self._with(k, expert, np.full(len(known), -np.inf)) for k, known in enumerate(self._known)]

    def with_scores(self, expert: str, fold: int, column: Floats) -> Floats:
        """Scores of the chosen experts where ``column`` is what is known of ``expert`` on training rows."""
        return self._with(fold, expert, self._smooth[fold](column.astype(np.float32)))

    def _with(self, fold: int, expert: str, estimate: Estimates) -> Floats:
        known = self._known[fold].copy()
        known[:, self.pool.index(expert)] = estimate
        return self._routed(fold, known)

    def _routed(self, fold: int, estimates: Estimates) -> Floats:
        best = estimates.argmax(axis=1)
        scores = np.nan_to_num(self.evidence.scores[self.folds[fold].test])
        return np.asarray(scores[np.arange(len(best)), best], dtype=np.float64)

    def _labels(self, fold: int) -> npt.NDArray[np.object_]:
        return np.asarray(self.evidence.categories, dtype=object)[self.folds[fold].train]

    def models(self, expert: str) -> list[NewcomerModel]:
        known = self.data.evidence([each for each in (*self.pool, *self.context) if each != expert])
        return [NewcomerModel(known.rows(fold.train)) for fold in self.folds]

    def probings(
        self, expert: str, models: Sequence[NewcomerModel], counts: Sequence[int], design: Design, draw: int
    ) -> list[list[Probing]]:
        """A list for each of the rising ``counts`` of answers, with one for each fold."""
        column, found = self.pool.index(expert), []
        for fold, model in zip(self.folds, models, strict=True):
            truth = np.asarray(self.evidence.scores[fold.train, column], dtype=np.float64)
            found.append(list(probe_in_steps(model, truth.__getitem__, counts, design, draw)))
        return [list(same) for same in zip(*found, strict=True)]

    def probed(self, expert: str, fold: int, found: Probing) -> Floats:
        """Test scores of routing by the answers and the estimate, as a profile has them."""
        column = found.probabilities.copy()
        column[found.rows] = found.scores
        return self.with_scores(expert, fold, column)

    def inexact(self, expert: str, fold: int, error: float, seed: int) -> tuple[Floats, float]:
        """Test scores of routing where all that is known of ``expert`` are its category scores with normal
        errors of deviation ``error``; and the mean absolute error."""
        truth = self.evidence.scores[self.folds[fold].train, self.pool.index(expert)]
        labels = self._labels(fold)
        names, members = np.unique(labels, return_inverse=True)
        errors = error * np.random.default_rng(seed).standard_normal(len(names))
        exact = np.asarray([np.nanmean(truth[labels == name]) for name in names])
        return self.with_scores(expert, fold, (exact + errors)[members]), float(np.abs(errors).mean())

    def category_error(self, expert: str, found: Probing, fold: Fold) -> float:
        truth = np.asarray(self.evidence.scores[fold.train, self.pool.index(expert)], dtype=np.float64)
        members = found.model.membership
        exact = (np.nan_to_num(truth) @ members) / (np.isfinite(truth) @ members)
        estimates = found.model.by_category(found.posterior, found.rows)
        return float(np.abs([each.mean for each in estimates] - exact).mean())


def gains(full: Sequence[Floats], without: dict[str, list[Floats]]) -> list[Gain]:
    whole = np.concatenate(full)
    found = []
    for expert, parts in without.items():
        difference = paired_bootstrap(whole, np.concatenate(parts), seed=0)
        found.append(Gain(expert, difference.mean, difference.low, difference.high))
    return found


class Study:
    """What comes back of the gains of the experts that bring something, over ``draws``."""

    def __init__(self, bench: Bench, draws: int) -> None:
        self._bench, self._draws = bench, draws
        full = bench.full()
        without = {expert: bench.without(expert) for expert in bench.pool}
        self.gains = gains(full, without)
        self._helping = [gain.expert for gain in self.gains if gain.low > 0]
        if not self._helping:
            raise ConfigError("no expert's full profile brings a gain whose interval excludes 0")
        self._without = sum(_mean(without[expert]) for expert in self._helping)
        self._full = len(self._helping) * _mean(full)

    @cached_property
    def _models(self) -> dict[str, list[NewcomerModel]]:
        return {expert: self._bench.models(expert) for expert in self._helping}

    def answered(self, counts: Sequence[int], design: Design) -> Iterator[Row]:
        """A row for each of the rising ``counts`` of answers."""
        found = {
            (expert, draw): self._bench.probings(expert, self._models[expert], counts, design, draw)
            for expert in self._helping
            for draw in range(self._draws)
        }
        for place, count in enumerate(counts):

            def once(expert: str, draw: int, place: int = place) -> tuple[list[Floats], list[float]]:
                return self._judged(expert, found[expert, draw][place])

            yield self._row(design, count, once)

    def _judged(self, expert: str, found: Sequence[Probing]) -> tuple[list[Floats], list[float]]:
        pairs = zip(self._bench.folds, found, strict=True)
        errors = [self._bench.category_error(expert, each, fold) for fold, each in pairs]
        return [self._bench.probed(expert, k, each) for k, each in enumerate(found)], errors

    def inexact(self, error: float) -> Row:
        def once(expert: str, draw: int) -> tuple[list[Floats], list[float]]:
            folds = range(len(self._bench.folds))
            found = [self._bench.inexact(expert, k, error, seed=1000 * draw + k) for k in folds]
            return [scores for scores, _ in found], [wrong for _, wrong in found]

        return self._row(f"error {error:g}", None, once)

    def _row(self, name: str, answers: int | None, once: Once) -> Row:
        errors, ratios = [], []
        for draw in range(self._draws):
            found = [once(expert, draw) for expert in self._helping]
            errors += [error for _, each in found for error in each]
            routed = sum(_mean(parts) for parts, _ in found)
            ratios.append((routed - self._without) / (self._full - self._without))
        low, high = np.quantile(ratios, (0.025, 0.975))
        return Row(name, answers, float(np.mean(errors)), float(np.mean(ratios)), float(low), float(high))


def _mean(parts: Sequence[Floats]) -> float:
    return float(np.concatenate(parts).mean())


def _line(row: Row) -> str:
    asked = "" if row.answers is None else f"{row.answers} answers"
    recovered = f"{row.recovered:5.2f} [{row.low:.2f}, {row.high:.2f}]"
    return f"{row.design:<10} {asked:>12}  category error {row.category_error:.3f}  {recovered}"


@click.command()
@click.option("--outcomes", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--pool", help="Experts, comma-separated; all of the set by default.")
@click.option("--context", help="Further experts that are known in full, and not routed to.")
@click.option("--router", type=click.Choice(tuple(ROUTERS)), default="category", show_default=True)
@click.option("--encoder", default="minilm", show_default=True)
@click.option("--answers", default="25,50,100,200,400", show_default=True)
@click.option(
    "--designs", default="random,adaptive", show_default=True, help="adaptive:200: for up to 200 answers."
)
@click.option("--errors", default="", help="Deviations of errors on exact category scores, such as 0.03,0.1.")
@click.option("--draws", default=20, show_default=True)
@click.option("--json", "out", type=click.Path(path_type=Path))
def main(
    outcomes: Path,
    pool: str | None,
    context: str | None,
    router: str,
    encoder: str,
    answers: str,
    designs: str,
    errors: str,
    draws: int,
    out: Path | None,
) -> None:
    """Leave each expert out and add it back with few answers."""
    data = read_recorded(outcomes, encoder=encoder)
    chosen = listed(pool) if pool else data.outcomes.experts
    bench = Bench(data, chosen, listed(context) if context else (), router)
    study = Study(bench, draws)
    for gain in study.gains:
        click.echo(f"{gain.expert}: full profile brings {gain.mean:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}]")
    rows: list[Row] = []
    for row in _rows(study, answers, designs, errors):
        click.echo(_line(row))
        rows.append(row)
    if out:
        found = {"rows": [asdict(row) for row in rows], "gains": [asdict(gain) for gain in study.gains]}
        out.write_text(json.dumps(found, indent=1), encoding="utf-8")


def _rows(study: Study, answers: str, designs: str, errors: str) -> Iterator[Row]:
    counts = sorted(int(count) for count in listed(answers))
    for name in listed(designs):
        chosen, _, most = name.partition(":")
        design = next((each for each in DESIGNS if each == chosen), None)
        if design is None:
            raise ConfigError(f'there is no design "{chosen}"', hint=f"Designs: {', '.join(DESIGNS)}.")
        yield from study.answered([n for n in counts if not most or n <= int(most)], design)
    for error in listed(errors):
        yield study.inexact(float(error))


if __name__ == "__main__":
    main()
