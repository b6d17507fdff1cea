"""Policies of other systems, to compare with; :data:`POLICIES` has the short names of all that the simulator
knows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from coe.registry.schema import Pool
from coe.scheduler.policies import BASELINES, Policy
from coe.scheduler.policies import POLICIES as SERVED
from coe.scheduler.policies import POLICY_KIND as SERVED_KIND
from coe.scheduler.policies import make_policy as make_among
from coe.scheduler.policies.spelling import parse_policy

POLICIES: Mapping[str, str] = MappingProxyType({**SERVED, **BASELINES})
POLICY_KIND = replace(SERVED_KIND, built_in=POLICIES)


def make_policy(pool: Pool, root: Path = Path()) -> Policy:
    """As :func:`coe.scheduler.policies.make_policy`, among all that the simulator knows."""
    return make_among(pool, root, POLICY_KIND)


def under_policy(pool: Pool, policy: str) -> Pool:
    """The settings of ``pool`` with another policy, which has options only if it is of the same name."""
    same = parse_policy(policy).name == parse_policy(pool.policy).name
    return pool.model_copy(update={"policy": policy, "options": pool.options if same else {}})
