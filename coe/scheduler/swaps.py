"""How experts move: orders that bring them in and put them away, within the budget of the RAM."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from coe.scheduler.events import Action, Evict, Load, Release, Sleep, Wake
from coe.scheduler.state import DROPPED, Commitment, HostState, Replica
from coe.scheduler.state import credit as ram_credit
from coe.scheduler.state import victims as ram_victims


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
    waking = replica.state == "sleeping"
    replica.committed = False
    replica.bring = replica.load_cost
    replica.loaded_from = "sleeping" if waking else "ram" if replica.ahead == "read" else "cold"
    replica.load_started = step.now
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
    host = replica.host.plan
    replica.sleep_failures = 0
    if replica.outdated or not host.sleeps:
        evict(replica, step)
        return
    level = _sleep_level(replica, step)
    if level is None:
        return
    replica.sleeps_to, replica.retry_at, replica.left_at = "sleeping", math.inf, step.now
    replica.move("going_to_sleep")
    replica.slept_at_level = level
    if level != DROPPED:
        replica.host.ram.hold(replica)
    step.actions.append(Sleep(replica.expert.id, host.id, level))


def _sleep_level(replica: Replica, step: StepContext) -> int | None:
    """The host's level, or 2 where its weights are worth less than what is in RAM already; None: wait until
    what is worth less has left."""
    ram, size = replica.host.ram, replica.weights_gb
    level = replica.host.plan.sleep_level
    if level == DROPPED or ram.takes(size):
        return level
    leaving = sum(gb for r, gb in ram.held.items() if r.state == "going_to_sleep" and r.sleeps_to == "cold")
    worth = ram_credit(replica, step.now)
    chosen = ram_victims(ram, size - ram.free - leaving, step.now, math.inf if replica.needed else worth)
    if chosen is None:
        return DROPPED
    for victim in chosen:
        _leave_ram(victim, step)
    return level if ram.takes(size) else None


def make_room(host: HostState, size: float, step: StepContext) -> bool:
    """Room in RAM for weights that are read ahead, at the expense of others that were: who sleeps stays."""
    chosen = ram_victims(host.ram, size - host.ram.free, step.now)
    if chosen is None or any(victim.state == "sleeping" for victim in chosen):
        return False
    for victim in chosen:
        _leave_ram(victim, step)
    return True


def _leave_ram(replica: Replica, step: StepContext) -> None:
    step.touch(replica.host)
    if replica.state == "sleeping":
        evict(replica, step)
    else:
        replica.forget_ram()
        step.actions.append(Release(replica.expert.id, replica.host.plan.id))


def keep_ram(host: HostState, step: StepContext) -> None:
    """Send out what a smaller budget has no room for, and put away who waited for room in RAM."""
    ram = host.ram
    if not math.isfinite(ram.budget):
        return
    leaving = sum(gb for r, gb in ram.held.items() if r.state == "going_to_sleep" and r.sleeps_to == "cold")
    for victim in ram_victims(ram, -ram.free - leaving, step.now) or ():
        _leave_ram(victim, step)
    for replica in [r for r in host.residents.values() if r.state == "draining" and not r.running]:
        put_away(replica, step)


def evict(replica: Replica, step: StepContext) -> None:
    """Order that nothing of the expert stays. ``retry_at`` is inf until the order is answered."""
    replica.sleeps_to, replica.retry_at, replica.left_at = "cold", math.inf, step.now
    slept = replica.state == "sleeping"
    replica.move("going_to_sleep")
    if slept:
        replica.held = 0.0  # Only RAM is freed: it has left the accelerator before.
    step.actions.append(Evict(replica.expert.id, replica.host.plan.id))


def forget(replica: Replica, step: StepContext) -> None:
    if replica.ahead in ("reading", "read"):
        _leave_ram(replica, step)
    replica.expert.replicas.pop(replica.host.plan.id, None)
    replica.host.replicas.pop(replica.expert.id, None)
    replica.host.expected.pop(replica.expert.id, None)
    replica.host.waiting.pop(replica.expert.id, None)
    replica.host.retrying.pop(replica.expert.id, None)
    replica.expert.recount()
