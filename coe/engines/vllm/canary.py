"""The canary, a cheap proof that the right weights are loaded: one prompt's first log-probabilities.

They are compared with ``canary.json`` in the checkpoint folder when there is one, else with what the
same checkpoint gave the first time this process saw it. ``canary.json``::

    {"prompt": "The capital of France is", "top_logprobs": {"7042": -0.31, "260": -2.2}, "tolerance": 0.05}

Keys are token ids, values natural logarithms at temperature 0; ``tolerance`` is optional.
"""

from __future__ import annotations

import json
import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coe.core.errors import EngineError
from coe.core.files import off_the_loop
from coe.engines.vllm.checkpoint import ModelSource, same_weights

PROMPT = "The capital of France is"
TOP = 5
RECORDED_TOLERANCE = 0.1
"""Between machines and dtypes; fine-tunes of one base differ by far more on their own skill's prompt."""


@dataclass(frozen=True)
class Fingerprint:
    """Log-probabilities of the likeliest first tokens after ``prompt``, by token id."""

    prompt: str
    top_logprobs: Mapping[str, float]

    @property
    def top(self) -> str:
        return max(self.top_logprobs, key=lambda token: self.top_logprobs[token])

    def distance(self, other: Fingerprint) -> float:
        """The largest difference over the tokens of both; infinite if a top token is not in the other."""
        if self.top not in other.top_logprobs or other.top not in self.top_logprobs:
            return math.inf
        shared = set(self.top_logprobs) & set(other.top_logprobs)
        return max(abs(self.top_logprobs[t] - other.top_logprobs[t]) for t in shared)


@dataclass(frozen=True)
class Recorded:
    """An expected fingerprint and how far an observation may be from it."""

    fingerprint: Fingerprint
    tolerance: float


def question(prompt: str) -> dict[str, Any]:
    """The body for ``/v1/completions`` whose answer :func:`fingerprint` reads."""
    return {
        "prompt": prompt,
        "max_tokens": 1,
        "temperature": 0,
        "logprobs": TOP,
        "return_tokens_as_token_ids": True,
    }


def fingerprint(prompt: str, answer: Any) -> Fingerprint:
    """Raises EngineError when the answer has no finite log-probabilities (as of corrupted weights)."""
    try:
        top = answer["choices"][0]["logprobs"]["top_logprobs"][0]
        values = {str(token).removeprefix("token_id:"): float(value) for token, value in top.items()}
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise EngineError("The canary prompt got no log-probabilities.", code="canary_failed") from error
    if not values or not all(math.isfinite(value) for value in values.values()):
        raise EngineError("The canary prompt got no finite log-probabilities.", code="canary_failed")
    return Fingerprint(prompt, values)


def read_canary(folder: Path | None) -> Recorded | None:
    """The recorded canary of a checkpoint folder, if it has one. Raises EngineError when unreadable."""
    file = folder / "canary.json" if folder else None
    if file is None or not file.exists():
        return None
    try:
        data = json.loads(file.read_text())
        values = {str(token): float(value) for token, value in data["top_logprobs"].items()}
        recorded = Recorded(
            Fingerprint(str(data["prompt"]), values), float(data.get("tolerance", RECORDED_TOLERANCE))
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise EngineError(
            f"{file} cannot be used: {error!r}", code="canary_failed", hint="Delete it or make it again."
        ) from error
    if not values:
        raise EngineError(f"{file} has no top_logprobs.", code="canary_failed", hint="Delete it.")
    return recorded


class Canaries:
    """What the checkpoints answered, and the judgement whether one that was loaded is itself.

    ``tolerance`` is what one machine may differ from itself: rounding of dtype and kernels, in nats.
    """

    def __init__(self, tolerance: float) -> None:
        self._tolerance = tolerance
        self._seen: dict[ModelSource, Fingerprint] = {}

    async def prove(self, source: ModelSource, ask: Callable[[str], Awaitable[Fingerprint]]) -> None:
        """Raises EngineError (``canary_failed``) unless ``ask`` answers with the weights of ``source``."""
        recorded = await off_the_loop(read_canary, source.folder)
        if recorded is not None:
            seen = await ask(recorded.fingerprint.prompt)
            _require_close(source, seen, recorded.fingerprint, recorded.tolerance)
            return
        seen, before = await ask(PROMPT), self._seen.get(source)
        if before is not None:
            _require_close(source, seen, before, self._tolerance)
            return
        await self._require_new(source, seen)
        self._seen[source] = seen

    async def _require_new(self, source: ModelSource, seen: Fingerprint) -> None:
        """A first answer that equals another checkpoint's to all digits: the reload had no effect."""
        twin = next((other for other, answer in self._seen.items() if answer == seen), None)
        if twin is None or twin.folder is None or source.folder is None or twin.name == source.name:
            return
        if not await off_the_loop(same_weights, source.folder, twin.folder):
            raise EngineError(
                f"The canary of {source.name} failed: it answers with the weights of {twin.name}.",
                code="canary_failed",
            )


def _require_close(source: ModelSource, seen: Fingerprint, expected: Fingerprint, tolerance: float) -> None:
    distance = seen.distance(expected)
    if distance > tolerance:
        raise EngineError(
            f"The canary of {source.name} failed: its answer is {distance:.3g} away from the expected one"
            f" (allowed: {tolerance:g}).",
            code="canary_failed",
            hint="The next request loads it again. If it stays so, repair the checkpoint or its canary.json.",
        )
