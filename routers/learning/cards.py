"""What an expert's card says of a question: all there is to go by for an expert without outcomes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from coe.core.types import ExpertView

Floats = npt.NDArray[np.float64]

_ODDS_PER_COSINE = 4.0
"""Log-odds for a cosine that is higher by 1: a card right on the subject (0.3 nearer) is worth +1.2."""


def described(view: ExpertView) -> str:
    """What a router reads of an expert; its name alone when it has no card."""
    return view.card or ", ".join(view.skills) or view.id


def with_newcomers(known: Floats, cosines: Floats) -> Floats:
    """(m,) probabilities of a right answer; ``known`` (m,) has NaN for experts without evidence.

    A newcomer has the chance of an average known expert, moved in log-odds by how much nearer its card is
    to the question than theirs are: no better and no worse than others until it has outcomes. When nobody
    is known, the average chance is a half.
    """
    is_known = np.isfinite(known)
    if is_known.all():
        return known
    base, usual = 0.5, float(cosines.mean())
    if is_known.any():
        base, usual = float(known[is_known].mean()), float(cosines[is_known].mean())
    base = min(max(base, 0.01), 0.99)
    odds = np.log(base / (1 - base)) + _ODDS_PER_COSINE * (cosines - usual)
    filled: Floats = np.where(is_known, known, 1 / (1 + np.exp(-odds)))
    return filled
