"""The one path of a request: route -> lease -> ask -> combine -> receipt.

pipeline.py   the path itself, top to bottom
plan.py       one expert or several, which, and with what aggregator: pure decisions
single.py     one expert: its bytes pass through
several.py    several experts: their answers become one
panel.py      the legs of several experts, their deadlines and their ends
notes.py      what a router has an expert write first
legs.py       one expert asked: lease, question, account
leases.py     what is needed of the pool
"""

from coe.pipeline.leases import Clock, Lease, Leases
from coe.pipeline.pipeline import Answer, Pipeline, Preview

__all__ = ["Answer", "Clock", "Lease", "Leases", "Pipeline", "Preview"]
