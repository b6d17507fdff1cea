"""What ``coe check`` says of a valid registry: whether its pieces exist and fit, and what will happen.

Reads small files and safetensors headers only; starts nothing and asks no network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from coe.core.errors import CoeError, ConfigError
from coe.registry.consistency import Inconsistency
from coe.registry.errors import Loc
from coe.registry.schema import AdapterHost, Expert, Host, Registry, RemoteHost, VllmHost
from coe.registry.summary import summary

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Finding:
    """``error``: it will not work; ``warning``: probably not as meant; ``note``: worth knowing."""

    severity: Severity
    subject: str
    message: str
    hint: str | None = None


@dataclass(frozen=True)
class Explanation:
    """``findings``, errors first, and ``summary``: what the service will do, in lines to read."""

    findings: tuple[Finding, ...]
    summary: tuple[str, ...]

    @property
    def errors(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.severity == "error")


def explain(registry: Registry, root: Path) -> Explanation:
    """All findings about ``registry``, whose file stands in folder ``root``. Blocking (file I/O)."""
    findings = [
        *_parts(registry, root),
        *(found for host in registry.pool.hosts for found in _host(host, registry, root)),
        *_experts(registry),
        *_routers(registry, root),
        *_profiles(registry, root),
    ]
    order = ("error", "warning", "note")
    findings.sort(key=lambda finding: order.index(finding.severity))
    return Explanation(tuple(findings), summary(registry))


def new_errors(old: Registry, new: Registry, root: Path) -> Iterator[Inconsistency]:
    """Errors of ``new`` that ``old`` did not have, where they stand in the file. Blocking (file I/O)."""
    known = {finding.message for finding in explain(old, root).errors}
    for finding in explain(new, root).errors:
        if finding.message not in known:
            message = f"{finding.message} ({finding.hint})" if finding.hint else finding.message
            yield Inconsistency(message, _loc(new, finding.subject))


def _loc(registry: Registry, subject: str) -> Loc:
    """Where the entry with this id or name stands."""
    lists: dict[Loc, list[str]] = {
        ("experts",): [expert.id for expert in registry.experts],
        ("pool", "hosts"): [host.id for host in registry.pool.hosts],
        ("routers", "available"): [spec.name for spec in registry.routers.available],
    }
    for loc, names in lists.items():
        if subject in names:
            return (*loc, names.index(subject))
    return (subject,)


def _error(subject: str, error: CoeError) -> Finding:
    return Finding("error", subject, f"{subject}: {error.message}", error.hint)


def _tried(subject: str, act: Callable[[], object]) -> Iterator[Finding]:
    try:
        act()
    except CoeError as error:
        yield _error(subject, error)


def _parts(registry: Registry, root: Path) -> Iterator[Finding]:
    """Whatever is named by a short name or a class, and whatever an engine refuses to be built with."""
    from coe.aggregators import Setting, build_aggregators
    from coe.engines import build_engine
    from coe.profiles.store import fitted_combiner
    from coe.scheduler.plan import build_plan
    from coe.scheduler.policies import make_policy

    views = tuple(expert.view() for expert in registry.experts)
    setting = Setting(views, root, combiner=fitted_combiner(registry, root))
    yield from _tried("aggregator", lambda: build_aggregators(registry, setting))
    yield from _tried("pool", lambda: make_policy(registry.pool))
    yield from _tried("pool", lambda: build_plan(registry))
    for host in registry.pool.hosts:
        experts = registry.experts_on(host.id)
        if experts:  # else it is not started
            yield from _tried(host.id, lambda host=host, experts=experts: build_engine(host, experts, root))  # type: ignore[misc]


def _host(host: Host, registry: Registry, root: Path) -> Iterator[Finding]:
    experts = registry.experts_on(host.id)
    if not experts:
        yield Finding("warning", host.id, f"host {host.id} has no expert", "Give it one, or remove it.")
        return
    if isinstance(host, RemoteHost):
        yield from _remote(host, root)
        return
    yield from _lengths(host, experts)
    if host.device == "cpu" and host.dtype != "float32":
        yield Finding(
            "warning",
            host.id,
            f"host {host.id} runs on a CPU with dtype {host.dtype}, which may give garbage (bfloat16 does)",
            "Write `dtype: float32`.",
        )
    if isinstance(host, AdapterHost):
        yield from _adapters(host, experts, root)
    else:
        yield from _checkpoints(host, experts, root)
        yield from _memory(host, experts)


def _profiles(registry: Registry, root: Path) -> Iterator[Finding]:
    """Which experts have a profile that routers can learn from."""
    from coe.profiles.evidence import cautions, described

    def describe() -> None:
        found.extend(Finding("warning", "profiles", line) for line in cautions(registry, root))
        found.extend(Finding("note", "profiles", line) for line in described(registry, root))

    found: list[Finding] = []
    yield from _tried("profiles", describe)
    yield from found


def _remote(host: RemoteHost, root: Path) -> Iterator[Finding]:
    from coe.engines.remote.openai_url import read_key

    try:
        read_key(host, root)
    except CoeError as error:
        # The key may be set where the service runs and not here.
        yield Finding("warning", host.id, error.message, error.hint)


def _lengths(host: VllmHost | AdapterHost, experts: Sequence[Expert]) -> Iterator[Finding]:
    limit = host.max_model_len
    for expert in experts:
        if limit is not None and expert.context_length is not None and expert.context_length > limit:
            yield Finding(
                "warning",
                expert.id,
                f"expert {expert.id} says context_length {expert.context_length}, but host {host.id} has"
                f" max_model_len {limit}: longer prompts are refused",
                "Raise max_model_len of the host, or lower context_length of the expert.",
            )


def _adapters(host: AdapterHost, experts: Sequence[Expert], root: Path) -> Iterator[Finding]:
    from coe.engines.vllm.checkpoint import resolve_adapter, resolve_model

    yield from _tried(host.id, lambda: resolve_model(host.base, root))
    for expert in experts:
        if expert.adapter is not None:
            adapter = expert.adapter
            yield from _tried(expert.id, lambda a=adapter: resolve_adapter(a, root, host.max_rank))  # type: ignore[misc]


def _checkpoints(host: VllmHost, experts: Sequence[Expert], root: Path) -> Iterator[Finding]:
    """The experts' checkpoints exist, and on an in-place host can take each other's place."""
    from coe.engines.vllm.checkpoint import Checkpoint, resolve_model

    swapped = host.swap == "in_place" and len(experts) > 1
    first: Checkpoint | None = None
    for expert in experts:
        try:
            folder = resolve_model(expert.model, root).folder
            if folder is None:
                yield from _hub_model(expert, swapped) if host.url is None else ()
                continue
            checkpoint = Checkpoint.read(folder)
            if swapped:
                checkpoint.require_swappable()
                checkpoint.require_like(first or checkpoint)
                first = first or checkpoint
        except CoeError as error:
            yield _error(expert.id, error)


def _hub_model(expert: Expert, swapped: bool) -> Iterator[Finding]:
    message = f"expert {expert.id}: {expert.model} is taken from the model hub when it is first loaded"
    yield Finding("note", expert.id, message)
    if swapped:
        message = f"expert {expert.id}: whether {expert.model} fits its in-place host cannot be checked here"
        hint = "In-place swaps need one architecture and untied embeddings; a local folder can be checked."
        yield Finding("warning", expert.id, message, hint)


def memory_gb(expert: Expert, host: VllmHost) -> float | None:
    """What the expert's weights take: as the registry says, else parameters times bytes; or not known."""
    if expert.memory_gb is not None:
        return expert.memory_gb
    bytes_each = 4 if host.dtype == "float32" else 2
    return None if expert.parameters_b is None else expert.parameters_b * bytes_each


def _memory(host: VllmHost, experts: Sequence[Expert]) -> Iterator[Finding]:
    if host.memory_gb is None:
        return
    sizes = {expert.id: size for expert in experts if (size := memory_gb(expert, host)) is not None}
    for expert_id, size in sizes.items():
        if size > host.memory_gb:
            message = (
                f"expert {expert_id} takes {size:.1f} GB, but host {host.id} has {host.memory_gb:.1f} GB"
            )
            yield Finding("error", expert_id, message, "Give it a larger host, or correct memory_gb.")
    for expert in experts:
        if expert.id not in sizes and host.swap == "sleep":
            message = f"expert {expert.id} gives neither memory_gb nor parameters_b, so its size is not known"
            yield Finding("warning", expert.id, message, "Write `memory_gb: ...`.")
    total = sum(sizes.values())
    if host.swap == "sleep" and total > host.memory_gb:
        message = (
            f"the experts of host {host.id} take {total:.1f} GB, more than its {host.memory_gb:.1f} GB, so"
            " they will be swapped"
        )
        yield Finding("note", host.id, message)


def _experts(registry: Registry) -> Iterator[Finding]:
    if not any(expert.general for expert in registry.routed):
        message = (
            "no expert is marked general: a question that no specialist covers goes to a specialist anyway"
        )
        yield Finding(
            "warning", "experts", message, "Write `general: true` on the expert for everything else."
        )
    for expert in registry.experts:
        missing = [name for name in ("card", "skills") if not getattr(expert, name)]
        if expert.general:
            missing = [name for name in missing if name == "card"]
        if missing:
            message = f"expert {expert.id} has no {' and no '.join(missing)}: routers know less of it"
            severity: Severity = "warning" if "card" in missing else "note"
            yield Finding(
                severity, expert.id, message, "One sentence on what it is best at is enough for card."
            )


def _routers(registry: Registry, root: Path) -> Iterator[Finding]:
    from coe.routers import router_class
    from coe.routers.category import CategoryOptions, read_examples

    for spec in registry.routers.available:
        try:
            options_type = router_class(spec.kind).options_type
            if options_type is CategoryOptions:
                options = CategoryOptions.model_validate(spec.options)
                examples = read_examples(options.examples, root)
                yield from _skills_without_examples(registry, {example.category for example in examples})
        except ConfigError as error:
            yield _error(spec.name, error)


def _skills_without_examples(registry: Registry, categories: set[str]) -> Iterator[Finding]:
    from coe.routers.category import GENERAL

    if not categories:
        return
    for expert in registry.experts:
        if expert.skills and not categories & set(expert.skills):
            skills = ", ".join(expert.skills)
            message = (
                f"expert {expert.id}: the router has no examples of {skills}, so it is found by its card"
            )
            yield Finding("note", expert.id, message)
    owned = {skill for expert in registry.experts for skill in expert.skills} | {GENERAL}
    unowned = ", ".join(sorted(categories - owned))
    if unowned:
        message = (
            f"the router also knows {unowned}, skills of no expert: such questions go to a general expert"
        )
        yield Finding("note", "routers", message)
