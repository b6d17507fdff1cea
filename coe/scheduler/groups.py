"""What requests have to do with each other: the legs of one group, and leases that are expected.

Part of the scheduler's bookkeeping; only it calls these functions.
"""

from __future__ import annotations

from coe.core.types import ExpertId, RequestId
from coe.scheduler.events import Expected
from coe.scheduler.state import Books, Expectation, ExpertState, Group
from coe.scheduler.swaps import Turn


def join(books: Books, group: RequestId | None, now: float) -> float:
    """Another leg of ``group`` is here; since when its client waits."""
    if group is None:
        return now
    known = books.groups.setdefault(group, Group(now))
    known.legs += 1
    return known.since


def got(books: Books, group: RequestId | None, expert: ExpertId) -> None:
    """A leg of ``group`` has its lease."""
    known = books.groups.get(group) if group is not None else None
    if known is not None:
        known.experts.add(expert)


def leave(books: Books, group: RequestId | None) -> None:
    """A leg has ended. The group is forgotten with its last."""
    known = books.groups.get(group) if group is not None else None
    if known is None or group is None:
        return
    known.legs -= 1
    if known.legs <= 0:
        del books.groups[group]
        if known.experts:
            books.account.used(known.experts)


def expect(books: Books, event: Expected, turn: Turn) -> None:
    """Note that a lease on an expert will be wanted. Unknown experts and repetitions are ignored."""
    expert = books.experts.get(event.expert)
    if expert is None or expert.retiring or event.request in books.expected:
        return
    join(books, event.group, turn.now)
    books.expected[event.request] = Expectation(expert, event.group)
    expert.expected += 1
    if event.group is not None:
        expert.legs[event.group] += 1
    _list_expected(expert, turn)


def fulfil(books: Books, request: RequestId, turn: Turn) -> None:
    """The expected lease is wanted now, or not any more."""
    expectation = books.expected.pop(request, None)
    if expectation is None:
        return
    expert = expectation.expert
    expert.expected -= 1
    if expectation.group is not None:
        expert.leave_group(expectation.group)
    leave(books, expectation.group)
    _list_expected(expert, turn)


def _list_expected(expert: ExpertState, turn: Turn) -> None:
    for replica in expert.replicas.values():
        if expert.expected and not replica.retired:
            replica.host.expected[expert.id] = replica
        else:
            replica.host.expected.pop(expert.id, None)
        turn.touch(replica.host)
