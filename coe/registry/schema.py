"""experts.yaml as frozen objects. Unknown keys are refused; units are part of the names.

Registry
├── service    where the API listens
├── limits     sizes and times that protect the service
├── pool       hosts (places where experts run) and how they are scheduled
├── experts    one entry per expert, each on a host
├── routers    named routers and the default one
├── aggregator how several answers become one; aggregators: further ones by name
├── routes     further model names, each with its router and aggregator
├── observe    traces, and a record of what was asked and answered
└── history    where the accepted versions of the file are kept
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from coe.core.types import ExpertView
from coe.registry.aggregation_settings import AggregatorSpec, NamedRoute
from coe.registry.base import Model, Name, UsuallyOf
from coe.registry.hosts import Host
from coe.registry.scheduling_settings import DeadlineClasses, Mechanisms
from coe.registry.service_settings import (
    Access,
    AdminListener,
    CacheSettings,
    FeedbackSettings,
    History,
    HostNames,
    Observe,
    State,
)


class Service(Model):
    """Where the API listens, and the model name that asks for routing."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """0 takes any free port"""
    allowed_hosts: HostNames = ()
    """names in the header Host of requests that are answered, beside those of this machine; "*": any. none:
    any, unless the service listens on this machine alone and needs no keys"""
    model_name: Name = "coe"
    """the model name that asks for routing"""
    watch: bool = True
    """follow edits of this file while the service runs"""
    drain_s: Annotated[float, Field(gt=0)] = 30.0
    """how long requests under way may go on after SIGTERM; those that wait for an expert are refused"""
    admin: AdminListener | None = None
    """the admin API; default: none"""


class Limits(Model):
    """Bounds on what one client may ask. A request over a bound is refused, never cut."""

    max_body_bytes: Annotated[int, Field(gt=0)] = 1_000_000
    max_messages: Annotated[int, Field(gt=0)] = 256
    max_parts: Annotated[int, Field(gt=0)] = 1_024
    """content parts of all messages together"""
    max_prompts: Annotated[int, Field(gt=0)] = 256
    """of one request to /v1/completions; each counts as a request"""
    max_prompt_chars: Annotated[int, Field(gt=0)] = 200_000
    max_queue: Annotated[int, Field(gt=0)] = 1_000
    """most waiting requests; one more is refused with status 429"""
    media_hosts: tuple[str, ...] = ()
    """hosts of URLs in content parts, which the expert's server fetches; "*": any; data: URLs always pass"""
    request_timeout_s: Annotated[float, Field(gt=0)] = 300.0
    """from arrival to the end of the answer"""


class Pool(Model):
    """Hosts, and the scheduling of experts onto them. Times in seconds."""

    hosts: tuple[Host, ...]
    policy: str = "coe"
    """how experts are scheduled: a built-in's short name or module:Class; coe[-prewake,-prefetch] is the
    policy coe without these mechanisms"""
    options: Annotated[dict[str, Any], UsuallyOf(Mechanisms)] = Field(default_factory=dict)
    """mechanisms of the policy coe, or the options of another policy"""
    classes: DeadlineClasses = DeadlineClasses()
    """what requests of each deadline class expect"""
    pinned: tuple[Name, ...] = ()
    """experts that the policy ``static`` keeps in memory once they are loaded; one without work leaves for a
    request that has waited for classes.standard.slo_s"""
    min_residency_s: Annotated[float, Field(ge=0)] = 0.0
    """an expert that was just loaded stays at least this long"""
    load_timeout_s: Annotated[float, Field(gt=0)] = 120.0
    """a load that takes longer counts as failed"""
    stuck_after_s: Annotated[float, Field(gt=0)] = 30.0
    """a request that waits so long for nothing (no load, drain, failure or running work in its way) makes
    GET /healthz/experts fail, and the scheduler's state is logged"""
    reroute_within: Annotated[float, Field(ge=0, le=1)] = 0.05
    """an expert may answer instead of the best one if it is free sooner and its probability of being right is
    at most this much lower; 0 switches this off"""
    rebalance_s: Annotated[float, Field(ge=60)] | None = None
    """every N seconds, experts whose entry names no host may move to where their work has room; default:
    never. `coe deploy` does not read it"""


class Price(Model):
    """US dollars per million tokens."""

    input: Annotated[float, Field(ge=0)]
    output: Annotated[float, Field(ge=0)]


class Expert(Model):
    """One expert LLM.

    ``model`` is a folder (relative to experts.yaml), a hub id (``org/name``, or ``hf:org/name`` to be sure)
    or the model's name on a remote host.
    """

    id: Name
    """also the model name that pins this expert"""
    host: Name | None = None
    """the id of a host under pool.hosts; none: the service chooses one that can serve it when it reads the
    file"""
    model: str
    adapter: str | None = None
    """LoRA folder (hosts of kind adapter)"""
    card: str = ""
    """one sentence: what it is best at; routers read it"""
    skills: tuple[str, ...] = ()
    """categories of the router's examples that it covers"""
    tags: tuple[str, ...] = ()
    general: bool = False
    """takes questions that no specialist covers, and those the router is unsure about"""
    profile: str | None = None
    """name of its profile, where that is neither its id nor its model"""
    fallback: Name | None = None
    """the expert to ask when neither this one nor the router's next choice can answer"""
    shadow: bool = False
    """answers requests that name it; no router chooses it"""
    parameters_b: Annotated[float, Field(gt=0)] | None = None
    """billions of parameters"""
    active_b: Annotated[float, Field(gt=0)] | None = None
    """billions of parameters used per token (mixtures of experts)"""
    memory_gb: Annotated[float, Field(gt=0)] | None = None
    """memory of its weights"""
    context_length: Annotated[int, Field(ge=16)] | None = None
    """tokens of prompt and answer together"""
    price: Price | None = None
    load_s: Annotated[float, Field(ge=0)] | None = None
    """first estimate of the time a load takes; it is measured from then on"""
    wake_s: Annotated[float, Field(ge=0)] | None = None
    """first estimate of the time waking takes (swap: sleep); it is measured from then on"""
    sleep_s: Annotated[float, Field(ge=0)] | None = None
    """first estimate of the time going to sleep takes; it is measured from then on"""
    max_running: Annotated[int, Field(ge=1)] | None = None
    """most requests to this expert at once"""

    def view(self) -> ExpertView:
        return ExpertView(
            id=self.id,
            card=self.card,
            skills=self.skills,
            tags=self.tags,
            parameters_b=self.parameters_b,
            active_b=self.active_b,
            usd_per_mtok_in=self.price.input if self.price else None,
            usd_per_mtok_out=self.price.output if self.price else None,
            general=self.general,
        )


class RouterSpec(Model):
    """A named router: ``kind`` is a built-in's short name or ``module:Class``."""

    name: Name
    kind: str
    options: dict[str, Any] = Field(default_factory=dict)


class Routers(Model):
    default: Name = "category"
    """the router of requests that name none"""
    min_probability: Annotated[float, Field(ge=0, le=1)] = 0.1
    """a wish for cost or time chooses no expert with less than this share of the likeliest one's probability,
    general experts excepted"""
    available: tuple[RouterSpec, ...] = ()


class Node(Model):
    """A kind of machine, or a part of one, in a cluster: its hosts share a pool owner and its memory.

    Each copy of it runs all its hosts; a request goes to the copy where it waits least.
    """

    id: Name
    hosts: Annotated[tuple[Name, ...], Field(min_length=1)]
    """ids of hosts under pool.hosts that run there"""
    copies: Annotated[int, Field(ge=0)] = 1
    """copies at least; 0 starts the first one when a request comes"""
    max_copies: Annotated[int, Field(ge=1)] | None = None
    """copies at most; more than copies turns autoscaling on, by the scheduler's forecast"""
    cpus: Annotated[float, Field(ge=0)] = 0.0
    """CPUs that Ray sets aside for each copy"""
    gpus: Annotated[float, Field(ge=0)] = 0.0
    """GPUs that Ray sets aside for each copy; its processes see these and no others"""
    resources: dict[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    """Ray's custom resources that each copy takes, for example {"a100": 1}"""

    @model_validator(mode="after")
    def _bounds(self) -> Node:
        if self.max_copies is not None and self.max_copies < self.copies:
            raise ValueError(f"max_copies is {self.max_copies}, less than copies ({self.copies})")
        if self.copies == 0 and self.max_copies is None:
            raise ValueError("copies is 0, so give max_copies")
        return self


class Cluster(Model):
    """How `coe deploy` spreads the service. `coe serve` does not read it."""

    gateways: Annotated[int, Field(ge=1)] = 1
    """gateway replicas at least"""
    max_gateways: Annotated[int, Field(ge=1)] | None = None
    """gateway replicas at most; more than gateways turns autoscaling on"""
    target_ongoing: Annotated[float, Field(gt=0)] = 64.0
    """requests under way per gateway that autoscaling aims for"""
    max_ongoing: Annotated[int, Field(ge=1)] = 1_000
    """most requests under way in one gateway; further ones go to another or wait in Ray"""
    target_wait_s: Annotated[float, Field(gt=0)] = 10.0
    """expected wait for an expert that autoscaling of nodes aims to stay below"""
    nodes: tuple[Node, ...] = ()
    """empty: one node with all hosts"""

    @model_validator(mode="after")
    def _bounds(self) -> Cluster:
        if self.max_gateways is not None and self.max_gateways < self.gateways:
            raise ValueError(f"max_gateways is {self.max_gateways}, less than gateways ({self.gateways})")
        return self


class Registry(Model):
    """The whole of experts.yaml."""

    version: Literal[1] = 1
    service: Service = Service()
    limits: Limits = Limits()
    pool: Pool
    experts: Annotated[tuple[Expert, ...], Field(min_length=1)]
    routers: Routers = Routers()
    aggregator: AggregatorSpec = AggregatorSpec()
    profiles: tuple[str, ...] = ("package:open-models", "profiles")
    """folders with profiles of experts, relative to experts.yaml; a later folder overrides an earlier one;
    new profiles are written to the last one; package:open-models comes with CoE"""
    probes: str | None = None
    """outcome set, relative to experts.yaml, whose questions `experts add --profile` asks"""
    history: History = History()
    cluster: Cluster = Cluster()
    access: Access = Access()
    state: State = State()
    observe: Observe = Observe()
    feedback: FeedbackSettings | None = None
    """accept clients' ratings of answers; none: there is no /v1/feedback"""
    cache: CacheSettings | None = None
    """the response cache; default: every request is answered by an expert"""
    aggregators: tuple[AggregatorSpec, ...] = ()
    """more aggregators, for requests and routes to name"""
    routes: tuple[NamedRoute, ...] = ()
    """more model names that route"""

    def expert(self, expert_id: str) -> Expert | None:
        return self.experts_by_id.get(expert_id)

    # Read by every request, so made once.
    @cached_property
    def experts_by_id(self) -> Mapping[str, Expert]:
        return {expert.id: expert for expert in reversed(self.experts)}

    @cached_property
    def routed_names(self) -> Mapping[str, NamedRoute]:
        """All model names that route, ``service.model_name`` first."""
        plain = NamedRoute(model=self.service.model_name)
        return {route.model: route for route in (plain, *self.routes)}

    def aggregator_spec(self, name: str) -> AggregatorSpec:
        """The entry called ``name``; a built-in without one is as the default aggregator, without options."""
        own = next((spec for spec in (*self.aggregators, self.aggregator) if spec.label == name), None)
        return own or self.aggregator.model_copy(update={"name": name, "kind": name, "options": {}})

    def host(self, host_id: str | None) -> Host | None:
        return next((h for h in self.pool.hosts if h.id == host_id), None)

    @property
    def used_hosts(self) -> tuple[Host, ...]:
        """Those that have experts; the others are not started."""
        return tuple(host for host in self.pool.hosts if self.experts_on(host.id))

    @cached_property
    def routed(self) -> tuple[Expert, ...]:
        """The experts that routers may choose: all but shadows."""
        return tuple(e for e in self.experts if not e.shadow)

    def experts_on(self, host_id: str) -> tuple[Expert, ...]:
        return tuple(e for e in self.experts if e.host == host_id)
