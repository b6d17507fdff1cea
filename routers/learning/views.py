"""From what is read of a request to one belief: which part of a long text counts, and what the turns before
and the system prompt add. One way for everything that learns from vectors.

A router believes something of each *view*, a text with its vector. Of the last message one view counts: the
whole, or of a long text the part that is nearest to what is known, so that material beside the task does not
drown it. A message that leans on the one before is weighed against it, and a system prompt that is near to
what is known, a task, is weighed in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from coe.core.reading import leaning, read_text, says_something, spans
from coe.routers.encoders.encoder import Encoder, Vectors, read_by

Floats = npt.NDArray[np.float64]
Near = Callable[[Vectors], Floats]
"""(k,) cosines of vectors (k, d) with what is known of specialists."""

_MOST_TURNS = 8
_NEARER, _NEAR = 0.05, 0.5
"""A part of a long text counts when it is by so much nearer than the whole, and near at all."""
_TASK_FROM, _TASK_FULL = 0.4, 0.55
"""Nearness from which a system prompt counts, and fully: "You are a helpful assistant" has about .3."""
_FLOOR = 0.012
"""Of a probability that others say: what is said last can be surer than that."""
_EMPTY = 0.5
"""Weight of a message without words of its own ("and 15?")."""
_SAYS_FROM, _SAYS_FULL, _SAYS_LEAST = 0.25, 0.65, 0.25
"""Nearness from which a message that leans on another counts by itself, and fully."""


@dataclass(frozen=True)
class Turn:
    """A message of a conversation: how much it leans on the one before, and how much it says by itself."""

    leaning: float
    says: float = 1.0
    empty: bool = False


@dataclass(frozen=True)
class Asked:
    """A request as a router sees it: the view of the last message, then the turns and the task around it."""

    text: str
    vector: Vectors
    """(1, d)"""
    note: str | None = None
    """what an expert wrote about it"""
    around: tuple[str, ...] = ()
    """texts of the turns that the last one leans on, the first one first, then of the task if it counts"""
    around_vectors: Vectors | None = None
    turns: tuple[Turn, ...] = (Turn(0.0),)
    """those turns, then the last one"""
    task: float = 0.0
    """weight of the task, the last of ``around``"""

    @property
    def texts(self) -> list[str]:
        return [self.text, *self.around]

    @property
    def vectors(self) -> Vectors:
        """(k, d)"""
        if self.around_vectors is None:
            return self.vector
        return np.concatenate([self.vector, self.around_vectors])

    @property
    def weights(self) -> Floats:
        """(k,) of the views, 1 together, where vectors are to be compared and not beliefs."""
        last, lean = self.turns[-1], self.turns[-1].leaning
        found = [last.says]
        for turn in self.turns[-2::-1]:
            found.append(lean * (turn.says if turn.leaning else 1.0) * (not turn.empty))
            lean *= turn.leaning
        listed = np.asarray([found[0], *found[:0:-1], *([self.task] if self.task else [])])
        shares: Floats = listed / listed.sum()
        return shares

    def settled(self, beliefs: npt.ArrayLike, *, shares: bool) -> Floats:
        """One belief (n,) from those of the views (k, n). ``shares``: they sum to 1; otherwise each is a
        probability of its own, and so is what comes out."""
        rows = np.asarray(beliefs, dtype=np.float64)
        if len(rows) == 1:
            return rows[0]  # type: ignore[no-any-return]
        mix = _mixed_shares if shares else _mixed_chances
        belief, last = rows[0], self.turns[-1]
        if len(self.turns) > 1:
            topic = rows[1]
            for turn, row in zip(self.turns[1:-1], rows[2:], strict=False):
                changed = topic if turn.empty else mix([(turn.says, row), (turn.leaning, topic)])
                # Messages that go on with a topic do not make it less sure, however many they are.
                topic = topic if changed.argmax() == topic.argmax() else changed
            # Short of weight they would make each other unsure.
            short = min(1.0, last.says + last.leaning)
            belief = mix([(last.says / short, belief), (last.leaning / short, topic)])
        return mix([(1.0, belief), (self.task, rows[-1])]) if self.task else belief


def asked(text: str, encoder: Encoder, near: Near) -> Asked:
    """How ``text`` is seen, which may be a :class:`coe.core.reading.Reading`. A short text alone costs
    nothing but its vector."""
    reading = read_text(text)
    chain, turns = _chain(str(reading), reading.earlier)
    parts, tasks = _parts(str(reading), encoder), _parts(reading.task, encoder) if reading.task else []
    texts = [*parts, *chain, *tasks]
    vectors = encoder.encode(texts)
    if len(texts) == 1:
        return Asked(texts[0], vectors)
    nearness = near(vectors)
    own = _nearest(nearness[: len(parts)])
    said = [*nearness[len(parts) : len(parts) + len(chain)].tolist(), float(nearness[own])]
    turns = [_weighed(turn, near) for turn, near in zip(turns, said[-len(turns) :], strict=True)]
    around = list(range(len(parts), len(parts) + len(chain)))
    weight = 0.0
    if tasks:
        at = len(parts) + len(chain) + _nearest(nearness[len(parts) + len(chain) :])
        weight = float(np.clip((nearness[at] - _TASK_FROM) / (_TASK_FULL - _TASK_FROM), 0.0, 1.0))
        around += [at] if weight else []
    seen = Asked(texts[own], vectors[own : own + 1], turns=tuple(turns), task=weight)
    if not around:
        return seen
    return replace(seen, around=tuple(texts[at] for at in around), around_vectors=vectors[around])


def _chain(last: str, earlier: Sequence[str]) -> tuple[list[str], list[Turn]]:
    """The turns before that the last one leans on, the first one first, and how each of them and the last
    one leans."""
    texts, turns = [], [_turn(last)]
    for text in reversed(earlier[-_MOST_TURNS:]):
        if not turns[-1].leaning:
            break
        texts.append(text)
        turns.append(_turn(text))
    if not texts:
        return [], [Turn(0.0)]
    return texts[::-1], turns[::-1]


def _turn(text: str) -> Turn:
    lean = leaning(text)
    return Turn(lean, empty=bool(lean) and not says_something(text))


def _weighed(turn: Turn, nearness: float) -> Turn:
    if not turn.leaning:
        return turn
    says = float(np.clip((nearness - _SAYS_FROM) / (_SAYS_FULL - _SAYS_FROM), _SAYS_LEAST, 1.0))
    says = 1.0 - turn.leaning * (1.0 - says)
    return replace(turn, says=says * (_EMPTY if turn.empty else 1.0))


def _parts(text: str, encoder: Encoder) -> list[str]:
    """The whole, as far as the encoder reads it, and what of a long text may say what is asked."""
    return [read_by(encoder, text), *spans(text)]


def _nearest(nearness: Floats) -> int:
    best = int(nearness.argmax())
    return best if nearness[best] > max(nearness[0] + _NEARER, _NEAR) else 0


def _mixed_shares(parts: Sequence[tuple[float, Floats]]) -> Floats:
    """Shares by the weighted sum of their logarithms. The first part is said last, the others bear doubt."""
    logs = [np.log(np.maximum(shares, _FLOOR if at else 1e-9)) for at, (_, shares) in enumerate(parts)]
    total = sum(weight * log for (weight, _), log in zip(parts, logs, strict=True))
    found = np.exp(total - np.max(total))
    shares: Floats = found / found.sum()
    return shares


def _mixed_chances(parts: Sequence[tuple[float, Floats]]) -> Floats:
    """Probabilities by the weighted mean of their log-odds."""
    clipped = [np.clip(chances, 1e-6, 1 - 1e-6) for _, chances in parts]
    odds = [np.log(chances / (1 - chances)) for chances in clipped]
    total = sum(weight * odd for (weight, _), odd in zip(parts, odds, strict=True))
    found: Floats = 1 / (1 + np.exp(-total / sum(weight for weight, _ in parts)))
    return found
