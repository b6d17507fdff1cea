"""``python -m benchmarks.distil DIR``: learn the static encoder's table from MiniLM.

DIR holds outcome sets (`mmlu_pro` and those of :data:`OUTCOME_SETS` are read). Only the texts of
questions are used, without labels or outcomes, and of MMLU-Pro only the part that reports nothing
(:func:`part`). MiniLM's vectors are kept as they are made, so an interrupted run goes on where it was.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from coe.routers.encoders.disk_cache import encode_cached
from coe.routers.encoders.encoder import Vectors, minilm_folder, open_encoder
from coe.routers.encoders.static import PACKAGED, TABLE_FILE, TOKENIZER_FILE, WINDOW
from coe.routers.encoders.window import Window

if TYPE_CHECKING:
    import torch

LOG = logging.getLogger(__name__)

OUTCOME_SETS = ("routellm_mmlu", "routellm_gsm8k")
"""Besides MMLU-Pro. All under licences that let the table be shipped (NOTICE)."""

_SIF = 1e-3
"""a of smooth inverse frequency (Arora et al. 2017): a token's first weight is a / (a + its frequency)."""


@dataclass(frozen=True)
class Recipe:
    dimensions: int = 256
    epochs: int = 6
    learning_rate: float = 2e-3
    batch: int = 256
    seed: int = 0


def normalised(text: str) -> str:
    return re.sub(r"\W+", " ", text.lower()).strip()


def part(question: str) -> str:
    """``fit`` (60%), ``choose`` (20%) or ``report`` (20%) of MMLU-Pro, by a hash of the question."""
    bucket = int(hashlib.sha256(normalised(question).encode()).hexdigest(), 16) % 10
    return "fit" if bucket < 6 else "choose" if bucket < 8 else "report"


def corpus(data: Path) -> list[str]:
    """The texts to learn from; none is a question of MMLU-Pro's parts ``choose`` and ``report``."""
    import pandas as pd

    from coe.demo.router_examples import router_examples

    questions = pd.read_parquet(data / "outcomes/mmlu_pro/questions.parquet").dropna(subset=["question"])
    texts: list[str] = []
    for question, options in zip(questions.question, questions.options, strict=True):
        if part(question) == "fit":
            texts += [question, "\n".join([question, *options])]
    seen = {normalised(question) for question in questions.question}
    others = [text for text, _ in router_examples()]
    for name in OUTCOME_SETS:
        others += pd.read_parquet(data / f"outcomes/{name}/questions.parquet").question.dropna().tolist()
    texts += [text for text in others if normalised(text) not in seen]
    return list(dict.fromkeys(texts))


def learned_table(
    token_vectors: Vectors, ids: Sequence[Sequence[int]], taught: Vectors, recipe: Recipe
) -> Vectors:
    """Token rows whose mean over ``ids[i]`` points where ``taught[i]`` does, in fewer dimensions.

    Starts from MiniLM's vectors of single tokens weighted by smooth inverse frequency; then Adam on the
    mean of 1 - cosine, the learning rate falling to zero.
    """
    import torch

    _, _, directions = np.linalg.svd(taught, full_matrices=False)
    down = directions[: recipe.dimensions].T
    counts = (
        np.bincount(np.concatenate([np.asarray(each) for each in ids]), minlength=len(token_vectors)) + 1.0
    )
    weights = _SIF / (_SIF + counts / counts.sum())
    start = (token_vectors @ down) * weights[:, None]
    start /= np.linalg.norm(start, axis=1).mean()
    torch.manual_seed(recipe.seed)
    bag = torch.nn.EmbeddingBag.from_pretrained(
        torch.tensor(start, dtype=torch.float32), freeze=False, mode="mean"
    )
    target = torch.nn.functional.normalize(torch.tensor(taught @ down), dim=1)
    _descend(bag, ids, target, recipe)
    rows: Vectors = bag.weight.detach().numpy()
    return rows


def _descend(
    bag: torch.nn.EmbeddingBag, ids: Sequence[Sequence[int]], target: torch.Tensor, recipe: Recipe
) -> None:
    import torch

    draw = np.random.default_rng(recipe.seed)
    optimiser = torch.optim.Adam(bag.parameters(), lr=recipe.learning_rate)
    rounds = max(1, len(ids) // recipe.batch)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, total_iters=recipe.epochs * rounds)
    for epoch in range(recipe.epochs):
        losses = []
        for chosen in np.array_split(draw.permutation(len(ids)), rounds):
            made = bag(*_bags(ids, chosen))
            loss = 1 - torch.nn.functional.cosine_similarity(made, target[chosen]).mean()
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
            losses.append(float(loss.detach()))
        LOG.info("epoch %d: mean cosine to MiniLM %.3f", epoch + 1, 1 - float(np.mean(losses)))


def _bags(ids: Sequence[Sequence[int]], chosen: npt.NDArray[np.int64]) -> tuple[Any, Any]:
    import torch

    picked = [ids[index] for index in chosen]
    starts = np.cumsum([0, *(len(each) for each in picked[:-1])])
    return torch.tensor(np.concatenate(picked)), torch.tensor(starts)


def distil(data: Path, folder: Path, recipe: Recipe) -> None:
    """Make the files of the static encoder in ``folder``. Minutes to an hour, by the cores that are free."""
    from tokenizers import Tokenizer

    texts = corpus(data)
    LOG.info("learning from %d texts", len(texts))
    teacher = open_encoder("minilm-int8", Path())
    taught = encode_cached(teacher, texts, workers=2)
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(minilm_folder() / TOKENIZER_FILE, folder / TOKENIZER_FILE)
    tokenizer = Tokenizer.from_file(str(folder / TOKENIZER_FILE))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    vocabulary = tokenizer.get_vocab()
    names = sorted(vocabulary, key=vocabulary.__getitem__)
    # A piece inside a word is taught as the word it would be alone: close enough for a first guess.
    token_vectors = encode_cached(teacher, [name.removeprefix("##") for name in names], workers=2)
    unknown = vocabulary["[UNK]"]
    ids = [read or [unknown] for read in Window(tokenizer, WINDOW).ids(texts)]
    save_table(learned_table(token_vectors, ids, taught, recipe), folder)


def save_table(vectors: Vectors, folder: Path) -> None:
    """Write token vectors, shape (vocabulary, dimensions), in 8 bits with one scale a row."""
    from safetensors.numpy import save_file

    scales = np.maximum(np.abs(vectors).max(axis=1), 1e-6).astype(np.float32) / np.float32(127)
    rows = np.rint(vectors / scales[:, None]).astype(np.int8)
    save_file({"rows": rows, "scales": scales}, folder / TABLE_FILE)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.distil", description=__doc__)
    parser.add_argument("data", type=Path, help="folder with outcomes/")
    parser.add_argument("--out", type=Path, default=PACKAGED)
    parser.add_argument("--dimensions", type=int, default=Recipe.dimensions)
    parser.add_argument("--epochs", type=int, default=Recipe.epochs)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    distil(options.data, options.out, Recipe(dimensions=options.dimensions, epochs=options.epochs))


if __name__ == "__main__":
    main()
