"""A circuit breaker: an expert that keeps failing is not asked for a while, so that nobody waits for it.

Closed: all may pass. After ``failures`` in a row it opens: all are turned away at once. After ``pause_s`` one
may pass to probe; a success closes it, a failure opens it for another pause.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from coe.core.errors import EngineError, ExpertRefused

CIRCUIT_OPEN = "circuit_open"


class Breaker:
    """Of one expert. Belongs to one event loop; ``clock`` in seconds."""

    def __init__(
        self, name: str, failures: int, pause_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._name, self._failures, self._pause_s, self._clock = name, failures, pause_s, clock
        self._in_a_row = 0
        self._open_until = -math.inf
        self._probing = False

    @property
    def open(self) -> bool:
        """Whether it turns callers away, all or all but one probe."""
        return self._in_a_row >= self._failures

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Around one call. Raises EngineError (``circuit_open``) instead of letting it pass.

        An EngineError inside is a failure; an answer, or a refusal of the request itself, a success. A call
        that was cancelled says nothing.
        """
        probe = self.open
        if probe:
            self._check()
            self._probing = True
        try:
            yield
        except EngineError:
            self._failed()
            raise
        except ExpertRefused:
            self._in_a_row = 0
            raise
        else:
            self._in_a_row = 0
        finally:
            if probe:
                self._probing = False

    def _check(self) -> None:
        left = self._open_until - self._clock()
        if left > 0 or self._probing:
            raise EngineError(
                f"{self._name} failed {self._in_a_row} times in a row and is left alone for the moment",
                code=CIRCUIT_OPEN,
                hint="Look at its last errors in the log; it is tried again by itself.",
                retry_after_s=max(left, 1.0),
            )

    def _failed(self) -> None:
        self._in_a_row += 1
        if self.open:
            self._open_until = self._clock() + self._pause_s
