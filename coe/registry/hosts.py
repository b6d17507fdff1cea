"""The hosts of ``pool.hosts``: for each kind its settings, and what the scheduler has to know of it.

A kind of host is a model here and a row of :data:`coe.engines.ENGINE_KIND`, which names its engine.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Protocol

from pydantic import Discriminator, Field, Tag, model_validator

from coe.core.errors import ConfigError
from coe.registry.base import ApiUrl, Model, Name


@dataclass(frozen=True)
class Room:
    """How a host holds experts, as :class:`coe.scheduler.plan.HostPlan` explains it.

    ``by_memory``: its unit is gigabytes, of which each expert takes its ``memory_gb``; else each takes 1.
    """

    capacity: float = 1.0
    by_memory: bool = False
    max_running: int | None = None
    sleeps: bool = False
    sleep_level: int = 1
    ram_gb: float | None = None
    reads_ahead: bool = False
    hardware: str = ""


class Weighed(Protocol):
    """An expert, as far as its size goes."""

    @property
    def id(self) -> str: ...
    @property
    def memory_gb(self) -> float | None: ...


class HostBase(Model):
    """What every kind of host has, and says of itself."""

    id: Name
    kind: str

    followed: ClassVar[frozenset[str]] = frozenset()
    """settings that its running engine follows"""
    takes_adapters: ClassVar[bool | None] = False
    """whether its experts name a LoRA adapter; None: as they like"""

    @property
    def always_awake(self) -> bool:
        """Whether all its experts answer once its engine is started: nothing is loaded or freed, and in a
        cluster every gateway has an engine of its own."""
        return False

    @property
    def room(self) -> Room:
        """Raises ConfigError where its size is missing."""
        raise NotImplementedError

    @property
    def alike(self) -> tuple[object, ...]:
        """Equal for hosts that are alike: what one serves, the other can serve."""
        raise NotImplementedError

    def way(self, experts: int) -> str:
        """How it serves so many experts, for people."""
        raise NotImplementedError

    @property
    def bytes_per_parameter(self) -> float:
        return 4.0 if getattr(self, "dtype", None) == "float32" else 2.0

    @property
    def engine(self) -> str:
        """The row of the table of engines, or ``module:Class``."""
        return self.kind

    @property
    def settings(self) -> dict[str, Any]:
        """The options of its engine, as JSON has them."""
        return self.model_dump(mode="json")

    def footprint(self, expert: Weighed) -> float:
        """What ``expert`` takes of its room. Raises ConfigError where that is not known."""
        if self.always_awake:
            return 0.0
        if not self.room.by_memory:
            return 1.0
        if expert.memory_gb is None:
            raise ConfigError(
                f"expert {expert.id!r} is on {self.id!r}, whose experts share its memory_gb, but has none",
                hint="set its memory_gb to its weights plus KV cache",
            )
        return expert.memory_gb


class VllmHost(HostBase):
    """A managed vLLM server process.

    ``swap: in_place`` keeps one process and replaces its weights (checkpoints of one architecture: the
    way on a CPU, and quick on a GPU); ``swap: sleep`` gives each expert its own process and uses vLLM's
    sleep levels (GPU). ``url`` names a server that already runs; it is then not managed.
    """

    kind: Literal["vllm"] = "vllm"
    swap: Literal["in_place", "sleep"] = "in_place"
    url: ApiUrl | None = None
    """a server that already runs; it is not managed"""
    device: Literal["cpu", "gpu"] = "gpu"
    memory_gb: Annotated[float, Field(gt=0)] | None = None
    """GPU memory that the awake experts of a host with `swap: sleep` may take together"""
    ram_gb: Annotated[float, Field(gt=0)] | None = None
    """RAM for weights that are not in use: of sleeping experts (level 1), or read ahead from disk"""
    sleep_level: Literal[1, 2] = 1
    """1 keeps the weights in RAM, 2 drops them"""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """on a CPU write float32"""
    threads: Annotated[int, Field(ge=1)] | None = None
    """CPU threads of the process"""
    max_running: Annotated[int, Field(ge=1)] = 16
    """most requests in the process at once"""
    max_model_len: Annotated[int, Field(ge=16)] | None = None
    """tokens of prompt and answer together"""
    args: tuple[str, ...] = ()
    """more arguments of the vLLM server"""
    env: dict[str, str | None] = Field(default_factory=dict)
    """further environment variables of the process; without a value: as the service has it"""
    start_timeout_s: Annotated[float, Field(gt=0)] = 300.0
    silence_timeout_s: Annotated[float, Field(gt=0)] = 60.0
    """a process that gives no sign of life for this long is ended and started again"""
    canary: bool = True
    """ask a known prompt after each swap and refuse the expert when the answer is wrong"""

    followed = frozenset({"memory_gb", "ram_gb"})

    @property
    def room(self) -> Room:
        ahead = self.url is None
        if self.swap == "in_place":
            way = f"in place, {self.device}"
            return Room(max_running=self.max_running, ram_gb=self.ram_gb, reads_ahead=ahead, hardware=way)
        if self.memory_gb is None:
            raise ConfigError(
                f"host {self.id!r} swaps by sleeping but has no memory_gb",
                hint="set memory_gb to what its experts may use together",
            )
        return Room(
            capacity=self.memory_gb,
            by_memory=True,
            sleeps=True,
            sleep_level=self.sleep_level,
            ram_gb=self.ram_gb,
            reads_ahead=ahead,
            hardware=f"asleep, {self.device}",
        )

    @property
    def engine(self) -> str:
        return f"vllm/{self.swap}"

    @property
    def alike(self) -> tuple[object, ...]:
        return (self.kind, self.swap, self.device, self.dtype, self.url)

    def way(self, experts: int) -> str:
        if self.swap == "sleep":
            memory = f" within {self.memory_gb:g} GB" if self.memory_gb else ""
            device = self.device.upper()
            return f"a vLLM process for each expert on the {device}, put to sleep and woken{memory}"
        turns = "holds its only expert" if experts == 1 else "the experts take turns by in-place weight swaps"
        length = f", {self.max_model_len} tokens" if self.max_model_len else ""
        where = _process(self.url, self.device)
        return f"{where}, {turns}; up to {self.max_running} requests at once{length}"


class AdapterHost(HostBase):
    """One vLLM process with a base model; its experts are LoRA adapters loaded at run time."""

    kind: Literal["adapter"]
    base: str
    """the base model: a folder or a hub id"""
    url: ApiUrl | None = None
    device: Literal["cpu", "gpu"] = "gpu"
    max_adapters: Annotated[int, Field(ge=1)] = 8
    """most adapters that stay loaded"""
    max_adapters_in_batch: Annotated[int, Field(ge=1)] = 4
    """most different adapters in one batch"""
    max_rank: Literal[8, 16, 32, 64, 128] = 16
    """the largest LoRA rank that is accepted"""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    threads: Annotated[int, Field(ge=1)] | None = None
    max_running: Annotated[int, Field(ge=1)] = 16
    max_model_len: Annotated[int, Field(ge=16)] | None = None
    args: tuple[str, ...] = ()
    env: dict[str, str | None] = Field(default_factory=dict)
    """further environment variables of the process; without a value: as the service has it"""
    start_timeout_s: Annotated[float, Field(gt=0)] = 300.0
    silence_timeout_s: Annotated[float, Field(gt=0)] = 60.0
    """a process that gives no sign of life for this long is ended and started again"""

    followed = frozenset({"memory_gb", "ram_gb"})
    takes_adapters = True

    @property
    def room(self) -> Room:
        hardware = f"adapters, {self.device}"
        return Room(float(self.max_adapters), max_running=self.max_running, hardware=hardware)

    @property
    def alike(self) -> tuple[object, ...]:
        return (self.kind, self.base, self.max_rank, self.device, self.dtype, self.url)

    def way(self, experts: int) -> str:  # noqa: ARG002
        where = _process(self.url, self.device)
        return f"{where} with base {self.base}, up to {self.max_adapters} adapters loaded at a time"


class RemoteHost(HostBase):
    """An API elsewhere: an OpenAI-compatible ``url``, or a ``provider`` through LiteLLM.

    The key is read from the environment variable ``api_key_env`` or the file ``api_key_file``; it never
    stands in experts.yaml.
    """

    kind: Literal["remote"]
    url: ApiUrl | None = None
    """an OpenAI-compatible server, with or without /v1"""
    provider: str | None = None
    """a provider's name in LiteLLM"""
    api_key_env: str | None = None
    """environment variable that holds the key"""
    api_key_file: str | None = None
    """file that holds the key, relative to experts.yaml"""
    max_running: Annotated[int, Field(ge=1)] = 64
    timeout_s: Annotated[float, Field(gt=0)] = 300.0
    max_failures: Annotated[int, Field(ge=1)] = 5
    """failures in a row after which an expert is not asked for pause_s"""
    pause_s: Annotated[float, Field(gt=0)] = 10.0
    link_local: bool = False
    """whether url may be at a link-local or cloud metadata address"""

    followed = frozenset({"max_running"})

    @property
    def always_awake(self) -> bool:
        return True

    @property
    def room(self) -> Room:
        return Room(math.inf, max_running=self.max_running)

    @property
    def alike(self) -> tuple[object, ...]:
        return (self.kind, self.id)

    def way(self, experts: int) -> str:  # noqa: ARG002
        return f"remote, {self.url or f'provider {self.provider} through LiteLLM'}"

    @model_validator(mode="after")
    def _one_address(self) -> RemoteHost:
        if (self.url is None) == (self.provider is None):
            raise ValueError("give either url (an OpenAI-compatible server) or provider (through LiteLLM)")
        return self


class PluginHost(HostBase):
    """An engine of your own, in the folder of experts.yaml or installed."""

    kind: Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")]
    """module:Class"""
    options: dict[str, Any] = Field(default_factory=dict)
    """as the class takes them"""
    experts_at_once: Annotated[int, Field(ge=1)] | Literal["all"] | None = None
    """experts that it holds at once; others take their place in turn. all: nothing is ever loaded or freed.
    none: as the class says"""
    memory_gb: Annotated[float, Field(gt=0)] | None = None
    """memory that its experts share by their memory_gb; replaces experts_at_once"""
    max_running: Annotated[int, Field(ge=1)] = 16
    """most requests at once"""

    followed = frozenset({"memory_gb", "max_running"})
    takes_adapters = None

    @property
    def always_awake(self) -> bool:
        return self.experts_at_once == "all" and self.memory_gb is None

    @property
    def room(self) -> Room:
        count = math.inf if self.experts_at_once == "all" else float(self.experts_at_once or 1)
        return Room(
            capacity=self.memory_gb or count,
            by_memory=self.memory_gb is not None,
            max_running=self.max_running,
            hardware=self.kind,
        )

    @property
    def settings(self) -> dict[str, Any]:
        return self.options

    @property
    def alike(self) -> tuple[object, ...]:
        own = self.id if self.always_awake else None
        return (self.kind, json.dumps(self.options, sort_keys=True), own)

    def way(self, experts: int) -> str:  # noqa: ARG002
        if self.always_awake:
            return f"{self.kind}, all experts ready at once"
        count = f"{self.experts_at_once or 1} at a time"
        held = f"{self.memory_gb:g} GB of experts at a time" if self.memory_gb else count
        return f"{self.kind}, {held}; up to {self.max_running} requests at once"


PLUGIN = "module:Class"


def _kind(host: object) -> object:
    """A host without ``kind`` is a vllm host."""
    kind = host.get("kind", "vllm") if isinstance(host, dict) else getattr(host, "kind", None)
    return PLUGIN if isinstance(kind, str) and ":" in kind else kind


def _process(url: str | None, device: str) -> str:
    return f"the server at {url}" if url else f"one vLLM process on the {device.upper()}"


Host = Annotated[
    Annotated[VllmHost, Tag("vllm")]
    | Annotated[AdapterHost, Tag("adapter")]
    | Annotated[RemoteHost, Tag("remote")]
    | Annotated[PluginHost, Tag(PLUGIN)],
    Discriminator(_kind),
]
