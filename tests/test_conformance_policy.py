"""The conformance check of scheduling policies: ours keep the contract, and each way to break it is found."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import pytest

from coe.core.types import ExpertId
from coe.registry.schema import Pool
from coe.scheduler.policies import CollatingFifo, HostView, ReplicaView, Rules, Swap
from coe.simulate.baselines import POLICIES, make_policy
from coe.testing.conformance_policy import PolicyContractError, check_policy


@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_of_the_table_keeps_the_contract(name: str) -> None:
    check_policy(make_policy(Pool(hosts=(), policy=name, pinned=("b", "lora-1"))), runs=10)


class Nameless(CollatingFifo):
    def __init__(self) -> None:
        super().__init__(name="")


class GrantsNobody(CollatingFifo):
    def grant(self, view: HostView, grantable: Sequence[ReplicaView]) -> ExpertId | None:
        return None


class GrantsAStranger(CollatingFifo):
    def grant(self, view: HostView, grantable: Sequence[ReplicaView]) -> ExpertId | None:
        return "nobody"


class ChangesItsMind(CollatingFifo):
    numbers = itertools.count()

    def grant(self, view: HostView, grantable: Sequence[ReplicaView]) -> ExpertId | None:
        return grantable[next(self.numbers) % len(grantable)].expert.id if next(self.numbers) % 3 else None


class LoadsWithoutRoom(CollatingFifo):
    def swap(self, view: HostView) -> Swap | None:
        return Swap(view.candidates[0].expert.id) if view.candidates else None


class ClosesWhoIsAway(CollatingFifo):
    def swap(self, view: HostView) -> Swap | None:
        return Swap(None, ("nobody",))


class WakesInThePast(CollatingFifo):
    def wake_at(self, view: HostView) -> float:
        return view.now


class WakesAtNoTime(CollatingFifo):
    def wake_at(self, view: HostView) -> float:
        return math.nan


class FramesBelowNothing(CollatingFifo):
    def frame(self, replica: ReplicaView) -> int:
        return -1


class Raises(CollatingFifo):
    def swap(self, view: HostView) -> Swap | None:
        raise KeyError("no such key")


class WantsSomethingThoughNobodyWaits(CollatingFifo):
    rules = Rules(only_for_waiting=True)

    def swap(self, view: HostView) -> Swap | None:
        idle = [r for r in view.residents if not (r.running or r.expert.queued)]
        return Swap(None, (idle[0].expert.id,)) if idle else super().swap(view)


class LoadsNobody(CollatingFifo):
    def swap(self, view: HostView) -> Swap | None:
        return None


@pytest.mark.parametrize(
    ("policy", "promise"),
    [
        (Nameless, "name is a non-empty text"),
        (GrantsNobody, "wait for nothing|starve"),
        (LoadsNobody, "wait for nothing|starve"),
        (GrantsAStranger, "grant names one of those that are grantable"),
        (ChangesItsMind, "grant answers the same to the same view"),
        (LoadsWithoutRoom, "cannot be loaded now"),
        (ClosesWhoIsAway, "is not awake and cannot be closed"),
        (WakesInThePast, "wake_at lies after now"),
        (WakesAtNoTime, "wake_at answers the same"),
        (FramesBelowNothing, "frame is a whole number"),
        (Raises, "KeyError"),
        (WantsSomethingThoughNobodyWaits, "replayed"),
    ],
)
def test_a_broken_policy_is_found(policy: Any, promise: str) -> None:
    with pytest.raises(PolicyContractError, match=promise):
        check_policy(policy())


def test_the_same_seed_brings_the_same_events() -> None:
    messages = []
    for _ in range(2):
        with pytest.raises(PolicyContractError) as caught:
            check_policy(LoadsWithoutRoom(), seed=3)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    assert "the last events: Failed(" in messages[0]
