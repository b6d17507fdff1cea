"""The part of experts.yaml that says how requests are scheduled. Times in seconds."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from coe.registry.base import Model


class DeadlineClassSpec(Model):
    """What a class of requests expects."""

    slo_s: Annotated[float, Field(gt=0)]
    """an answer that takes longer has missed its purpose; requests that can still be in time go first"""
    ageing_s: Annotated[float, Field(gt=0)]
    """a request that waited longer goes before all others, whatever that costs"""
    max_wait_s: Annotated[float, Field(gt=0)] = 3_600.0
    """a request that could have to wait longer is refused at once (wait_not_promised)"""


class DeadlineClasses(Model):
    """The classes that a request can name in `coe.deadline_class`."""

    interactive: DeadlineClassSpec = DeadlineClassSpec(slo_s=10.0, ageing_s=30.0)
    standard: DeadlineClassSpec = DeadlineClassSpec(slo_s=20.0, ageing_s=60.0)
    batch: DeadlineClassSpec = DeadlineClassSpec(slo_s=120.0, ageing_s=600.0, max_wait_s=86_400.0)


class Mechanisms(Model):
    """Parts of the policy `coe`; each can be switched off alone."""

    slack_density: bool = True
    """whose delay loses most for its time comes next; off: the oldest request's expert"""
    frames: bool = True
    """an expert stays for all that was queued when it came; off: for one batch"""
    admission_closing: bool = True
    """an expert stops taking newcomers when the queues elsewhere outweigh them; off: when it is idle"""
    prewake: bool = True
    """bring the next one in as soon as its own room is free, while others still leave"""
    prefetch: bool = True
    """read weights from disk into memory while their requests still wait"""
    belady: bool = True
    """displace who is needed last, by the queues and by recent arrivals; off: least recently used"""
    groups: bool = True
    """schedule the experts of one request together"""
    reroute: bool = True
    """a request takes an awake alternative instead of waiting for its own expert"""
    promise: bool = True
    """refuse a request at once when its class's max_wait_s cannot be promised"""
