"""Profiles of a newcomer: by recorded answers, or by asking it."""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from coe.core.errors import BadRequest, ConfigError
from coe.core.files import path_in
from coe.core.types import ExpertId
from coe.onboarding.protocol import Ask, ProfileReport
from coe.profiles.evidence import DEFAULT_ENCODER
from coe.profiles.names import name_among
from coe.profiles.outcomes import (
    Recorded,
    Source,
    full_profile,
    probe_recorded,
    probed_profile,
    recorded,
    training_rows,
)
from coe.profiles.probing import Design
from coe.profiles.profile import ENOUGH, ExpertProfile
from coe.profiles.store import ProfileFolder, open_store, own_folder
from coe.profiles.weights import weights_of
from coe.registry.schema import Expert, Registry


@dataclass(frozen=True)
class Probes:
    """How a newcomer is probed: ``count`` questions, or with None all that it has answers to."""

    count: int | None = None
    design: Design = "adaptive"
    seed: int = 0


def read_recorded(folder: Path, split: str | None = None, encoder: str = DEFAULT_ENCODER) -> Recorded:
    """The training part of an outcome set with its vectors. Blocking: minutes when the texts are new."""
    from coe.outcomes.outcome_set import read_outcomes
    from coe.outcomes.vectors import question_vectors
    from coe.routers.encoders.encoder import open_encoder

    whole = read_outcomes(folder)
    part = whole.rows(training_rows(whole, split))
    vectors = question_vectors(part, open_encoder(encoder, Path()))
    return recorded(part, vectors, encoder, Source(whole.name))


def profile_recorded(
    registry: Registry, root: Path, expert: Expert, data: Recorded, probes: Probes
) -> ExpertProfile:
    """Write the profile of ``expert`` from its recorded answers (and what :func:`prepare` writes).

    Raises ConfigError when the set has no answers of ``expert``.
    """
    name = name_among(expert, data.outcomes.experts)
    if name is None:
        raise ConfigError(
            f"{data.outcomes.name} has no outcomes of {expert.id} (model {expert.model})",
            hint=f"Write `profile: NAME` at the expert; the set has {', '.join(data.outcomes.experts)}.",
        )
    source = Source(data.table.source, data.table.licence)
    folder = prepare(registry, root, expert, data)
    if probes.count is None:
        profile = full_profile(data, name, source, expert.profile or expert.id)
    else:
        known = [each for each in data.outcomes.experts if each != name]
        probing = probe_recorded(data, name, known, probes.count, probes.design, probes.seed)
        profile = probed_profile(data, name, probing, source, expert.profile or expert.id)
    return _keep(folder, profile, expert, root)


def profile_asked(
    registry: Registry,
    root: Path,
    expert: Expert,
    data: Recorded,
    url: str,
    probes: Probes,
    model: str = "",
    trust: ssl.SSLContext | None = None,
) -> ExpertProfile:
    """Write the profile of ``expert`` from its answers through ``url``, where it is called ``model`` (its id
    by default, which pins it on a CoE service). Blocking; goes on from the answers of an interrupted run.
    """
    from coe.profiles.asking import Asking, ask_profile, through_url

    folder = prepare(registry, root, expert, data)
    asking = Asking(through_url(url, model or expert.id, trust), _record(folder, expert, data))
    profile = ask_profile(data, expert, asking, probes.count or ENOUGH, probes.design, probes.seed)
    return _keep(folder, profile, expert, root)


def _record(folder: ProfileFolder, expert: Expert, data: Recorded) -> Path:
    """By model too: what another one answered under this id says nothing of it."""
    model = hashlib.sha256(f"{expert.model}\0{expert.adapter}".encode()).hexdigest()[:12]
    return folder.path / "asked" / f"{quote(expert.id, safe='')}-{model}-{data.table.fingerprint}.jsonl"


class ProbeProfiler:
    """The :class:`coe.onboarding.protocol.Profiler` of a service whose file stands in ``root``: asks the
    expert :data:`ENOUGH` questions of the registry's ``probes``, each batch chosen by the answers so far."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def require(self, registry: Registry) -> None:
        if registry.probes is None:
            raise BadRequest(
                "experts.yaml names no questions to ask a new expert",
                code="no_probes",
                hint="Set `probes: DIR`, a set of questions with gold answers, or leave `profile` out.",
            )

    async def profile(self, registry: Registry, expert: ExpertId, ask: Ask) -> ProfileReport:
        self.require(registry)
        newcomer = next(each for each in registry.experts if each.id == expert)
        loop = asyncio.get_running_loop()

        def run(asking: Coroutine[Any, Any, None]) -> None:
            asyncio.run_coroutine_threadsafe(asking, loop).result()

        profile = await asyncio.to_thread(self._profiled, registry, newcomer, ask, run)
        lines = (profile.caution,) if profile.caution else ()
        return ProfileReport(expert, round(profile.overall.count), lines)

    def _profiled(
        self, registry: Registry, expert: Expert, ask: Ask, run: Callable[[Coroutine[Any, Any, None]], None]
    ) -> ExpertProfile:
        from coe.profiles.asking import Asking, Reply, ask_profile

        async def put(question: str) -> Reply:
            return Reply(await ask(question))

        data = read_recorded(path_in(self._root, registry.probes or ""))
        folder = prepare(registry, self._root, expert, data)
        profile = ask_profile(data, expert, Asking(put, _record(folder, expert, data), run), ENOUGH)
        return _keep(folder, profile, expert, self._root)


def prepare(registry: Registry, root: Path, expert: Expert, data: Recorded) -> ProfileFolder:
    """Write the question table and the profiles of the registry's other experts that the set has answers of
    and that have none on these questions; returns the folder."""
    source = Source(data.table.source, data.table.licence)
    folder = own_folder(registry, root)
    folder.write_table(data.table)
    store = open_store(registry, root)
    for other in registry.experts:
        theirs = name_among(other, data.outcomes.experts)
        missing = all(p.outcomes.table != data.table.fingerprint for p in store.of(other))
        if other.id != expert.id and theirs is not None and missing:
            _keep(folder, full_profile(data, theirs, source, other.profile or other.id), other, root)
    return folder


def _keep(folder: ProfileFolder, profile: ExpertProfile, expert: Expert, root: Path) -> ExpertProfile:
    """Write the profile with the weights that it is of."""
    profile = profile.model_copy(update={"weights": weights_of(expert, root)})
    folder.write(profile)
    return profile
