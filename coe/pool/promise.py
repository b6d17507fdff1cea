"""The bound on waiting: what the scheduler can promise a request when it comes.

A request is granted at the latest when its ageing is over and every expert whose work is older has had its
turn. With E experts that have work on K hosts that is ``ageing + n * turn_s``, with
``n = turns * ceil(E / K)``: a turn is the longest batch, another one to drain, and the longest swap, all as seen
of late (until then as the expert's own costs are guessed); ``turns`` is how many batches the requests ahead in
its own queue fill. What was begun just before the ageing ended is covered by the second batch of each turn,
where loads are not longer than ``n`` batches; if they are, the difference is added.
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
    hosts = [replica.host for replica in replicas]
    experts = len({name for host in hosts for name in (*host.waiting, *host.expected)} | {expert.id})
    per_turn = min(min(r.max_running, r.host.plan.max_running or r.max_running) for r in replicas)
    turns = math.ceil((expert.queued + expert.expected + 1) / per_turn)
    rounds = turns * math.ceil(experts / len(replicas))
    run_s, load_s = books.longest.run_s, max(books.longest.load_s, *(r.load_cost.p90 for r in replicas))
    sleep_s = max(books.longest.sleep_s, *(r.costs.sleep.p90 for r in replicas))
    ageing_s = books.plan.classes[deadline_class].ageing_s
    return ageing_s + rounds * (run_s + load_s + sleep_s) + max(rounds * run_s, load_s)
