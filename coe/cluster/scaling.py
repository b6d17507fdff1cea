"""How many copies of a node there should be, by what the schedulers of the present ones expect."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from coe.cluster.messages import OwnerReport

IDLE_WAIT_S = 0.01


@dataclass(frozen=True)
class Load:
    """One owner: the longest expected wait for any of its experts that have work, and whether it has any."""

    wait_s: float
    busy: float

    @classmethod
    def of(cls, report: OwnerReport) -> Load:
        working = [e for e, status in report.experts.items() if status.queued or status.running]
        waits = [report.waits_s.get(expert, 0.0) for expert in working]
        finite = [wait for wait in waits if math.isfinite(wait)]
        return cls(max(finite, default=0.0), float(bool(working)))


def wanted_copies(
    present: int, waits_s: Sequence[float], busy: Sequence[float], called: bool, target_wait_s: float
) -> int:
    """Copies such that the expected wait falls to ``target_wait_s``: waiting is work queued per copy, so
    n copies with the mean wait w need n * w / target. One fewer when that would still leave half of the
    target; none when nobody has work; one when somebody calls and there is none."""
    if present == 0:
        return int(called)
    if not waits_s:
        return present  # they are still starting
    if not any(busy) and not called:
        return present - 1
    mean = sum(waits_s) / len(waits_s)
    needed = math.ceil(present * mean / target_wait_s)
    if needed > present:
        return needed
    fewer = present - 1
    if fewer and present * mean / fewer < target_wait_s / 2:
        return fewer
    return present


class ScalingContext(Protocol):
    """What is used of ``ray.serve.config.AutoscalingContext``: metrics by name and then by replica."""

    current_num_replicas: int
    target_num_replicas: int
    capacity_adjusted_min_replicas: int
    capacity_adjusted_max_replicas: int

    @property
    def aggregated_metrics(self) -> Mapping[str, Mapping[Any, float]] | None: ...
    @property
    def total_num_requests(self) -> float: ...


class ScaleByForecast:
    """Serve's autoscaling policy for nodes (``policy_function`` in the Serve config).

    Serve itself applies its delays and the bounds to what comes out.
    """

    def __init__(self, target_wait_s: float = 10.0) -> None:
        self._target_wait_s = target_wait_s

    def __call__(self, context: ScalingContext) -> tuple[int, dict[str, Any]]:
        metrics = context.aggregated_metrics or {}
        wanted = wanted_copies(
            present=context.current_num_replicas,
            waits_s=list((metrics.get("wait_s") or {}).values()),
            busy=list((metrics.get("busy") or {}).values()),
            called=context.total_num_requests > 0,  # a gateway's call that no replica has taken yet
            target_wait_s=self._target_wait_s,
        )
        low, high = context.capacity_adjusted_min_replicas, context.capacity_adjusted_max_replicas
        return max(low, min(high, wanted)), {}
