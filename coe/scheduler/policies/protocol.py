"""What a policy sees of one host, and what it answers.

The scheduler keeps states, budgets, leases and failures, and asks a policy about one host at a time. A
policy reads a view, keeps no clock and changes nothing that it sees. Whatever it answers, no work in flight
is killed and no budget is exceeded.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from pydantic import BaseModel

from coe.core.types import ExpertId, RequestId
from coe.registry.schema import Pool
from coe.scheduler.events import HostId
from coe.scheduler.queue import Age, Worth


class QueueView(Protocol):
    """An expert and its requests that wait, over all its hosts. Times in seconds."""

    @property
    def id(self) -> ExpertId: ...
    @property
    def queued(self) -> int: ...
    @property
    def oldest(self) -> float:
        """Arrival of the head of the queue; ``inf`` when nobody waits."""
        ...

    @property
    def overdue_at(self) -> float:
        """When the first of them will have waited as long as its class may; ``inf`` when nobody waits."""
        ...

    def overdue_age(self, now: float) -> Age:
        """Of the longest-waiting of those; ``NOBODY`` when nobody has waited so long."""
        ...

    @property
    def pressing_at(self) -> float:
        """When the first of them is so late that its expert is next in line; ``inf`` when nobody waits."""
        ...

    def worth(self, now: float, bring_s: float, most: int) -> Worth:
        """What it is worth to serve ``most`` of them, ``bring_s`` from now."""
        ...

    def rate_at(self, now: float) -> float:
        """Recent arrivals a second."""
        ...

    @property
    def groups(self) -> AbstractSet[RequestId]:
        """Groups with a leg that waits for it, or that expect it."""
        ...

    @property
    def expected(self) -> int:
        """Leases that will be wanted soon, announced by their groups."""
        ...

    @property
    def run_s(self) -> float:
        """Moving mean of the time a lease is out."""
        ...

    @property
    def supply(self) -> int:
        """Batch capacity of the replicas that serve it now or will as soon as they are loaded."""
        ...

    @property
    def replicas(self) -> Mapping[HostId, ReplicaView]: ...


class PlaceView(Protocol):
    """A host as a policy sees it that looks across hosts."""

    @property
    def room(self) -> float:
        """As in :class:`HostView`."""
        ...

    @property
    def residents(self) -> Mapping[ExpertId, ReplicaView]:
        """Whatever holds room, in any state."""
        ...


class ReplicaView(Protocol):
    """One expert on one host. Times in seconds."""

    @property
    def expert(self) -> QueueView: ...
    @property
    def host(self) -> PlaceView: ...
    @property
    def awake(self) -> bool:
        """Whether it takes requests (not while it is loading or leaving)."""
        ...

    def loadable(self, now: float) -> bool:
        """Whether it could be brought in now."""
        ...

    @property
    def running(self) -> int:
        """Leases out."""
        ...

    @property
    def max_running(self) -> int: ...
    @property
    def footprint(self) -> float: ...
    @property
    def frame_left(self) -> int:
        """Requests of its frame that still wait to be granted."""
        ...

    @property
    def ready_at(self) -> float: ...
    @property
    def used_at(self) -> float:
        """Last grant or finish."""
        ...

    @property
    def load_s(self) -> float:
        """Expected cost of bringing it in from its present state."""
        ...


@dataclass(frozen=True, slots=True)
class HostView:
    """A host at one moment.

    ``room``: capacity that is free once everything that is leaving has left and everything that is
    promised has come. ``candidates``: experts with work that could be brought in now. ``residents``: awake
    experts that are not already leaving. ``switching``: something is being loaded, or leaves.
    Where experts are always awake there are neither candidates nor residents.
    """

    host: HostId
    now: float
    room: float
    candidates: Sequence[ReplicaView]
    residents: Sequence[ReplicaView]
    switching: bool = False


@dataclass(frozen=True, slots=True)
class Swap:
    """Close ``victims`` (residents), and load ``load`` (a candidate) when they have left."""

    load: ExpertId | None
    victims: tuple[ExpertId, ...] = ()


@dataclass(frozen=True, slots=True)
class Rules:
    """What the scheduler does on a policy's behalf; all off: a plain queue for each expert.

    ``timely_first``: within one expert's queue, requests that can still be in time go before those that
    cannot, and the overdue before both; if not, the oldest goes first. ``prefetch``: weights are read from
    disk while requests for them wait. ``groups``: the legs of a request age together, and its experts come
    in when they are expected. ``reroute``: an awake alternative takes a request that would have to wait.
    ``promise``: a request whose bound on waiting exceeds what its class allows is refused at once.
    ``only_for_waiting``: where nobody waits and nothing moves the policy wants nothing, holds nobody back and
    needs no time to wake, so it is not asked there. ``idle_s``: for how long a place may stay idle though a
    request waits that could have it; ``inf``: the policy says nothing of that, and an idle place is not taken
    for a stuck scheduler.
    """

    timely_first: bool = False
    prefetch: bool = False
    groups: bool = False
    reroute: bool = False
    promise: bool = False
    only_for_waiting: bool = False
    idle_s: float = math.inf


class Policy(Protocol):
    """Pure decisions about one host. Called again whenever something changes there."""

    @property
    def name(self) -> str: ...

    @property
    def across_hosts(self) -> bool:
        """Whether a change on one host may change its answers about others."""
        ...

    @property
    def rules(self) -> Rules:
        """What the scheduler does besides on its behalf."""
        ...

    def swap(self, view: HostView) -> Swap | None:
        """The next change of residents, or None. Victims and room must suffice for ``load``."""
        ...

    def grant(self, view: HostView, grantable: Sequence[ReplicaView]) -> ExpertId | None:
        """Whose oldest request is granted next; ``grantable`` (never empty) have work and batch room.
        None holds them all back until something happens or ``wake_at``."""
        ...

    def frame(self, replica: ReplicaView) -> int:
        """How many of the requests queued at this moment, when it is loaded, are served before it may
        be closed."""
        ...

    def wake_at(self, view: HostView) -> float:
        """When ``swap`` or ``grant`` could answer otherwise though nothing happened; ``inf`` for never.
        Must be later than ``view.now``."""
        ...


class PolicyClass(Protocol):
    """A class whose objects are policies."""

    options_type: ClassVar[type[BaseModel]]
    """of ``pool.options``, usually a :class:`coe.core.plugins.PluginOptions`"""

    def build(self, name: str, options: Any, pool: Pool) -> Policy:
        """Class method. ``name`` is what experts.yaml says under ``pool.policy``, ``options`` an
        ``options_type`` and ``pool`` the section's other settings."""
        ...
