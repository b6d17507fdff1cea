"""Other libraries' routers beside ours, through their own packages, on the same folds.

RouteLLM (arXiv 2406.18665) chooses between a strong and a weak model. Its published routers need OpenAI's
embeddings and checkpoints from the hub; here its matrix factorisation (its model and its training loop) and
its similarity-weighted ranking (its Bradley-Terry fit) learn from the training folds, on our sentence
vectors. That is an in-domain fit, as ours is; the published figures are out of domain.

LLMRouter's are in :mod:`benchmarks.peers_llmrouter`. ``pip install --no-deps routellm llmrouter-lib``;
nothing else of the project needs them.
"""

from __future__ import annotations

import importlib.util
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import numpy as np
import numpy.typing as npt

from coe.core.errors import ConfigError
from coe.eval.recorded.folds import Fold
from coe.eval.recorded.study import Study
from coe.outcomes.outcome_set import OutcomeSet
from coe.routers import ESTIMATORS

Floats = npt.NDArray[np.float64]
_EPOCHS, _BATCH, _DIM = 100, 64, 128
"""RouteLLM's own settings of the factorisation; so are the rates below."""
_LARGEST_RANKING = 2_000
"""Training questions beyond which the ranking, which fits anew for every query, is left out."""


@dataclass(frozen=True)
class Pair:
    """Which column is the strong expert and which the weak one, by accuracy on all learning questions."""

    strong: int
    weak: int


@dataclass(frozen=True)
class PeerRow:
    """``share_at_95``: calls to the strong expert needed for 95% of its accuracy, None where not reached.

    ``apgr``: performance gap recovered, averaged over all shares of calls (RouteLLM, section 3.2).
    """

    router: str
    apgr: float
    share_at_95: float | None
    share_at_99: float | None


@dataclass(frozen=True)
class PairLesson:
    """What a peer may learn from one fold, and whom it is asked about: rows of vectors and scores."""

    outcomes: OutcomeSet
    vectors: npt.NDArray[np.float32]
    pair: Pair
    fold: Fold
    seed: int

    def decided(self) -> Iterator[tuple[int, bool]]:
        """Learning questions that one of the two got better, and whether it was the strong one."""
        for row in self.fold.train:
            strong, weak = self.outcomes.scores[row, [self.pair.strong, self.pair.weak]]
            if np.isfinite(strong) and np.isfinite(weak) and strong != weak:
                yield int(row), bool(strong > weak)


WinRates = Callable[[PairLesson], Floats]
"""(test,) the higher, the rather the strong expert is asked"""


def peer_rows(study: Study) -> list[PeerRow]:
    """Random, the study's routers, and those of the libraries that are installed. Raises ConfigError."""
    if len(study.outcomes.experts) != 2:
        raise ConfigError(
            f"this compares choices between two models, and this pool has {len(study.outcomes.experts)}",
            hint="Name two with --pool.",
        )
    accuracy = np.nanmean(study.outcomes.scores, axis=0)
    pair = Pair(int(np.argmax(accuracy)), int(np.argmin(accuracy)))
    rates: dict[str, Floats] = {"random": np.random.default_rng(study.plan.seed).random(len(study.rows))}
    for name in study.plan.routers:
        probabilities = study.asked(name, "first", 1).probabilities
        rates[name] = probabilities[:, pair.strong] - probabilities[:, pair.weak]
    for name, method in _methods(study).items():
        rates[name] = _over_folds(study, pair, method)
    strong, weak = study.tested.scores[:, pair.strong], study.tested.scores[:, pair.weak]
    return [_row(name, found, strong, weak) for name, found in rates.items()]


def own_routers() -> tuple[str, ...]:
    """Those of ours that learn from outcomes."""
    return tuple(ESTIMATORS)


def routellm_installed() -> bool:
    return importlib.util.find_spec("routellm") is not None


def _methods(study: Study) -> Mapping[str, WinRates]:
    return {**_of_llmrouter(), **_of_routellm(study)}


def _of_llmrouter() -> Mapping[str, WinRates]:
    from benchmarks.peers_llmrouter import factorised, layered, llmrouter_installed

    if not llmrouter_installed():
        return {}
    return {"llmrouter mlprouter": layered, "llmrouter mfrouter": factorised}


def _of_routellm(study: Study) -> Mapping[str, WinRates]:
    if not routellm_installed():
        return {}
    methods: dict[str, WinRates] = {"routellm matrix factorisation": _factorised}
    if max(len(fold.train) for fold in study.plan.folds) <= _LARGEST_RANKING:
        methods["routellm similarity-weighted"] = _ranked
    return methods


def _over_folds(study: Study, pair: Pair, method: WinRates) -> Floats:
    rates = np.zeros(len(study.outcomes))
    for fold in study.plan.folds:
        rates[fold.test] = method(PairLesson(study.outcomes, study.vectors, pair, fold, study.plan.seed))
    return rates[study.rows]


def _row(name: str, rates: Floats, strong: Floats, weak: Floats) -> PeerRow:
    reached = accuracy_by_share(rates, strong, weak)
    gap = reached[-1] - reached[0]
    return PeerRow(
        router=name,
        apgr=float(((reached - reached[0]) / gap).mean()) if gap else 0.0,
        share_at_95=_share(reached, 0.95 * reached[-1]),
        share_at_99=_share(reached, 0.99 * reached[-1]),
    )


def accuracy_by_share(rates: Floats, strong: Floats, weak: Floats) -> Floats:
    """(n + 1,) accuracy when the 0, 1, ... n questions with the highest rates go to the strong expert."""
    order = np.argsort(-rates, kind="stable")
    gains = np.cumsum((strong - weak)[order])
    reached: Floats = (weak.sum() + np.concatenate([[0.0], gains])) / len(weak)
    return reached


def _share(reached: Floats, target: float) -> float | None:
    places = np.flatnonzero(reached >= target)
    return float(places[0] / (len(reached) - 1)) if len(places) else None


@contextmanager
def _importable() -> Iterator[None]:
    """RouteLLM makes an OpenAI client when imported, which wants a key; nothing is ever sent."""
    with patch.dict(os.environ, {"OPENAI_API_KEY": os.environ.get("OPENAI_API_KEY", "unused")}):
        yield


def _factorised(lesson: PairLesson) -> Floats:
    import torch

    with _importable():
        from routellm.routers.matrix_factorization import train_matrix_factorization as theirs
    strong, weak = list(theirs.MODEL_IDS)[:2]
    data = [
        {"model_a": strong, "model_b": weak, "idx": row, "winner": "model_a" if won else "model_b"}
        for row, won in lesson.decided()
    ]
    torch.manual_seed(lesson.seed)
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "vectors.npy", lesson.vectors)
        net = theirs.MFModel_Train(
            dim=_DIM, num_models=len(theirs.MODEL_IDS), num_prompts=len(lesson.vectors),
            text_dim=lesson.vectors.shape[1], npy_path=str(Path(folder) / "vectors.npy"),
        )  # fmt: skip
    learning = theirs.PairwiseDataset(data).get_dataloaders(_BATCH)
    theirs.train_loops(net, learning, learning, lr=3e-4, weight_decay=1e-5, alpha=0.1, num_epochs=_EPOCHS,
                       device="cpu", evaluator=lambda *_: (0.0, 0.0))  # fmt: skip
    asked = torch.as_tensor(np.asarray(lesson.fold.test))
    ids = [torch.full_like(asked, theirs.MODEL_IDS[name]) for name in (strong, weak)]
    with torch.no_grad():
        logits = net.forward(*ids, asked, test=True)
    return np.asarray(logits, dtype=np.float64)


def _ranked(lesson: PairLesson) -> Floats:
    """As ``SWRankingRouter``: battles near the query weigh 10 * 10 ** (similarity / greatest similarity)."""
    import pandas as pd

    with _importable():
        from routellm.routers.similarity_weighted.utils import compute_elo_mle_with_tie
    decided = list(lesson.decided())
    battles = pd.DataFrame(
        {"model_a": "strong", "model_b": "weak", "winner": "model_a" if won else "model_b"}
        for _, won in decided
    )
    learned = lesson.vectors[[row for row, _ in decided]]
    rates = np.zeros(len(lesson.fold.test))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of an argument that newer scikit-learns rename
        for place, row in enumerate(lesson.fold.test):
            similarities = learned @ lesson.vectors[row]
            weights = 10 * 10 ** (similarities / max(float(similarities.max()), 1e-9))
            elo = compute_elo_mle_with_tie(battles, sample_weight=weights)
            rates[place] = elo["strong"] - elo["weak"]
    return rates
