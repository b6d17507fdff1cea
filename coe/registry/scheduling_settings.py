"""The part of experts.yaml that says how requests are scheduled. Times in seconds."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from coe.registry.base import Model


class DeadlineClassSpec(Model):
    """What a class of requests expects."""

    slo_s: Annotated[float, Field(gt=0)]
    """target for the time to the whole answer; requests that can still meet it go first"""
    ageing_s: Annotated[float, Field(gt=0)]
    """a request that has waited longer goes before all others, whatever that costs"""
    max_wait_s: Annotated[float, Field(gt=0)] = 3_600.0
    """a request that might wait longer is refused at once (wait_not_promised)"""


class DeadlineClasses(Model):
    """The classes that a request can name in `coe.deadline_class`."""

    interactive: DeadlineClassSpec = DeadlineClassSpec(slo_s=10.0, ageing_s=30.0)
    standard: DeadlineClassSpec = DeadlineClassSpec(slo_s=20.0, ageing_s=60.0)
    batch: DeadlineClassSpec = DeadlineClassSpec(slo_s=120.0, ageing_s=600.0, max_wait_s=86_400.0)


class Mechanisms(Model):
    """Parts of the policy `coe`; each can be switched off alone."""

    slack_density: bool = True
    """the expert whose delay would miss most SLOs per second comes next; off: that of the oldest request"""
    frames: bool = True
    """an expert stays for all that was queued when it came; off: for one batch"""
    admission_closing: bool = True
    """an expert stops taking new requests when the other queues outweigh them; off: when it is idle"""
    prewake: bool = True
    """load the next expert as soon as its own room is free, while others still leave"""
    prefetch: bool = True
    """read weights from disk into RAM while their requests still wait"""
    groups: bool = True
    """schedule the experts of one request together"""
    reroute: bool = True
    """an awake alternative answers a request that would have to wait for its own expert"""
    promise: bool = True
    """refuse a request at once when its class's max_wait_s cannot be promised"""
