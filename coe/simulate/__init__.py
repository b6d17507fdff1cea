"""``coe simulate``: the service's scheduler in virtual time, on a trace of requests.

trace / synthetic -> workload -> driver (the scheduler of coe.pool on a machine model) -> metrics, bounds
-> report. Pure apart from reading the trace and writing the report; deterministic by seed.
"""
