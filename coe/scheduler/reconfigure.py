"""Bring the scheduler's state into line with a plan, the first one included."""

from __future__ import annotations

import math

from coe.core.errors import ConfigError
from coe.scheduler.estimates import Cost, Costs, SharedCost
from coe.scheduler.plan import ExpertPlan, HostPlan, PoolPlan
from coe.scheduler.queue import Queue
from coe.scheduler.replica import ExpertState, HostState, Ram, Replica
from coe.scheduler.state import SchedulerState
from coe.scheduler.swaps import StepContext


def apply_plan(state: SchedulerState, plan: PoolPlan, step: StepContext) -> None:
    """Add what is new, change what has changed, mark what is gone so that it leaves when it may.

    What an expert holds now keeps its size until it is loaded again. Raises :class:`ConfigError`, with
    nothing changed, when a host became one of another kind.
    """
    check_plan(state, plan)
    state.plan = plan
    _apply_hosts(state, plan)
    for expert_plan in plan.experts:
        _apply_expert(state, expert_plan)
    kept = {expert.id for expert in plan.experts}
    for expert in state.experts.values():
        expert.retiring = expert.id not in kept
        _stay(expert)
    for host in state.hosts.values():
        host.leavers = any(r.outdated for r in host.replicas.values())
        step.touch(host)
    state.leavers = any(host.retired or host.leavers for host in state.hosts.values())


def check_plan(state: SchedulerState, plan: PoolPlan) -> None:
    """Raises :class:`ConfigError` when a host became one of another kind."""
    for host_plan in plan.hosts:
        _check_kind(state.hosts.get(host_plan.id), host_plan)


def _check_kind(host: HostState | None, plan: HostPlan) -> None:
    if host and (host.plan.always_awake, host.plan.sleeps, host.plan.node) != (
        plan.always_awake,
        plan.sleeps,
        plan.node,
    ):
        raise ConfigError(
            f"host {plan.id!r} cannot change its kind or way of swapping while the pool runs",
            hint="give the new host another id, or restart the service",
        )


def _apply_hosts(state: SchedulerState, plan: PoolPlan) -> None:
    for host_plan in plan.hosts:
        ram = state.rams.setdefault(host_plan.ram_of, Ram())
        ram.budget = math.inf if host_plan.ram_gb is None else host_plan.ram_gb
        host = state.hosts.setdefault(host_plan.id, HostState(host_plan, ram))
        host.plan = host_plan
    kept = {host.id for host in plan.hosts}
    for host in state.hosts.values():
        host.retired = host.plan.id not in kept


def _apply_expert(state: SchedulerState, plan: ExpertPlan) -> None:
    expert = state.experts.setdefault(plan.id, ExpertState(plan.id, Queue(state.plan.classes)))
    for replica in expert.replicas.values():
        replica.retired = replica.host.plan.id not in plan.hosts
        replica.list_waiting()
    for host_id in plan.hosts:
        host = state.hosts[host_id]
        replica = expert.replicas.get(host_id) or _new_replica(expert, host, plan, state.shared_costs)
        replica.max_running, replica.footprint = plan.max_running, plan.footprint
        replica.weights_gb = plan.weights_gb
        if replica.content != plan.content:
            replica.content = plan.content
            replica.forgive()
            # What is elsewhere has no content here: the next request to it names the new one.
            replica.stale = replica.state != "cold" and not replica.host.plan.always_awake


def _new_replica(expert: ExpertState, host: HostState, plan: ExpertPlan, shared: SharedCost) -> Replica:
    """A replica as the plan has it: cold, or awake where everything always is."""
    costs = _costs(plan, host.plan.hardware, shared)
    replica = Replica(expert, host, costs, plan.max_running, plan.footprint, plan.weights_gb, plan.content)
    expert.replicas[host.plan.id] = replica
    host.replicas[expert.id] = replica
    if host.plan.always_awake:
        replica.bringing.source = "awake"
        replica.move("awake")
    replica.list_waiting()
    return replica


def _costs(plan: ExpertPlan, hardware: str, shared: SharedCost) -> Costs:
    def cost(transition: str, prior: float) -> Cost:
        return shared.cost(transition, prior, plan.size, hardware)

    wake_s = plan.load_s if plan.wake_s is None else plan.wake_s
    return Costs(
        load=cost("load", plan.load_s),
        load_read=cost("load_read", plan.load_s),
        wake=cost("wake", wake_s),
        wake_dropped=cost("wake_dropped", wake_s),
        sleep=cost("sleep", plan.sleep_s),
        read=cost("read", 0.0),
    )


def _stay(expert: ExpertState) -> None:
    """Keep what was about to leave and is in the plan again."""
    for replica in expert.replicas.values():
        if replica.state == "draining" and not (replica.crashed or replica.outdated):
            replica.move("awake")
    expert.recount()
