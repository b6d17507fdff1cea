"""The service spread over processes and machines: gateways that lease from pool owners.

    gateway replica                       node
    pipeline -> ClusterPool --acquire--> PoolOwner -> Pool -> scheduler, engines
                     |                                            |
                     +--------- tokens, past the owner -----------+

One *owner* on each node has the node's hosts, in one process, as `coe serve` has all of them. Gateways
hold no pool state: they ask an owner for a lease, and the expert's server for tokens. Only
:mod:`coe.cluster.ray_app` knows Ray; everything else here runs, and is tested, without it.
"""
