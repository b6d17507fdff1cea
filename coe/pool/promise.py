"""The bound on waiting: what the scheduler can promise a request when it comes.

A request is granted at the latest when its ageing is over and every expert whose work is older has had its
turn. With E experts that have work on K hosts that is ``ageing + turns * ceil(E / K) * turn_s``, where a
turn is the longest batch, another one to drain, and the longest swap, all as seen of late (until then as
the expert's own costs are guessed); ``turns`` is
how many batches the requests ahead in its own queue fill.
"""

from __future__ import annotations

import math

from coe.pool.state import Books, ExpertState
from coe.types import DeadlineClass


def promised_wait(books: Books, expert: ExpertState, deadline_class: DeadlineClass) -> float:
    """Seconds that a request for ``expert`` that comes now waits at most; 0 when it is granted at once."""
    if expert.has_batch_room:
        return 0.0
    replicas = [replica for replica in expert.replicas.values() if not replica.retired]
    if not replicas or all(replica.host.plan.always_awake for replica in replicas):
        turns = math.ceil((expert.queued + 1) / max(1, sum(r.max_running for r in replicas)))
        return turns * books.longest.run_s
    experts = len({name for replica in replicas for name in replica.host.waiting} | {expert.id})
    per_turn = min(replica.max_running for replica in replicas)
    turns = math.ceil((expert.queued + 1) / per_turn)
    own_s = max(r.costs.sleep.p90 + r.load_cost.p90 for r in replicas)
    turn_s = 2.0 * books.longest.run_s + max(books.longest.swap_s, own_s)
    ageing_s = books.plan.classes[deadline_class].ageing_s
    return ageing_s + turns * math.ceil(experts / len(replicas)) * turn_s
