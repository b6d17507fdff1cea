"""What requests have to do with each other: the legs of one group, and leases that are expected.

Only the scheduler calls these functions.
"""

from __future__ import annotations

from coe.core.types import ExpertId, RequestId
from coe.scheduler.events import Expected
from coe.scheduler.replica import ExpertState
from coe.scheduler.state import Expectation, Group, SchedulerState
from coe.scheduler.swaps import StepContext


def join(state: SchedulerState, group: RequestId | None, now: float) -> float:
    """Another leg of ``group`` is here; since when its client waits."""
    if group is None:
        return now
    known = state.groups.setdefault(group, Group(now))
    known.legs += 1
    return known.since


def got(state: SchedulerState, group: RequestId | None, expert: ExpertId) -> None:
    """A leg of ``group`` has its lease."""
    known = state.groups.get(group) if group is not None else None
    if known is not None:
        known.experts.add(expert)


def leave(state: SchedulerState, group: RequestId | None) -> None:
    """A leg has ended. The group is forgotten with its last."""
    known = state.groups.get(group) if group is not None else None
    if known is None or group is None:
        return
    known.legs -= 1
    if known.legs <= 0:
        del state.groups[group]
        if known.experts:
            state.usage.used(known.experts)


def expect(state: SchedulerState, event: Expected, step: StepContext) -> None:
    """Note that a lease on an expert will be wanted. Unknown experts and repetitions are ignored."""
    expert = state.experts.get(event.expert)
    if expert is None or expert.retiring or event.request in state.expected:
        return
    join(state, event.group, step.now)
    state.expected[event.request] = Expectation(expert, event.group)
    expert.expected += 1
    if event.group is not None:
        expert.legs[event.group] += 1
    _list_expected(expert, step)


def fulfil(state: SchedulerState, request: RequestId, step: StepContext) -> None:
    """The expected lease is wanted now, or not any more."""
    expectation = state.expected.pop(request, None)
    if expectation is None:
        return
    expert = expectation.expert
    expert.expected -= 1
    if expectation.group is not None:
        expert.leave_group(expectation.group)
    leave(state, expectation.group)
    _list_expected(expert, step)


def _list_expected(expert: ExpertState, step: StepContext) -> None:
    for replica in expert.replicas.values():
        if expert.expected and not replica.retired:
            replica.host.expected[expert.id] = replica
        else:
            replica.host.expected.pop(expert.id, None)
        step.touch(replica.host)
