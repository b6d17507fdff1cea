"""Figures beside the traces: distance to the optimum, cost of a decision and of a simulated request."""

from __future__ import annotations

import random
import time

from coe.scheduler.events import Arrived, Evict, Finished, Grant, Load, Ready, Sleep, Slept, Wake
from coe.scheduler.scheduler import Scheduler
from coe.simulate.cluster import slots_cluster
from coe.simulate.exact import solve_exact
from coe.simulate.hardware import find_preset
from coe.simulate.runs import named_policy, run_policy
from coe.simulate.synthetic import zipf_labels
from coe.simulate.workload import Workload

INSTANCES, REQUESTS, EXPERTS = 10, 14, 3


def exact_ratios(solver_limit_s: float = 20.0) -> list[float]:
    """Mean latency of ``coe`` over the proved optimum, on small instances with batches of one (where the
    solver is exact): Poisson arrivals at about .7 of one slot, exponential work with mean 1 s."""
    ratios = []
    for seed in range(INSTANCES):
        drawn = random.Random(seed)
        experts = tuple(f"expert-{i}" for i in range(EXPERTS))
        gaps = [drawn.expovariate(0.7) for _ in range(REQUESTS)]
        arrivals = tuple(sum(gaps[: i + 1]) - gaps[0] for i in range(REQUESTS))
        chosen = tuple(drawn.choices(experts, weights=(6, 3, 2), k=REQUESTS))
        workload = Workload(arrivals, chosen, tuple(drawn.expovariate(1.0) for _ in range(REQUESTS)))
        cluster = slots_cluster(experts, 1, find_preset("h100"), max_batch=1)
        ours = run_policy("coe", cluster, workload, slo_s=20.0).mean
        exact = solve_exact(workload, cluster, solver_limit_s, ours)
        if exact.mean and ours:
            ratios.append(ours / exact.mean)
    return ratios


def simulated_per_minute(requests: int = 10_000) -> float:
    """Requests that ``coe simulate`` puts through 150 experts on four slots in a minute of one core."""
    experts = [f"expert-{i}" for i in range(150)]
    cluster = slots_cluster(experts, 4, find_preset("h100"))
    drawn, arrivals = random.Random(0), list[float]()
    for _ in range(requests):
        arrivals.append((arrivals[-1] if arrivals else 0.0) + drawn.expovariate(4.0))
    chosen = tuple(zipf_labels(tuple(experts), requests, 1.0, seed=0))
    workload = Workload(tuple(arrivals), chosen, (1.0,) * requests)
    started = time.thread_time()
    run_policy("coe", cluster, workload, slo_s=20.0)
    return 60.0 * requests / (time.thread_time() - started)


def decision_cost_us(experts: int = 150, queued: int = 1_000, steps: int = 2_000) -> float:
    """Mean processor time of a scheduler step with ``queued`` requests waiting, in microseconds."""
    names = [f"expert-{i}" for i in range(experts)]
    cluster = slots_cluster(names, 4, find_preset("h100"))
    empty = Workload((0.0,), (names[0],), (1.0,))
    scheduler = Scheduler(cluster.plan, named_policy("coe", empty, cluster))
    drawn, running, number, now = random.Random(0), list[str](), 0, 0.0
    pending: list[Ready | Slept] = []
    spent = 0.0
    for step in range(queued + 64 + steps):
        now += 0.01
        event: Arrived | Finished | Ready | Slept
        if pending:
            event = pending.pop(0)
        elif running and step >= queued + 64 and step % 2:
            event = Finished(running.pop(drawn.randrange(len(running))))
        else:
            number += 1
            event = Arrived(str(number), drawn.choice(names))
        started = time.thread_time()
        actions = scheduler.step(event, now)
        if step >= queued + 64:
            spent += time.thread_time() - started
        for action in actions:
            if isinstance(action, Grant):
                running.append(action.request)
            elif isinstance(action, Load | Wake):
                pending.append(Ready(action.expert, action.host))
            elif isinstance(action, Sleep | Evict):
                pending.append(Slept(action.expert, action.host))
    return 1e6 * spent / steps
