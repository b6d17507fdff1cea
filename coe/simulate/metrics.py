"""An outcome in the figures that are compared."""

from __future__ import annotations

from dataclasses import dataclass

from coe.simulate.cluster import Cluster
from coe.simulate.driver import Outcome
from coe.simulate.workload import Workload


@dataclass(frozen=True)
class Row:
    """One policy at one load. Times in seconds except ``decision_us`` (mean processor time of one
    scheduler step).

    ``load`` is null when all requests arrive at once. ``goodput``: share of all requests answered within the
    SLO; rejected ones are not. The latencies (arrival to last token) and ``max_wait`` (arrival to grant) are
    of the requests that were answered; null if none. ``switching_share``: share of the hosts' time with a
    load, wake or sleep under way. ``memory_gb``: mean weights held on accelerators, ``ram_peak_gb``: the
    most in RAM (asleep, or read from disk). ``span_s``: virtual time
    of the run. ``moves``: experts that were placed on another host meanwhile.
    """

    policy: str
    load: float | None
    goodput: float
    mean: float | None
    p50: float | None
    p99: float | None
    max_wait: float | None
    swaps_per_1k: float
    switching_share: float
    decision_us: float
    slots: int
    requests: int
    rejected: int
    memory_gb: float
    memory_peak_gb: float
    ram_peak_gb: float
    span_s: float
    moves: int = 0


def measure(policy: str, outcome: Outcome, workload: Workload, cluster: Cluster, slo_s: float) -> Row:
    """The row of one run."""
    import numpy as np

    arrivals = np.asarray(workload.arrivals)
    finished, granted = np.asarray(outcome.finished), np.asarray(outcome.granted)
    answered = np.isfinite(finished)
    latency = (finished - arrivals)[answered]
    waits = (granted - arrivals)[answered]
    swapping_time = cluster.swapping_hosts * outcome.end
    any_answered = bool(answered.any())
    return Row(
        policy=policy,
        load=workload.load(cluster),
        goodput=float((latency <= slo_s).sum()) / len(workload),
        mean=float(latency.mean()) if any_answered else None,
        p50=float(np.percentile(latency, 50)) if any_answered else None,
        p99=float(np.percentile(latency, 99)) if any_answered else None,
        max_wait=float(waits.max()) if any_answered else None,
        swaps_per_1k=1_000.0 * (outcome.loads + outcome.wakes) / len(workload),
        switching_share=outcome.switching_s / swapping_time if swapping_time else 0.0,
        decision_us=1e6 * outcome.decision_s / max(1, outcome.steps),
        slots=len(cluster.hosts),
        requests=len(workload),
        rejected=outcome.rejected,
        memory_gb=outcome.gb_seconds / outcome.end if outcome.end else 0.0,
        memory_peak_gb=outcome.peak_gb,
        ram_peak_gb=outcome.ram_peak_gb,
        span_s=outcome.end,
        moves=outcome.moves,
    )
