"""What ``coe check`` says of a valid registry: whether its pieces exist and fit, and what will happen.

Reads small files and safetensors headers only; starts nothing and asks no network.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from coe.core.errors import CoeError, ConfigError
from coe.registry.errors import Issue, Loc, Severity
from coe.registry.hosts import AdapterHost, Host, RemoteHost, VllmHost
from coe.registry.schema import Expert, Registry
from coe.registry.summary import summary

if TYPE_CHECKING:
    from coe.routers.category import CategoryOptions


@dataclass(frozen=True)
class Explanation:
    """``issues``, errors first, and ``summary``: what the service will do, in lines to read."""

    issues: tuple[Issue, ...]
    summary: tuple[str, ...]

    @property
    def errors(self) -> tuple[Issue, ...]:
        return tuple(issue for issue in self.issues if issue.severity == "error")


def explain(registry: Registry, root: Path, known: Iterable[Issue] = ()) -> Explanation:
    """All issues of ``registry``, whose file stands in folder ``root``, beside those that its text has shown
    (``known``). Blocking (file I/O)."""
    order: tuple[Severity, ...] = ("error", "warning", "note")
    found = [*known, *_Checks(registry, root).all()]
    issues = sorted(found, key=lambda issue: order.index(issue.severity))
    return Explanation(tuple(issues), summary(registry))


def new_errors(old: Registry, new: Registry, root: Path) -> Iterator[Issue]:
    """Errors of ``new`` that ``old`` did not have. Blocking (file I/O)."""
    known = {issue.message for issue in explain(old, root).errors}
    return (issue for issue in explain(new, root).errors if issue.message not in known)


def memory_gb(expert: Expert, host: VllmHost) -> float | None:
    """What the expert's weights take: as the registry says, else parameters times bytes; or not known."""
    if expert.memory_gb is not None:
        return expert.memory_gb
    return None if expert.parameters_b is None else expert.parameters_b * host.bytes_per_parameter


def _tried(loc: Loc, name: str, act: Callable[[], object]) -> Iterator[Issue]:
    try:
        act()
    except CoeError as error:
        yield Issue(f"{name}: {error.message}", loc, hint=error.hint)


class _Checks:
    """Each method yields what one kind of look at ``registry`` finds."""

    def __init__(self, registry: Registry, root: Path) -> None:
        self._registry, self._root = registry, root
        self._locs: dict[str, Loc] = {
            expert.id: ("experts", index) for index, expert in enumerate(registry.experts)
        }

    def all(self) -> Iterator[Issue]:
        yield from self._parts()
        for index, host in enumerate(self._registry.pool.hosts):
            yield from self._host(("pool", "hosts", index), host)
        yield from self._experts()
        yield from self._routers()
        yield from self._profiles()

    def _parts(self) -> Iterator[Issue]:
        """Whatever is named by a short name or a class, and whatever an engine refuses to be built with."""
        from coe.aggregators import Setting, build_aggregators
        from coe.engines import build_engine
        from coe.profiles.store import fitted_combiner
        from coe.scheduler.plan import build_plan
        from coe.scheduler.policies import make_policy

        registry, root = self._registry, self._root
        views = tuple(expert.view() for expert in registry.experts)
        setting = Setting(views, root, combiner=fitted_combiner(registry, root))
        yield from _tried(("aggregator",), "aggregator", lambda: build_aggregators(registry, setting))
        yield from _tried(("pool",), "pool", lambda: make_policy(registry.pool, root))
        yield from _tried(("pool",), "pool", lambda: build_plan(registry))
        for index, host in enumerate(registry.pool.hosts):
            experts = registry.experts_on(host.id)
            if experts:  # else it is not started
                build = partial(build_engine, host, experts, root)
                yield from _tried(("pool", "hosts", index), host.id, build)

    def _host(self, loc: Loc, host: Host) -> Iterator[Issue]:
        experts = self._registry.experts_on(host.id)
        if not experts:
            hint = "Put an expert on it, or remove it."
            yield Issue(f"host {host.id} has no expert", loc, "warning", hint)
            return
        if isinstance(host, RemoteHost):
            yield from self._remote(loc, host)
        elif isinstance(host, VllmHost | AdapterHost):
            yield from self._vllm(loc, host, experts)

    def _vllm(self, loc: Loc, host: VllmHost | AdapterHost, experts: Sequence[Expert]) -> Iterator[Issue]:
        yield from self._lengths(host, experts)
        if host.device == "cpu" and host.dtype != "float32":
            message = (
                f"host {host.id} runs on a CPU with dtype {host.dtype}: answers may be garbage (bfloat16)"
            )
            yield Issue(message, loc, "warning", "Write `dtype: float32`.")
        if isinstance(host, AdapterHost):
            yield from self._adapters(loc, host, experts)
        else:
            yield from self._checkpoints(host, experts)
            yield from self._memory(loc, host, experts)

    def _remote(self, loc: Loc, host: RemoteHost) -> Iterator[Issue]:
        from coe.engines.remote.openai_url import read_key

        try:
            read_key(host, self._root)
        except CoeError as error:
            # The key may be set where the service runs and not here.
            yield Issue(error.message, loc, "warning", error.hint)

    def _lengths(self, host: VllmHost | AdapterHost, experts: Sequence[Expert]) -> Iterator[Issue]:
        limit = host.max_model_len
        for expert in experts:
            if limit is not None and expert.context_length is not None and expert.context_length > limit:
                message = (
                    f"expert {expert.id} has context_length {expert.context_length}, but host {host.id} has"
                    f" max_model_len {limit}: longer prompts are refused"
                )
                hint = "Raise max_model_len of the host, or lower context_length of the expert."
                yield Issue(message, self._locs[expert.id], "warning", hint)

    def _adapters(self, loc: Loc, host: AdapterHost, experts: Sequence[Expert]) -> Iterator[Issue]:
        from coe.engines.vllm.checkpoint import resolve_adapter, resolve_model

        yield from _tried(loc, host.id, partial(resolve_model, host.base, self._root))
        for expert in experts:
            if expert.adapter is not None:
                resolve = partial(resolve_adapter, expert.adapter, self._root, host.max_rank)
                yield from _tried(self._locs[expert.id], expert.id, resolve)

    def _checkpoints(self, host: VllmHost, experts: Sequence[Expert]) -> Iterator[Issue]:
        """The experts' checkpoints exist, and on an in-place host can take each other's place."""
        from coe.engines.vllm.checkpoint import Checkpoint, resolve_model

        swapped = host.swap == "in_place" and len(experts) > 1
        first: Checkpoint | None = None
        for expert in experts:
            try:
                folder = resolve_model(expert.model, self._root).folder
                if folder is None:
                    yield from self._hub_model(expert, swapped) if host.url is None else ()
                    continue
                checkpoint = Checkpoint.read(folder)
                if swapped:
                    checkpoint.require_swappable()
                    checkpoint.require_like(first or checkpoint)
                    first = first or checkpoint
            except CoeError as error:
                yield Issue(f"{expert.id}: {error.message}", self._locs[expert.id], hint=error.hint)

    def _hub_model(self, expert: Expert, swapped: bool) -> Iterator[Issue]:
        loc = self._locs[expert.id]
        message = (
            f"expert {expert.id}: {expert.model} is downloaded from the model hub when it is first loaded"
        )
        yield Issue(message, loc, "note")
        if swapped:
            message = (
                f"expert {expert.id}: whether {expert.model} fits its in-place host cannot be checked here"
            )
            hint = (
                "In-place swaps need one architecture and untied embeddings; a local folder can be checked."
            )
            yield Issue(message, loc, "warning", hint)

    def _memory(self, loc: Loc, host: VllmHost, experts: Sequence[Expert]) -> Iterator[Issue]:
        if host.memory_gb is None:
            return
        sizes = {expert.id: size for expert in experts if (size := memory_gb(expert, host)) is not None}
        for expert, size in sizes.items():
            if size > host.memory_gb:
                message = (
                    f"expert {expert} takes {size:.1f} GB, but host {host.id} has {host.memory_gb:.1f} GB"
                )
                hint = "Give it a larger host, or correct memory_gb."
                yield Issue(message, self._locs[expert], hint=hint)
        for expert in (expert.id for expert in experts if expert.id not in sizes and host.swap == "sleep"):
            message = f"expert {expert} gives neither memory_gb nor parameters_b, so its size is not known"
            yield Issue(message, self._locs[expert], "warning", "Write `memory_gb: ...`.")
        total = sum(sizes.values())
        if host.swap == "sleep" and total > host.memory_gb:
            message = (
                f"the experts of host {host.id} take {total:.1f} GB, more than its {host.memory_gb:.1f} GB:"
                " they will be swapped"
            )
            yield Issue(message, loc, "note")

    def _experts(self) -> Iterator[Issue]:
        if not any(expert.general for expert in self._registry.routed):
            message = (
                "no expert is marked general: questions that no specialist covers go to a specialist anyway"
            )
            hint = "Write `general: true` on the expert for everything else."
            yield Issue(message, ("experts",), "warning", hint)
        for expert in self._registry.experts:
            if not expert.card:
                message = f"expert {expert.id} has no card: routers know little about it"
                hint = "Write one sentence on what it is best at as its card."
                yield Issue(message, self._locs[expert.id], "warning", hint)
            elif not expert.skills and not expert.general:
                message = f"expert {expert.id} has no skills: without a profile, routers go by its card alone"
                hint = "List the categories that it covers as its skills."
                yield Issue(message, self._locs[expert.id], "note", hint)

    def _routers(self) -> Iterator[Issue]:
        from coe.routers import router_class
        from coe.routers.category import CategoryOptions, read_examples

        for index, spec in enumerate(self._registry.routers.available):
            loc: Loc = ("routers", "available", index)
            try:
                options_type = router_class(spec.kind, self._root).options_type
                if options_type is CategoryOptions:
                    options = CategoryOptions.model_validate(spec.options)
                    examples = read_examples(options.examples, self._root)
                    categories = {each.category for each in examples}
                    yield from self._skills_without_examples(loc, categories)
                    if not examples:
                        yield from self._category_by_profiles(loc, spec.name)
                    self._check_budget(options, categories)
            except ConfigError as error:
                yield Issue(f"{spec.name}: {error.message}", loc, hint=error.hint)

    def _check_budget(self, options: CategoryOptions, categories: Set[str]) -> None:
        """Raises ConfigError where no map of categories to the experts keeps the router's budget."""
        from coe.profiles.evidence import evidence_of
        from coe.profiles.store import open_store
        from coe.routers.category import budget_of
        from coe.routers.category_budget import Budget, require_a_map

        budget, routed = budget_of(options), self._registry.routed
        if budget == Budget():
            return
        evidence = None if categories else evidence_of(open_store(self._registry, self._root), routed)
        rows = evidence.categories if evidence else [*categories, *(each.id for each in routed)]
        require_a_map(tuple(Counter(rows).values()), [expert.view() for expert in routed], budget)

    def _category_by_profiles(self, loc: Loc, name: str) -> Iterator[Issue]:
        """Without examples the first profile makes another router of it."""
        from coe.profiles.store import open_store

        try:
            store = open_store(self._registry, self._root)
            known = [expert.id for expert in self._registry.routed if store.of(expert)]
        except CoeError:
            return  # told with the profiles
        if not known:
            message = f"{name}: without examples it goes by the experts' cards, until one has a profile"
            yield Issue(message, loc, "note", "Give it examples, and profiles change nothing.")
            return
        message = f"{name}: without examples it goes by the profiles of {', '.join(known)}, not by cards"
        hint = "Give it examples to have categories learned from these, whatever profiles there are."
        yield Issue(message, loc, "note", hint)

    def _skills_without_examples(self, loc: Loc, categories: set[str]) -> Iterator[Issue]:
        from coe.routers.learning.category_classifier import GENERAL

        if not categories:
            return
        for expert in self._registry.experts:
            if expert.skills and not categories & set(expert.skills):
                skills = ", ".join(expert.skills)
                message = f"expert {expert.id}: the router has no examples of {skills} and goes by its card"
                yield Issue(message, self._locs[expert.id], "note")
        owned = {skill for expert in self._registry.experts for skill in expert.skills} | {GENERAL}
        unowned = ", ".join(sorted(categories - owned))
        if unowned:
            message = (
                f"the router also knows {unowned}, skills of no expert: such questions go to a general expert"
            )
            yield Issue(message, loc, "note")

    def _profiles(self) -> Iterator[Issue]:
        """Which experts have a profile that routers can learn from."""
        from coe.profiles.evidence import cautions, described

        loc: Loc = ("profiles",)
        try:
            cautious, noted = cautions(self._registry, self._root), described(self._registry, self._root)
            yield from (Issue(line, loc, "warning") for line in cautious)
            yield from (Issue(line, loc, "note") for line in noted)
        except CoeError as error:
            yield Issue(f"profiles: {error.message}", loc, hint=error.hint)
