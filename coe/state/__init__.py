"""What several gateways must agree on: what a key has used, cached answers, the current generation.

One protocol (:class:`coe.state.store.Store`), in memory for one process and in Redis for many. A store
that cannot be reached raises :class:`StoreDown`; each user of it says what then happens.
"""
