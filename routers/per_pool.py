"""What a router derives from the experts passed to it: the same ones come with request after request."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from coe.core.types import ExpertView

T = TypeVar("T")


class PerPool(Generic[T]):
    """``make(experts)``, kept until other experts come. Thread-safe when ``make`` is; two threads with other
    experts at the same time both make it."""

    def __init__(self, make: Callable[[tuple[ExpertView, ...]], T]) -> None:
        self._make = make
        self._last: tuple[tuple[ExpertView, ...], T] | None = None

    def of(self, experts: Sequence[ExpertView]) -> T:
        # Quick for the very same experts: comparing tuples looks at identity first.
        asked, last = tuple(experts), self._last
        if last is None or last[0] != asked:
            last = self._last = asked, self._make(asked)
        return last[1]
