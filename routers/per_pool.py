"""What a router derives from the experts passed to it: the same ones come with request after request."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from coe.core.types import ExpertView

T = TypeVar("T")


class PerPool(Generic[T]):
    """``make(experts)``, kept until other experts come. Thread-safe when ``make`` is; two threads with other
    experts at the same time both make it. It does not keep ``make``, a method of its owner as a rule: the
    two would hold each other, and a router of an earlier generation would stay."""

    def __init__(self) -> None:
        self._last: tuple[tuple[ExpertView, ...], T] | None = None

    def of(self, experts: Sequence[ExpertView], make: Callable[[tuple[ExpertView, ...]], T]) -> T:
        # Quick for the very same experts: comparing tuples looks at identity first.
        asked, last = tuple(experts), self._last
        if last is None or last[0] != asked:
            last = self._last = asked, make(asked)
        return last[1]
