"""What routers learned, kept in a folder, so that several commands on the same data fit them once.

A fit is found again only for the same questions, outcomes, vectors, folds and seed, by the same code: all of
that is in the name of its file. Old files may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from coe.eval.recorded.folds import Fold
from coe.eval.recorded.methods import Fitted
from coe.outcomes.outcome_set import OutcomeSet
from coe.routers.encoders.encoder import Vectors


@dataclass(frozen=True)
class KeptFits:
    """``about`` names what every fit of a study learns from, by :func:`digest_of`."""

    folder: Path
    about: str

    def read(self, router: str, fold: Fold, seed: int) -> tuple[Fitted, float] | None:
        """The fit, and the seconds it took when it was made; None where it is not there."""
        try:
            with np.load(self._path(router, fold, seed)) as found:
                return Fitted(found["test"], found["held_out"]), float(found["seconds"])
        except (OSError, KeyError, ValueError, zipfile.BadZipFile):
            return None

    def write(self, router: str, fold: Fold, seed: int, fitted: Fitted, seconds: float) -> None:
        path = self._path(router, fold, seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = path.with_suffix(f".{os.getpid()}.npz")  # others may be reading and writing here too
        np.savez(whole, test=fitted.test, held_out=fitted.held_out, seconds=seconds)
        whole.replace(path)

    def _path(self, router: str, fold: Fold, seed: int) -> Path:
        words = (self.about, router, str(seed), fold.train.tobytes(), fold.test.tobytes())
        return self.folder / f"{_digest(words)}.npz"


def digest_of(outcomes: OutcomeSet, vectors: Vectors, encoder: str) -> str:
    """Of the code, and of all that a router may learn from or be asked."""
    words: list[str | bytes] = [_code(), encoder, vectors.tobytes(), *outcomes.experts]
    words += [outcomes.scores.tobytes(), outcomes.costs.tobytes()]
    for question in outcomes.questions:
        words += [question.id, question.category, "\0" if question.text is None else question.text]
    return _digest(words)


@cache
def _code() -> str:
    """Of the modules that fit."""
    here = Path(__file__).parent
    files = sorted([*here.glob("*.py"), *(here.parents[1] / "routers").rglob("*.py")])
    return _digest(file.read_bytes() for file in files)


def _digest(words: Iterable[str | bytes]) -> str:
    found = hashlib.sha256()
    for word in words:
        raw = word if isinstance(word, bytes) else word.encode("utf-8", "surrogatepass")
        found.update(len(raw).to_bytes(8, "little") + raw)
    return found.hexdigest()[:40]
