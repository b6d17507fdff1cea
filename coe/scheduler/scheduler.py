"""The swap-aware scheduler: events in, actions out. Pure: no clock, log, random numbers or asyncio.

The service, the simulator and the property tests run this same object. It guarantees, whatever the
policy answers: every request ends once (granted and finished, rejected, or cancelled); an expert with
leases out is never put to sleep or evicted; capacity and batch bounds hold; the same events give the same
actions. ``step`` costs time in the number of experts with work on the hosts concerned, not of requests.

**The decision order.** One call of ``step`` does this; the numbers stand again where it is done:

1.  Note the event: queue or refuse a request, move a replica to its next state, take back a lease. A
    request that finds room where nobody waits and nothing moves is granted at once, and that is all.
2.  Choose the hosts to decide about: those that the event concerns, and those whose time has come. Each
    decision may add others, until none is left. For each of them:
3.  Withdraw loads that nobody waits for any more. Give room that is still to come to the expert whose
    overdue request has waited longest.
4.  Put away what must leave: sleeps that failed are tried again as evictions, and what the plan no longer
    has goes.
5.  Keep to the budget of the RAM.
6.  Let idle experts take requests that wait elsewhere and named them as alternatives, and grant those.
7.  Ask the policy whom to load and whom to close for it, until it is content.
8.  Promise room that is left over to experts whose requests are announced.
9.  Start promised loads whose room is free.
10. Read ahead the weights of who comes next.
11. Ask the policy whom to grant, until the batch or the work is used up. Where anyone was granted, go on
    with 4: a queue that has become empty may let its expert be closed.
12. Set when to look at the host again though nothing happens.
13. Forget experts and hosts that the plan no longer has and that hold nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from coe.core.types import ExpertId, RequestId, WakeFrom
from coe.scheduler.admission import Admission
from coe.scheduler.dispatch import Dispatcher
from coe.scheduler.estimates import WorkDone
from coe.scheduler.events import (
    Action,
    Arrived,
    Cancelled,
    Event,
    Expected,
    Failed,
    Finished,
    Grant,
    HostId,
    Prefetched,
    Ready,
    Slept,
    Tick,
)
from coe.scheduler.forecast import expected_wait
from coe.scheduler.groups import expect, fulfil, got, leave
from coe.scheduler.plan import PoolPlan
from coe.scheduler.policies import Policy
from coe.scheduler.reconfigure import apply_plan, check_plan
from coe.scheduler.replica import Health, Replica
from coe.scheduler.snapshot import PoolSnapshot, take_snapshot
from coe.scheduler.state import Lease, SchedulerState
from coe.scheduler.swaps import StepContext, put_away, withdraw
from coe.scheduler.watch import UnderWay, describe, waits_in_vain


class Scheduler:
    """Owns which experts are in memory and who may use them. Not thread-safe: one caller.

    ``now`` (seconds, any origin) must not go backwards between calls.
    """

    def __init__(self, plan: PoolPlan, policy: Policy) -> None:
        self._state = SchedulerState(plan)
        self._rules, self._across_hosts = policy.rules, policy.across_hosts
        self._admission = Admission(self._state, policy.rules)
        self._dispatcher = Dispatcher(policy, self._take_head, self._admission.steal_queued)
        apply_plan(self._state, plan, StepContext(-math.inf))

    def step(self, event: Event, now: float) -> list[Action]:
        """Note ``event`` and decide. Actions are to be carried out in order.

        Reports that no longer fit (of a host or expert that is gone) are ignored. Raises ValueError for an
        Arrived whose request is already here.
        """
        step = StepContext(now)
        match event:  # 1.
            case Arrived():
                if not self._granted_at_once(event, step):
                    self._admission.arrived(event, step)
            case Expected():
                if self._rules.groups:
                    expect(self._state, event, step)
            case Finished():
                self._release(event.request, step, ok=event.ok)
            case Cancelled():
                self._cancelled(event.request, step)
            case Ready():
                self._ready(event, step)
            case Slept():
                self._slept(event, step)
            case Prefetched():
                self._prefetched(event, step)
            case Failed():
                self._failed(event, step)
            case Tick():
                pass
        return self._settle(step)

    def reconfigure(self, plan: PoolPlan, now: float) -> list[Action]:
        """Change to another plan. A removed expert takes no new requests, serves its queue, then leaves."""
        step = StepContext(now)
        for host in self._state.hosts.values():
            for commitment in host.commitments:
                withdraw(commitment, step)
            host.commitments = []
        apply_plan(self._state, plan, step)
        return self._settle(step)

    def check(self, plan: PoolPlan) -> None:
        """Raises ConfigError where :meth:`reconfigure` would."""
        check_plan(self._state, plan)

    def next_tick(self) -> float:
        """When to send a Tick if nothing else happens before; ``inf``: never."""
        return min((host.wake_at for host in self._state.hosts.values()), default=math.inf)

    def forecast(self, expert: ExpertId, now: float) -> float:
        """Expected wait in seconds of a request that came now; ``inf`` if it would be rejected."""
        state = self._state.experts.get(expert)
        return math.inf if state is None else expected_wait(state, now)

    def snapshot(self) -> PoolSnapshot:
        return take_snapshot(self._state)

    @property
    def idle_s(self) -> float:
        """For how long the policy may leave a place idle though somebody waits for it; 0 where it does not
        say, and an idle place is no sign of anything."""
        return self._rules.idle_s if math.isfinite(self._rules.idle_s) else 0.0

    def waits_in_vain(self, under_way: UnderWay, now: float) -> Mapping[ExpertId, str]:
        """Experts whose requests have no reason to wait, by what is really under way, and what is wrong. To
        be believed when it stays so: see :class:`coe.scheduler.watch.StuckWatch`."""
        return waits_in_vain(self._state, under_way, now, math.isfinite(self._rules.idle_s))

    def describe(self, under_way: UnderWay, now: float) -> dict[str, Any]:
        """Its state for the log, as JSON has it."""
        return describe(self._state, under_way, now)

    def work_done(self, now: float) -> WorkDone:
        """Until ``now``, that of leases still out included."""
        state = self._state
        leases = ((lease.replica, lease.began) for lease in state.leases.values())
        under_way = ((r.expert.id, state.usage.share_s(r.host.plan.id, b, now)) for r, b in leases)
        load_s = {e.id: r.costs.load.mean for e in state.experts.values() for r in e.replicas.values()}
        return state.usage.so_far(under_way, load_s)

    def hosts(self) -> tuple[HostId, ...]:
        """Hosts in use, those included that leave as soon as their last expert has."""
        return tuple(self._state.hosts)

    def residents(self, host: HostId) -> tuple[ExpertId, ...]:
        """Experts that are awake or draining on ``host``; none where all always are."""
        state = self._state.hosts.get(host)
        residents = state.residents.values() if state and not state.plan.always_awake else ()
        return tuple(r.expert.id for r in residents if r.state in ("awake", "draining"))

    def _settle(self, step: StepContext) -> list[Action]:
        # 2. In the order in which they were touched: an arrival touches the host that it suits best first.
        for host in self._state.hosts.values():
            if host.wake_at <= step.now:
                step.touch(host)
        while step.dirty:
            host = next(iter(step.dirty.values()))
            changes = step.changes
            if not host.at_rest(self._rules.only_for_waiting):
                self._dispatcher.decide(host, step)  # 3. to 12.
            # Only now: what the host did to itself meanwhile is decided already.
            step.dirty.pop(host.plan.id, None)
            if step.changes > changes and self._across_hosts:
                for other in self._state.hosts.values():
                    if other is not host:
                        step.touch(other)
        if self._state.leavers:
            self._state.forget_the_gone()  # 13.
        return step.actions

    def _granted_at_once(self, event: Arrived, step: StepContext) -> bool:
        """Grant a request that finds room where nobody waits and nothing moves. What comes of it is what the
        whole order of decisions would come to: there is nothing to decide."""
        state, expert = self._state, self._state.experts.get(event.expert)
        if expert is None or expert.retiring or event.group is not None:
            return False
        if event.request in state.leases or event.request in state.expected or self._across_hosts:
            return False
        awake = [replica for replica in expert.replicas.values() if replica.state == "awake"]
        if not awake or not all(
            replica.host.at_rest(self._rules.only_for_waiting) for replica in expert.replicas.values()
        ):
            return False
        replica = min(awake, key=lambda each: each.running / each.max_running)
        if not replica.has_batch_room or expert.quarantined_until(step.now) is not None:
            return False
        expert.rate.add(step.now)
        self._lease(replica, event.request, None, step.now)
        step.actions.append(Grant(event.request, expert.id, replica.host.plan.id))
        return True

    def _lease(self, replica: Replica, request: RequestId, group: RequestId | None, now: float) -> None:
        began = self._state.usage.begin(replica.host.plan.id, now)
        self._state.leases[request] = Lease(replica, now, group, began)
        replica.running += 1
        replica.host.running += 1
        replica.used_at = now

    def _take_head(self, replica: Replica, step: StepContext) -> Grant:
        """Turn the oldest request of a replica's expert into a lease."""
        expert, now = replica.expert, step.now
        chosen = expert.queue.next(now, expert.run_s, self._rules.timely_first)
        waiter = self._admission.gone(chosen.request)
        self._lease(replica, waiter.request, waiter.group, now)
        got(self._state, waiter.group, expert.id)
        replica.frame_left = max(0, replica.frame_left - 1)
        bringing = replica.bringing
        loaded: WakeFrom = "awake" if replica.ready_at <= waiter.arrived else bringing.source
        swap_s = max(0.0, replica.ready_at - max(waiter.arrived, bringing.started))
        return Grant(
            waiter.request,
            expert.id,
            replica.host.plan.id,
            queued_s=now - waiter.arrived,
            swap_s=0.0 if loaded == "awake" else swap_s,
            wake_from=loaded,
        )

    def _release(self, request: RequestId, step: StepContext, ok: bool) -> None:
        lease = self._state.leases.pop(request, None)
        if lease is None:
            return
        replica = lease.replica
        self._state.usage.end(replica.expert.id, replica.host.plan.id, lease.began, step.now)
        if lease.group is None:
            self._state.usage.used({replica.expert.id})
        else:
            leave(self._state, lease.group)
        replica.running -= 1
        replica.host.running -= 1
        replica.used_at = step.now
        if ok:
            self._state.longest.ran(step.now - lease.granted)
            replica.expert.run.add(step.now - lease.granted)
            if replica.state == "awake":
                replica.health = Health()
        if replica.state == "draining":
            put_away(replica, step)
        if not replica.host.at_rest(self._rules.only_for_waiting):
            step.touch(replica.host)

    def _cancelled(self, request: RequestId, step: StepContext) -> None:
        fulfil(self._state, request, step)
        expert = self._state.waiting.get(request)
        if expert is None:
            self._release(request, step, ok=False)
            return
        leave(self._state, self._admission.gone(request).group)
        for replica in expert.replicas.values():
            step.touch(replica.host)

    def _ready(self, event: Ready, step: StepContext) -> None:
        replica = self._state.replica(event.expert, event.host)
        if replica is None or replica.state != "loading":
            return
        bringing = replica.bringing
        took = step.now - bringing.started if event.took_s is None else event.took_s
        self._state.longest.loaded(took)
        (bringing.cost or replica.costs.load).add(took)
        bringing.count += 1
        replica.ready_at = replica.used_at = step.now
        replica.move("awake")
        replica.frame_left = min(self._dispatcher.policy.frame(replica), replica.expert.queued)
        step.touch_hosts_of(replica)

    def _slept(self, event: Slept, step: StepContext) -> None:
        replica = self._state.replica(event.expert, event.host)
        if replica is None or replica.state != "going_to_sleep":
            return
        leaving = replica.leaving
        self._state.longest.slept(step.now - leaving.started)
        if leaving.to == "sleeping":
            replica.costs.sleep.add(step.now - leaving.started)
        replica.retry_at, leaving.failures = -math.inf, 0
        replica.move(leaving.to)
        step.touch_hosts_of(replica)
        self._touch_node(replica, step)

    def _prefetched(self, event: Prefetched, step: StepContext) -> None:
        replica = self._read_ended(event, step)
        if replica is None or replica.read.state != "reading":
            return
        replica.costs.read.add(step.now - replica.read.started)
        if replica.state == "cold":
            replica.read.state = "read"
        self._touch_node(replica, step)

    def _read_ended(self, event: Prefetched | Failed, step: StepContext) -> Replica | None:
        """Of whom; it may be read again from now on."""
        host = self._state.hosts.get(event.host)
        if host is not None and event.expert in host.reads:
            host.reads.remove(event.expert)
            step.touch(host)
        return self._state.replica(event.expert, event.host)

    def _touch_node(self, replica: Replica, step: StepContext) -> None:
        """Whoever shares its RAM may have something to do."""
        for host in self._state.hosts.values():
            if host.ram is replica.host.ram:
                step.touch(host)

    def _prefetch_failed(self, event: Failed, step: StepContext) -> None:
        replica = self._read_ended(event, step)
        if replica is not None and replica.read.state == "reading":
            replica.forget_ram()
            replica.read.state = "failed"
            self._touch_node(replica, step)

    def _failed(self, event: Failed, step: StepContext) -> None:
        if event.during == "prefetch":
            self._prefetch_failed(event, step)
            return
        replica = self._state.replica(event.expert, event.host)
        if replica is None:
            return
        if event.during == "sleep" and replica.state == "going_to_sleep":
            self._sleep_failed(replica, step)
        elif event.during == "load" and replica.state == "loading":
            replica.move("cold")
            self._count_failure(replica, event.reason, step)
        elif event.during == "run" and replica.state in ("awake", "draining"):
            if replica.crashed or replica.host.plan.always_awake:
                return
            replica.crashed = True
            replica.move("draining")  # Until its leases are back.
            self._count_failure(replica, event.reason, step)
            put_away(replica, step)

    def _sleep_failed(self, replica: Replica, step: StepContext) -> None:
        """Try again. After too many failures take the room to be free: a load that does not fit fails by
        itself, while a place held for ever would fail everyone."""
        leaving = replica.leaving
        leaving.failures += 1
        step.touch_hosts_of(replica)
        if leaving.failures < self._state.plan.max_failures:
            replica.retry(step.now + self._backoff(leaving.failures))
        else:
            replica.retry_at, leaving.failures = -math.inf, 0
            replica.move("cold")

    def _count_failure(self, replica: Replica, reason: str, step: StepContext) -> None:
        """Try again later; give up on those who wait when no host is left to try."""
        plan, health = self._state.plan, replica.health
        health.failures += 1
        health.quarantined = health.failures >= plan.max_failures
        pause_s = plan.quarantine_s if health.quarantined else self._backoff(health.failures)
        replica.retry(step.now + pause_s)
        step.touch_hosts_of(replica)
        expert = replica.expert
        if expert.quarantined_until(step.now) is not None:
            self._admission.hand_over(expert, f"could not be loaded: {reason}", step)

    def _backoff(self, failures: int) -> float:
        return self._state.plan.retry_s * 2.0 ** (failures - 1)
