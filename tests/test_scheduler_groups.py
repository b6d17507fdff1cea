"""Requests that depend on each other: alternatives, groups, expected leases, and the wait promised."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from coe.core.errors import ConfigError
from coe.registry.scheduling_settings import Mechanisms
from coe.registry.schema import Pool
from coe.scheduler.events import Grant, Load, Reject
from coe.scheduler.plan import CLASSES, ClassPlan, ExpertPlan, HostPlan, PoolPlan
from coe.scheduler.policies import Coe, split_policies
from coe.simulate.baselines import make_policy
from coe.testing.scheduling import World


def world(slots: int = 1, policy: Coe | None = None, **plan: Any) -> World:
    hosts = tuple(HostPlan(f"slot-{i}") for i in range(slots))
    names = tuple(host.id for host in hosts)
    experts = tuple(ExpertPlan(e, names, max_running=2, load_s=1.0) for e in "abcd")
    return World(replace(PoolPlan(hosts, experts), **plan), policy)


def awake(world: World, expert: str) -> None:
    world.arrive(f"first-{expert}", expert)
    world.ready(expert)
    world.finish(f"first-{expert}")


def without(*mechanisms: str) -> Coe:
    return Coe(mechanisms=Mechanisms(**dict.fromkeys(mechanisms, False)))


# Re-routing


def test_an_awake_alternative_takes_a_request_that_would_have_to_wait() -> None:
    w = world()
    awake(w, "b")
    (grant,) = w.arrive("r", "a", "c", "b")
    assert grant == Grant("r", "b", "slot-0")


def test_no_alternative_is_used_when_the_own_expert_is_free_or_none_is_named() -> None:
    w = world(slots=2)
    awake(w, "a")
    awake(w, "b")
    assert w.arrive("r1", "a", "b")[0] == Grant("r1", "a", "slot-0")
    assert not any(isinstance(action, Grant) for action in w.arrive("r2", "c"))


def test_a_waiting_request_goes_to_an_alternative_that_becomes_free_first() -> None:
    w = world()
    w.arrive("b0", "b")
    w.arrive("r", "a", "b")
    actions = w.ready("b")
    assert [a.request for a in actions if isinstance(a, Grant)] == ["b0", "r"]


def test_rerouting_can_be_switched_off() -> None:
    w = world(policy=without("reroute"))
    awake(w, "b")
    assert not any(isinstance(action, Grant) for action in w.arrive("r", "a", "b"))


def test_requests_of_a_quarantined_expert_go_to_an_alternative_or_are_rejected() -> None:
    w = world(policy=without("reroute"), retry_s=0.1)
    w.arrive("lucky", "a", "b")
    w.arrive("alone", "a")
    for _ in range(3):
        actions = w.fail_load("a")
        w.wait(1.0) if not any(isinstance(a, Reject) for a in actions) else None
    assert w.ended == {"alone": "rejected"}
    assert w.waiting == {"lucky": "a"}
    w.settle()
    assert w.ended["lucky"] == "finished"
    assert w.granted("b") == ["lucky"]
    assert w.arrive("later", "a", "b")[0] == Grant("later", "b", "slot-0")


# Groups and expected leases


def test_a_later_leg_has_waited_as_long_as_its_client() -> None:
    w = world()
    w.arrive("first", "a", group="g")
    w.wait(10.0)
    w.ready("a")
    w.arrive("single", "b")
    w.wait(1.0)
    w.arrive("second", "c", group="g")
    w.finish("first")
    assert w.slept("a") == [Load("c", "slot-0")]
    w.ready("c")
    w.settle()


def test_an_expected_expert_comes_in_when_there_is_room_and_stays() -> None:
    w = world(slots=2)
    w.arrive("leg", "a", group="g")
    assert w.expect("sum", "d", group="g") == [Load("d", "slot-1")]
    w.ready("a")
    w.ready("d")
    assert w.arrive("sum", "d", group="g")[0] == Grant("sum", "d", "slot-1")


def test_an_expected_expert_displaces_nobody_who_works() -> None:
    w = world()
    w.arrive("leg", "a", group="g")
    w.ready("a")
    assert w.expect("sum", "d", group="g") == []
    assert w.place("a", "slot-0") == "awake"


def test_experts_of_one_group_do_not_displace_each_other_while_others_can_go() -> None:
    w = world(slots=2)
    awake(w, "a")
    w.wait(1.0)
    awake(w, "b")
    w.expect("sum", "a", group="g")
    w.arrive("leg", "c", group="g")
    assert (w.place("a", "slot-0"), w.place("b", "slot-1")) == ("awake", "going")


@pytest.mark.parametrize("ends", ["withdrawn", "arrives and is finished", "arrives and is cancelled"])
def test_nothing_of_an_expectation_is_left_once_it_has_ended(ends: str) -> None:
    w = world(slots=2)
    w.arrive("leg", "a", group="g")
    w.expect("sum", "d", group="g")
    w.ready("a")
    w.ready("d")
    if ends == "withdrawn":
        w.withdraw("sum")
    else:
        w.arrive("sum", "d", group="g")
        (w.finish if ends.endswith("finished") else w.cancel)("sum")
    state = w.scheduler._state
    assert state.groups.keys() == {"g"}, "a leg is still out"
    w.finish("leg")
    assert [state.groups, state.expected, state.waiting, state.leases] == [{}, {}, {}, {}]
    assert all(not (e.legs or e.expected or e.stealable) for e in state.experts.values())


@pytest.mark.parametrize(("size", "leave"), [(6.0, set()), (10.0, {"old"}), (18.0, {"old", "new"})])
def test_an_expected_expert_closes_no_more_than_it_needs(size: float, leave: set[str]) -> None:
    sizes = {"old": 8.0, "new": 8.0, "d": size}
    experts = tuple(ExpertPlan(e, ("gpu",), footprint, max_running=2) for e, footprint in sizes.items())
    w = World(PoolPlan((HostPlan("gpu", capacity=24.0, sleeps=True),), experts))
    awake(w, "old")
    w.wait(1.0)
    awake(w, "new")
    w.expect("sum", "d", group="g")
    assert {seat.expert for seat in w.seats("going")} == leave


def test_expectations_are_ignored_with_groups_switched_off() -> None:
    w = world(policy=without("groups"))
    assert w.expect("sum", "d", group="g") == []


# The promise


def test_a_request_whose_bound_exceeds_its_class_s_is_refused_at_once_and_told_when_to_ask_again() -> None:
    tight = {**CLASSES, "interactive": ClassPlan(slo_s=1.0, ageing_s=2.0, max_wait_s=9.0)}
    w = world(classes=tight)
    for expert in "abc":
        assert not any(isinstance(a, Reject) for a in w.arrive(expert, expert, deadline_class="batch"))
    (reject,) = w.arrive("hurried", "d", deadline_class="interactive")
    assert isinstance(reject, Reject)
    assert (reject.code, reject.retry_after_s) == (
        "wait_not_promised",
        pytest.approx(2.0 - 12.0 + 4 * 2.0, abs=9),
    )
    w.settle()


def test_nothing_is_refused_with_the_promise_switched_off() -> None:
    tight = {**CLASSES, "standard": ClassPlan(max_wait_s=0.001)}
    w = world(policy=without("promise"), classes=tight)
    assert w.arrive("r", "a") == [Load("a", "slot-0")]
    (reject,) = world(classes=tight).arrive("r", "a")
    assert isinstance(reject, Reject)


# Spelling


def test_a_policy_is_spelled_without_some_of_its_mechanisms() -> None:
    policy = make_policy(Pool(hosts=(), policy="coe[-prewake,-admission-closing]"))
    assert isinstance(policy, Coe)
    assert (policy.mechanisms.prewake, policy.mechanisms.admission_closing) == (False, False)
    assert policy.mechanisms.reroute
    assert policy.name == "coe[-prewake,-admission-closing]"
    assert split_policies("fcfs-lru, coe[-prewake,-groups],coe") == (
        "fcfs-lru",
        "coe[-prewake,-groups]",
        "coe",
    )


@pytest.mark.parametrize("wrong", ["coe[-prewaka]", "coe[+prewake]", "coe[", "fcfs-lru[-prewake]"])
def test_a_misspelled_policy_is_refused(wrong: str) -> None:
    with pytest.raises(ConfigError):
        make_policy(Pool(hosts=(), policy=wrong))
