"""Who of a queue is served next, straight from the queue."""

from __future__ import annotations

import pytest

from coe.core.types import DeadlineClass
from coe.scheduler.plan import ClassPlan
from coe.scheduler.queue import NOBODY, Queue, Waiter

PLANS: dict[DeadlineClass, ClassPlan] = {
    "interactive": ClassPlan(slo_s=2.0, ageing_s=10.0),
    "standard": ClassPlan(slo_s=5.0, ageing_s=20.0),
    "batch": ClassPlan(slo_s=50.0, ageing_s=100.0),
}
NOW, RUN_S = 100.0, 1.0


def queue(**since: tuple[DeadlineClass, float]) -> Queue:
    """Requests by name, with their class and since when they wait."""
    made = Queue(PLANS)
    for number, (name, (kind, moment)) in enumerate(since.items()):
        made.add(Waiter(name, "a", moment, moment, number, kind))
    return made


@pytest.mark.parametrize(
    ("requests", "first"),
    [
        # overdue goes before who can be in time, whatever the classes
        ({"old": ("standard", 79.0), "young": ("standard", 99.5)}, "old"),
        ({"young": ("interactive", 99.5), "old": ("standard", 79.0)}, "old"),
        ({"old": ("interactive", 89.0), "young": ("batch", 99.0)}, "old"),
        ({"old": ("standard", 80.0), "young": ("interactive", 99.5)}, "old"),
        # of several overdue, who has waited longest
        ({"older": ("standard", 70.0), "old": ("interactive", 75.0)}, "older"),
        ({"old": ("interactive", 75.0), "older": ("standard", 70.0)}, "older"),
        ({"one": ("standard", 70.0), "two": ("standard", 70.0)}, "one"),
        # late but not overdue: after who can be in time, the earliest deadline first
        ({"late": ("standard", 81.0), "timely": ("standard", 99.5)}, "timely"),
        ({"late": ("interactive", 95.0), "timely": ("batch", 60.0)}, "timely"),
        ({"batch": ("batch", 70.0), "soon": ("interactive", 99.9)}, "soon"),
        ({"batch": ("batch", 51.5), "soon": ("standard", 99.9)}, "batch"),
        # all late: the earliest deadline
        ({"late": ("standard", 85.0), "later": ("interactive", 91.0)}, "late"),
        ({"late": ("standard", 92.0), "sooner": ("interactive", 91.0)}, "sooner"),
    ],
)
def test_overdue_then_timely_then_late(requests: dict[str, tuple[DeadlineClass, float]], first: str) -> None:
    assert queue(**requests).next(NOW, RUN_S, timely_first=True).request == first


@pytest.mark.parametrize(("kind", "other"), [("batch", "interactive"), ("interactive", "batch")])
def test_without_deadlines_the_longest_wait_is_next(kind: DeadlineClass, other: DeadlineClass) -> None:
    made = queue(young=(kind, 99.0), old=(other, 60.0), middle=(kind, 80.0))
    assert made.next(NOW, RUN_S, timely_first=False).request == "old"


@pytest.mark.parametrize(("since", "overdue"), [(90.0, True), (90.1, False), (12.0, True)])
def test_a_request_is_overdue_from_its_ageing_on(since: float, overdue: bool) -> None:
    made = queue(r=("interactive", since), other=("batch", 99.0))
    assert made.overdue_age(NOW) == ((since, 0) if overdue else NOBODY)
    assert made.overdue_at == since + 10.0


def test_whoever_leaves_is_not_next_and_an_empty_queue_has_nobody() -> None:
    made = queue(old=("standard", 70.0), late=("standard", 93.0), young=("standard", 99.0))
    assert made.next(NOW, RUN_S, timely_first=True).request == "old"
    made.remove("old")
    assert made.next(NOW, RUN_S, timely_first=True).request == "young"
    made.remove("young")
    assert made.next(NOW, RUN_S, timely_first=True).request == "late"
    assert (len(made), made.oldest) == (1, 93.0)
    made.remove("late")
    assert (len(made), made.overdue_age(NOW)) == (0, NOBODY)
    with pytest.raises(ValueError, match="empty"):
        made.next(NOW, RUN_S, timely_first=True)


def test_requests_of_one_moment_keep_their_order_and_an_earlier_one_goes_before() -> None:
    made = queue(one=("standard", 98.0), two=("standard", 98.0), three=("standard", 98.0))
    made.add(Waiter("before", "a", 99.0, 97.0, 9))  # a later leg of a group that has waited longer
    order = []
    while len(made):
        order.append(made.next(NOW, RUN_S, timely_first=True).request)
        made.remove(order[-1])
    assert order == ["before", "one", "two", "three"]
