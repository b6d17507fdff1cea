"""How experts are brought in and put away: orders to the hosts, within the budget of the RAM."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from coe.scheduler.events import Action, Evict, Load, Release, Sleep, Wake
from coe.scheduler.plan import EPSILON
from coe.scheduler.replica import AT_REST, DROPPED, Commitment, HostState, Ram, Replica


@dataclass(slots=True)
class StepContext:
    """One call of ``step``: the time, the actions so far, and the hosts to look at again.

    ``changes`` counts grants and swaps.
    """

    now: float
    changes: int = 0
    actions: list[Action] = field(default_factory=list)
    dirty: dict[str, HostState] = field(default_factory=dict)

    def touch(self, host: HostState) -> None:
        self.dirty[host.plan.id] = host

    def touch_hosts_of(self, replica: Replica) -> None:
        """What one replica does changes what the expert's others should do."""
        for other in replica.expert.replicas.values():
            self.touch(other.host)


def commit(replica: Replica, victims: Sequence[Replica], step: StepContext) -> None:
    """Promise that ``replica`` is loaded as soon as ``victims`` have left."""
    replica.committed = True
    replica.expert.recount()
    replica.host.commitments.append(Commitment(replica, tuple(victims)))
    step.touch_hosts_of(replica)
    for victim in victims:
        drain(victim, step)


def withdraw(commitment: Commitment, step: StepContext) -> None:
    """Take back a promise: its victims stay, unless they have left or must leave anyway."""
    commitment.replica.committed = False
    commitment.replica.expert.recount()
    step.touch_hosts_of(commitment.replica)
    for victim in commitment.victims:
        if victim.state == "draining" and not victim.crashed:
            victim.move("awake")
            step.touch_hosts_of(victim)


def start_load(replica: Replica, step: StepContext) -> None:
    waking, bringing = replica.state == "sleeping", replica.bringing
    replica.committed = False
    bringing.cost = replica.load_cost  # Before the state changes: the cost depends on it.
    bringing.source = "sleeping" if waking else "ram" if replica.read.state == "read" else "cold"
    bringing.started = step.now
    replica.move("loading")
    order = Wake if waking else Load
    step.actions.append(order(replica.expert.id, replica.host.plan.id))


def drain(replica: Replica, step: StepContext) -> None:
    """Grant nothing more on an awake replica; put it away when its leases are back."""
    replica.move("draining")
    step.touch_hosts_of(replica)
    put_away(replica, step)


def put_away(replica: Replica, step: StepContext) -> None:
    """Order a drained replica to sleep. One that has nothing to free is cold at once."""
    if replica.state != "draining" or replica.running:
        return
    step.touch_hosts_of(replica)
    if replica.crashed or replica.host.plan.always_awake:
        replica.crashed = False
        replica.move("cold")
        return
    replica.leaving.failures = 0
    if replica.outdated or not replica.host.plan.sleeps:
        evict(replica, step)
        return
    level = _sleep_level(replica, step)
    if level is None:
        return
    _begin_leaving(replica, "sleeping", step)
    replica.leaving.level = level
    replica.move("going_to_sleep")
    if level != DROPPED:
        replica.host.ram.hold(replica)
    step.actions.append(Sleep(replica.expert.id, replica.host.plan.id, level))


def _sleep_level(replica: Replica, step: StepContext) -> int | None:
    """The host's level, or 2 where its weights are worth less than what is in RAM already; None: wait until
    what is worth less has left."""
    ram, size = replica.host.ram, replica.weights_gb
    level = replica.host.plan.sleep_level
    if level == DROPPED or ram.takes(size):
        return level
    below = math.inf if replica.needed else _worth_in_ram(replica, step.now)
    chosen = _ram_victims(ram, size - ram.free - _leaving_ram(ram), step.now, below)
    if chosen is None:
        return DROPPED
    for victim in chosen:
        _leave_ram(victim, step)
    return level if ram.takes(size) else None


def make_room(host: HostState, size: float, step: StepContext) -> bool:
    """Room in RAM for weights that are read ahead, at the expense of others that were: who sleeps stays."""
    chosen = _ram_victims(host.ram, size - host.ram.free, step.now)
    if chosen is None or any(victim.state == "sleeping" for victim in chosen):
        return False
    for victim in chosen:
        _leave_ram(victim, step)
    return True


def keep_ram(host: HostState, step: StepContext) -> None:
    """Send out what a smaller budget has no room for, and put away who waited for room in RAM."""
    ram = host.ram
    if not math.isfinite(ram.budget):
        return
    for victim in _ram_victims(ram, -ram.free - _leaving_ram(ram), step.now) or ():
        _leave_ram(victim, step)
    for replica in [r for r in host.residents.values() if r.state == "draining" and not r.running]:
        put_away(replica, step)


def evict(replica: Replica, step: StepContext) -> None:
    """Order that nothing of the expert stays."""
    slept = replica.state == "sleeping"
    _begin_leaving(replica, "cold", step)
    replica.move("going_to_sleep")
    if slept:
        replica.held = 0.0  # Only RAM is freed: it has left the accelerator before.
    step.actions.append(Evict(replica.expert.id, replica.host.plan.id))


def _begin_leaving(replica: Replica, to: Literal["cold", "sleeping"], step: StepContext) -> None:
    replica.leaving.to, replica.leaving.started = to, step.now
    replica.retry_at = math.inf  # Until the order is answered.


def forget(replica: Replica, step: StepContext) -> None:
    if replica.read.state in ("reading", "read"):
        _leave_ram(replica, step)
    host, expert = replica.host, replica.expert
    expert.replicas.pop(host.plan.id, None)
    for listed in (host.replicas, host.expected, host.waiting, host.retrying):
        listed.pop(expert.id, None)
    expert.recount()


def _leave_ram(replica: Replica, step: StepContext) -> None:
    step.touch(replica.host)
    if replica.state == "sleeping":
        evict(replica, step)
    else:
        replica.forget_ram()
        step.actions.append(Release(replica.expert.id, replica.host.plan.id))


def _leaving_ram(ram: Ram) -> float:
    """What will be free as soon as evictions that are under way have ended."""
    return sum(gb for r, gb in ram.held.items() if r.state == "going_to_sleep" and r.leaving.to == "cold")


def _worth_in_ram(replica: Replica, now: float) -> float:
    """Landlord's credit: what losing its place in RAM will cost a second, for each GB of it. Recent arrivals
    stand for those to come."""
    costs = replica.costs
    saved = costs.read.mean if replica.state == "cold" else max(0.0, costs.load.mean - costs.wake.mean)
    return replica.expert.rate_at(now) * saved / (replica.weights_gb + EPSILON)


def _ram_victims(ram: Ram, missing: float, now: float, below: float = math.inf) -> Sequence[Replica] | None:
    """Whom to send out of RAM for ``missing`` more than is free, those worth least first and none worth
    ``below`` or more; None when that is not enough. Who is queued for, expected or promised stays."""
    chosen: list[Replica] = []
    if missing <= EPSILON:
        return chosen
    idle = [r for r in ram.held if r.state in AT_REST and r.read.state != "reading" and not r.needed]
    for replica in sorted(idle, key=lambda r: (_worth_in_ram(r, now), r.used_at)):
        if _worth_in_ram(replica, now) >= below:
            return None
        chosen.append(replica)
        missing -= ram.held[replica]
        if missing <= EPSILON:
            return chosen
    return None
