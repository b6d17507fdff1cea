"""The bound on waiting: what the scheduler can promise a request when it comes.

A request is granted at the latest when its ageing is over and all work that is older has had its turn. Where
E experts on K hosts have no more work than one batch each, that is ``ageing + ceil(E / K) * turn_s``: a turn
is the longest batch, another one to drain, and the longest swap, all as seen of late (until then as the
expert's own costs are guessed). A longer queue has a turn for each of its batches; those of the request's own
expert may have to follow each other. What was begun just before the ageing ended is covered by the second
batches of the turns, if loads are no longer than these; if they are, the difference is added.
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
    per_turn = min(min(r.max_running, r.host.plan.max_running or r.max_running) for r in replicas)
    wanted = {e: r.expert for r in replicas for e, r in (*r.host.waiting.items(), *r.host.expected.items())}
    others = sum(_turns(other, per_turn) for other in wanted.values() if other is not expert)
    rounds = _turns(expert, per_turn, ahead_of=1) + others // len(replicas)
    run_s, load_s = books.longest.run_s, max(books.longest.load_s, *(r.load_cost.p90 for r in replicas))
    sleep_s = max(books.longest.sleep_s, *(r.costs.sleep.p90 for r in replicas))
    ageing_s = books.plan.classes[deadline_class].ageing_s
    return ageing_s + rounds * (run_s + load_s + sleep_s) + max(rounds * run_s, load_s)


def _turns(expert: ExpertState, per_turn: int, ahead_of: int = 0) -> int:
    return math.ceil((expert.queued + expert.expected + ahead_of) / per_turn)
