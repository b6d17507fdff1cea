"""Time for a scheduler's world: what is begun takes as long as the test says, and then ends."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable

from coe.scheduler.events import Action, Evict, Grant, Load, Prefetch, Sleep, Wake
from coe.testing.scheduling import Seat, World


class Course:
    """The course of events in one world. ``carry_out`` gets the actions that each of them leads to."""

    def __init__(self, world: World, carry_out: Callable[[list[Action]], None]) -> None:
        self._world, self._carry_out = world, carry_out
        self._numbers = itertools.count()
        self._due: list[tuple[float, int, Action]] = []

    def ends_in(self, seconds: float, action: Action) -> None:
        """What ``action`` has begun ends so much later."""
        heapq.heappush(self._due, (self._world.now + seconds, next(self._numbers), action))

    def run(self, until: float) -> None:
        world = self._world
        while (moment := min(self._next_end(), world.scheduler.next_tick())) <= until:
            self._carry_out(world.wait(max(0.0, moment - world.now)))
            while self._next_end() <= world.now:
                self._end(heapq.heappop(self._due)[2])
        self._carry_out(world.wait(until - world.now))

    def _next_end(self) -> float:
        return self._due[0][0] if self._due else math.inf

    def _end(self, action: Action) -> None:
        match action:
            case Load() | Wake():
                self._carry_out(self._world.ready(action.expert, action.host))
            case Sleep() | Evict():
                self._carry_out(self._world.slept(action.expert, action.host))
            case Prefetch() if Seat(action.expert, action.host) in self._world.reading:
                self._carry_out(self._world.end_prefetch(Seat(action.expert, action.host)))
            case Grant() if action.request in self._world.leases:
                self._carry_out(self._world.finish(action.request))
