"""LLMRouter's routers that learn from vectors (ulab-uiuc, ``llmrouter-lib``), through its own trainers.

Its own encoder, Longformer, is on the hub; here they learn from the vectors that every router of the run
sees. Its trainers want a router that has read files: a stand-in carries what they read of it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np

from benchmarks.peers import Floats, PairLesson

_MLP = {"hidden_layer_sizes": [128, 64], "activation": "relu", "lr": 0.001, "epochs": 100, "batch_size": 32,
        "alpha": 0.0001}  # fmt: skip
"""LLMRouter's documented configuration, as is that of its factorisation: its defaults, 128 dimensions."""
_LATENT_DIM = 128


def llmrouter_installed() -> bool:
    return importlib.util.find_spec("llmrouter") is not None


@contextlib.contextmanager
def _trainers() -> Iterator[Any]:
    """Its modules, quiet and offline: LiteLLM, which it imports, would ask the network for prices."""
    with (
        patch.dict(os.environ, {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}),
        contextlib.redirect_stdout(sys.stderr),
    ):
        from llmrouter.models.mfrouter import trainer as factorised
        from llmrouter.models.mlprouter import trainer as layered

        yield SimpleNamespace(MLP=layered.MLPTrainer, MF=factorised.MFRouterTrainer)


def _trained(lesson: PairLesson, kind: str, **carried: Any) -> Any:
    import torch

    torch.manual_seed(lesson.seed)
    with _trainers() as trainers, tempfile.TemporaryDirectory() as folder:
        paths = {"ini_model_path": "", "save_model_path": str(Path(folder) / "model.pkl")}
        router = SimpleNamespace(cfg={"model_path": paths, "hparam": carried.get("hparam", {})}, **carried)
        trainer = getattr(trainers, kind)(router, device="cpu")
        trainer.train()
    return trainer.model.eval()


def _winners(lesson: PairLesson) -> Any:
    """(train,) 0 where the strong expert is the better one or as good, 1 where the weak one is: as its data
    preparation, which takes the first of equals."""
    scores = lesson.outcomes.scores[np.asarray(lesson.fold.train)][:, [lesson.pair.strong, lesson.pair.weak]]
    return np.argmax(np.nan_to_num(scores, nan=-1.0), axis=1)


def layered(lesson: PairLesson) -> Floats:
    """Its MLPRouter: a classifier of the best expert."""
    import torch

    learned = torch.as_tensor(lesson.vectors[np.asarray(lesson.fold.train)])
    labels = torch.as_tensor(_winners(lesson))
    net = _trained(lesson, "MLP", query_embedding_list=learned, label_indices=labels,
                   input_dim=learned.shape[1], num_classes=2, hparam=_MLP)  # fmt: skip
    with torch.no_grad():
        logits = net(torch.as_tensor(lesson.vectors[np.asarray(lesson.fold.test)])).numpy()
    return np.asarray(logits[:, 0] - logits[:, 1], dtype=np.float64)


def factorised(lesson: PairLesson) -> Floats:
    """Its MFRouter: a bilinear factorisation, learned from pairs of the best expert and another."""
    import torch

    pairs = [
        {"embedding_id": int(row), "winner": int(winner), "loser": 1 - int(winner)}
        for row, winner in zip(lesson.fold.train, _winners(lesson), strict=True)
    ]
    vectors, models = torch.as_tensor(lesson.vectors), {"strong": 0, "weak": 1}
    net = _trained(lesson, "MF", pairs=pairs, dim=_LATENT_DIM, text_dim=vectors.shape[1],
                   model_to_idx=models, query_embedding_data=vectors)  # fmt: skip
    with torch.no_grad():
        asked = vectors[np.asarray(lesson.fold.test)]
        scores = np.stack([net.score_all(row).numpy() for row in net.project_text(asked)])
    return np.asarray(scores[:, 0] - scores[:, 1], dtype=np.float64)
