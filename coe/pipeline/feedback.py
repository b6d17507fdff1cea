"""Clients' ratings of answers, as a small and bounded change of the routers' probabilities.

For each category and expert the good and bad ratings are counted as a Beta distribution's parameters:

    n = good + bad, scaled down to at most ``cap``    (so that old ratings fade and no campaign weighs more)
    step = log((good + 1) / (bad + 1)) * n / (n + PRIOR)
    p' = sigmoid(logit(p) + clip(step, -bound, bound))

One rating moves a probability by little, many by at most ``bound`` in log-odds. A ``score`` between 0 and 1
counts in parts. A second rating of an answer replaces the first.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from cachetools import FIFOCache

from coe.core.decision import with_ranking
from coe.core.errors import BadRequest
from coe.core.files import Behind, append_line
from coe.core.types import Decision, ExpertId, Ranked, Receipt
from coe.registry.service_settings import FeedbackSettings

log = logging.getLogger(__name__)


PRIOR = 10.0
ANY = ""
"""The category of decisions of routers that know none."""
REMEMBERED = 10_000
MAX_LOG_BYTES = 50_000_000


@dataclass(frozen=True)
class Rating:
    """One client's score for one answer: 0 is useless, 1 is right."""

    request: str
    category: str
    expert: ExpertId
    score: float


@dataclass
class _Counts:
    good: float = 0.0
    bad: float = 0.0

    def add(self, score: float, cap: float) -> None:
        self.good, self.bad = self.good + score, self.bad + 1.0 - score
        total = self.good + self.bad
        if total > cap:
            self.good, self.bad = self.good * cap / total, self.bad * cap / total

    def take_back(self, score: float) -> None:
        self.good, self.bad = max(0.0, self.good - score), max(0.0, self.bad - 1.0 + score)


class Feedback:
    """Counts ratings and applies them. Belongs to one event loop; nothing in it waits or reads a disk."""

    def __init__(self, cap: float = 50.0, bound: float = 1.0) -> None:
        self._cap, self._bound = cap, bound
        self._counts: dict[tuple[str, ExpertId], _Counts] = {}
        self._routed: FIFOCache[str, str] = FIFOCache(REMEMBERED)
        self._answered: FIFOCache[str, Rating] = FIFOCache(REMEMBERED)
        self._by_completion: FIFOCache[str, str] = FIFOCache(REMEMBERED)

    def applied(self, request: str, decision: Decision) -> Decision:
        """``decision`` with its probabilities moved and its own rule applied to them again: marks undo no
        choice that was made on purpose. Remembers the category for :meth:`answered`."""
        category = decision.category or ANY
        self._routed[request] = category
        if not any((category, ranked.expert) in self._counts for ranked in decision.ranking):
            return decision
        moved = [Ranked(r.expert, self._moved(category, r)) for r in decision.ranking]
        found = with_ranking(decision, moved)
        if found.expert == decision.expert:
            return found
        reason = f"{found.reason}; feedback puts {found.expert} before {decision.expert}"
        return replace(found, reason=reason)

    def answered(self, receipt: Receipt, completion: str | None) -> None:
        """An answer was given, which may be rated by its request's id or its completion's."""
        category = self._routed.pop(receipt.request_id, None)
        if category is None or receipt.expert is None:  # pinned, or written by several
            return
        rating = Rating(receipt.request_id, category, receipt.expert, math.nan)
        self._answered[receipt.request_id] = rating
        if completion is not None:
            self._by_completion[completion] = receipt.request_id

    def rate(self, name: str, score: float) -> Rating:
        """Count a rating, in the place of an earlier one. Raises UnknownAnswer for an unknown id."""
        request = self._by_completion.get(name, name)
        known = self._answered.get(request)
        if known is None:
            raise UnknownAnswer(
                f'no answer "{name[:100]}" is remembered',
                param="id",
                hint=f"Give the id of one of the last {REMEMBERED:,} routed answers, by this process.",
            )
        counts = self._counts.setdefault((known.category, known.expert), _Counts())
        if not math.isnan(known.score):
            counts.take_back(known.score)
        counts.add(score, self._cap)
        self._answered[request] = replace(known, score=score)
        return self._answered[request]

    def replay(self, rating: Rating) -> None:
        """Count a rating of an earlier run."""
        self._counts.setdefault((rating.category, rating.expert), _Counts()).add(rating.score, self._cap)

    def step(self, category: str, expert: ExpertId) -> float:
        """By how much an expert's log-odds are moved in a category."""
        counts = self._counts.get((category, expert))
        if counts is None:
            return 0.0
        total = counts.good + counts.bad
        step = math.log((counts.good + 1) / (counts.bad + 1)) * total / (total + PRIOR)
        return max(-self._bound, min(self._bound, step))

    def _moved(self, category: str, ranked: Ranked) -> float:
        p, step = ranked.probability, self.step(category, ranked.expert)
        if not 0.0 < p < 1.0 or not step:
            return p
        return 1.0 / (1.0 + math.exp(-(math.log(p / (1.0 - p)) + step)))


class NoFeedback(Feedback):
    """Where experts.yaml wants no feedback: nothing is remembered, and nothing moves."""

    def applied(self, request: str, decision: Decision) -> Decision:  # noqa: ARG002
        return decision

    def answered(self, receipt: Receipt, completion: str | None) -> None:
        pass

    def rate(self, name: str, score: float) -> Rating:  # noqa: ARG002
        raise UnknownAnswer(
            "this service takes no feedback",
            code="feedback_off",
            hint="Write `feedback: {}` into experts.yaml.",
        )


class UnknownAnswer(BadRequest):
    status, default_code = 404, "unknown_answer"


class FeedbackLog:
    """Ratings on disk, one JSON line each: what a restart counts again and `coe eval import` reads.

    Blocking; call ``append`` from a thread. A file over :data:`MAX_LOG_BYTES` is moved aside.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def append(self, rating: Rating) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if self._path.exists() and self._path.stat().st_size > MAX_LOG_BYTES:
            self._path.replace(self._path.with_suffix(".previous.jsonl"))
        append_line(self._path, json.dumps(asdict(rating)).encode())

    def ratings(self) -> Iterator[Rating]:
        """All of the present file; of several ratings of an answer the last one. A broken line is skipped,
        and so is what cannot be read as a file."""
        found: dict[str, Rating] = {}
        try:
            lines = self._path.read_bytes().splitlines()
        except FileNotFoundError:
            return
        except OSError as error:
            log.warning("%s cannot be read, so no earlier rating counts: %s", self._path, error.strerror)
            return
        broken = 0
        for line in lines:
            try:
                rating = Rating(**json.loads(line))
                found[rating.request] = replace(rating, score=min(1.0, max(0.0, float(rating.score))))
            except (ValueError, TypeError, RecursionError):
                broken += 1
        if broken:
            log.warning("%s has %d lines that are no ratings; they are skipped", self._path, broken)
        yield from found.values()


class FeedbackRecorder:
    """Counts ratings at once and writes them behind the request's back, in order. One event loop."""

    def __init__(self, counts: Feedback, file: FeedbackLog) -> None:
        self.counts, self._file = counts, file
        self._writer = Behind("the record of ratings")

    def take(self, name: str, score: float) -> Rating:
        """Raises UnknownAnswer. A rating that cannot be written is logged and counts all the same."""
        rating = self.counts.rate(name, score)
        self._writer.give(partial(self._write, rating))
        return rating

    def close(self) -> None:
        """Wait for what is being written. Blocking (milliseconds)."""
        self._writer.close()

    def _write(self, rating: Rating) -> None:
        try:
            self._file.append(rating)
        except OSError as error:
            log.warning("a rating could not be written: %s", error)


def open_feedback(settings: FeedbackSettings | None, root: Path) -> FeedbackRecorder:
    """With the ratings of earlier runs counted. Blocking."""
    if settings is None:
        return FeedbackRecorder(NoFeedback(), FeedbackLog(root))
    counts, file = Feedback(settings.cap, settings.bound), FeedbackLog(root / settings.file)
    for rating in file.ratings():
        counts.replay(rating)
    return FeedbackRecorder(counts, file)
