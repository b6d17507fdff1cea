"""What the pipeline needs of the pool: leases on experts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Protocol

from coe.core.types import DeadlineClass, Engine, ExpertId, RequestId, WakeFrom

Clock = Callable[[], float]


class Lease(Protocol):
    """The right to ask one expert, held while it answers. Times in milliseconds."""

    @property
    def expert(self) -> ExpertId:
        """The expert that was asked for, or one of the alternatives."""
        ...

    @property
    def asked_for(self) -> ExpertId: ...
    @property
    def engine(self) -> Engine: ...
    @property
    def queue_ms(self) -> float: ...
    @property
    def swap_ms(self) -> float: ...
    @property
    def wake_from(self) -> WakeFrom: ...


class Leases(Protocol):
    """What the pipeline needs of the pool."""

    def lease(
        self,
        request_id: RequestId,
        expert: ExpertId,
        deadline_class: DeadlineClass,
        timeout_s: float,
        *,
        group: RequestId | None = None,
        alternatives: Sequence[ExpertId] = (),
    ) -> AbstractAsyncContextManager[Lease]:
        """Waits until ``expert``, or one of ``alternatives`` if that is sooner, is ready and has room.

        Leaving the block gives the lease back. Legs with one ``group`` are scheduled together.
        """
        ...

    def expect(
        self, request_id: RequestId, expert: ExpertId, group: RequestId | None = None
    ) -> AbstractContextManager[None]:
        """Announces a lease that will be taken inside the block, so that ``expert`` may come in early."""
        ...

    def forecast(self, expert: ExpertId) -> float:
        """Seconds that a request for ``expert`` arriving now would wait."""
        ...
