"""What differs between two registries, and what of it a running service can follow. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from coe.registry.errors import Issue
from coe.registry.hosts import Host
from coe.registry.schema import Registry

_AT_ONCE = {
    "service.model_name",
    "pool.hosts",
    "pool.reroute_within",
    "pool.rebalance_s",
    "pool.stuck_after_s",
}
_SECTIONS = ("service", "pool", "history", "access", "state", "observe")
_WHOLE = ("feedback", "cache")
_MIDDLEWARES = ("access.", "state.", "observe.", *_WHOLE)


class _Named(Protocol):
    @property
    def id(self) -> str: ...


def changes(old: Registry, new: Registry) -> str:
    """One line for people."""
    parts = [
        *_listed("expert", old.experts, new.experts),
        *_listed("host", old.pool.hosts, new.pool.hosts),
        *(f"changed {name}" for name in ("limits", "routers", "aggregator") if _differ(old, new, name)),
        *(f"changed {name}" for name in _settings(old, new)),
    ]
    return "; ".join(parts) or "nothing that matters changed"


def needs_restart(first: Registry, now: Registry) -> tuple[str, ...]:
    """Settings that were changed since the service was started and that it reads only then."""
    return tuple(
        name
        for name in _settings(first, now)
        if name not in _AT_ONCE and not (name == "service.admin" and _same_listener(first, now))
    )


def needs_another_gateway(first: Registry, now: Registry) -> tuple[str, ...]:
    """Of these, what a gateway of a cluster was made with: the rest of it goes by Serve."""
    return tuple(name for name in needs_restart(first, now) if name.startswith(_MIDDLEWARES))


def needs_another_owner(first: Registry, now: Registry) -> tuple[str, ...]:
    """Of these, what a pool owner of a cluster was made with."""
    return tuple(name for name in needs_restart(first, now) if name.startswith("pool."))


def fixed_hosts(old: Registry, new: Registry) -> Iterator[Issue]:
    """Hosts that were changed though their engines run."""
    for index, host in enumerate(new.pool.hosts):
        before = old.host(host.id)
        changed = [] if before is None or not old.experts_on(host.id) else fixed_fields(before, host)
        if changed:
            message = f"host {host.id} cannot change its {', '.join(changed)} while it runs"
            hint = "Give the changed host another id and move its experts there, or restart the service."
            yield Issue(message, ("pool", "hosts", index, changed[0]), hint=hint)


def fixed_fields(before: Host, after: Host) -> list[str]:
    """Fields that differ and that the running engine would not follow."""
    if type(before) is not type(after):
        return ["kind"]
    fields = set(type(after).model_fields) - after.followed
    return sorted(name for name in fields if getattr(before, name) != getattr(after, name))


def _same_listener(first: Registry, now: Registry) -> bool:
    """Whether the admin API differs in ``any_folder`` alone, which is looked up for each entry."""
    before, after = first.service.admin, now.service.admin
    if before is None or after is None:
        return False
    return before.model_copy(update={"any_folder": after.any_folder}) == after


def _settings(old: Registry, new: Registry) -> Iterator[str]:
    for section in _SECTIONS:
        one, other = getattr(old, section), getattr(new, section)
        for name in type(other).model_fields:
            label = f"{section}.{name}"
            if label != "pool.hosts" and getattr(one, name) != getattr(other, name):
                yield label
    yield from (name for name in _WHOLE if _differ(old, new, name))


def _differ(old: Registry, new: Registry, section: str) -> bool:
    return bool(getattr(old, section) != getattr(new, section))


def _listed(noun: str, old: Sequence[_Named], new: Sequence[_Named]) -> Iterator[str]:
    before, after = {thing.id: thing for thing in old}, {thing.id: thing for thing in new}
    for word, names in (
        ("added", [name for name in after if name not in before]),
        ("removed", [name for name in before if name not in after]),
        ("changed", [name for name in after if name in before and before[name] != after[name]]),
    ):
        if names:
            yield f"{word} {noun} {', '.join(names)}"
