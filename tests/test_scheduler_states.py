"""The state machine that stands drawn beside the class Replica is the one that random runs take."""

from __future__ import annotations

import inspect
import itertools
import random
import re
import sys
from collections import defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hypothesis.stateful import invariant, run_state_machine_as_test

from coe.core.types import DeadlineClass, RequestId
from coe.scheduler import scheduler
from coe.scheduler.events import Cancelled
from coe.scheduler.policies import Coe
from coe.scheduler.replica import Replica, State
from coe.testing.conformance_policy import EXPERTS, PLAN
from coe.testing.scheduling import World
from tests.test_scheduler_properties import BUDGET, AnyOrder

DOCS = Path(__file__).parents[1] / "docs"
CLASSES: tuple[DeadlineClass, ...] = ("interactive", "standard", "batch")
NAMES = [expert.id for expert in EXPERTS]
FLAGS = ("committed", "crashed", "retired", "stale", "held", "running", "frame_left")


@dataclass(frozen=True)
class Move:
    """A change of state, and the function that made it."""

    source: str
    target: str
    by: str


@dataclass
class Notes:
    """What replicas did, and what they had in each state when the scheduler was at rest."""

    moves: set[Move] = field(default_factory=set)
    flags: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))

    def look_at(self, world: World) -> None:
        for expert in world.scheduler._state.experts.values():
            for replica in expert.replicas.values():
                had = self.flags[replica.state]
                had.update(flag for flag in FLAGS if getattr(replica, flag))
                had.update(["read"] if replica.read.state != "no" else [])


@pytest.fixture
def notes(monkeypatch: pytest.MonkeyPatch) -> Notes:
    notes, move = Notes(), Replica.move

    def note(self: Replica, state: State) -> None:
        if state != self.state:
            notes.moves.add(Move(self.state, state, sys._getframe(1).f_code.co_name))
        move(self, state)

    monkeypatch.setattr(Replica, "move", note)
    return notes


def drawn(*heading: str) -> list[list[str]]:
    """Rows of the table with this heading."""
    rows = [re.split(r" {2,}", line.strip()) for line in (Replica.__doc__ or "").splitlines()]
    start = next(i for i, row in enumerate(rows) if row[: len(heading)] == list(heading))
    return list(itertools.takewhile(lambda row: not row[0].startswith("==="), rows[start + 2 :]))


def drawn_moves() -> set[Move]:
    return {Move(*row[:3]) for row in drawn("from", "to", "by")}


def drawn_flags() -> dict[str, set[str]]:
    return {state: set(flags.split(", ")) for state, flags in drawn("state", "may have")}


@pytest.mark.slow
def test_no_order_of_events_makes_a_move_that_is_not_drawn(notes: Notes) -> None:
    class Watched(AnyOrder):
        @invariant()
        def note_what_replicas_have(self) -> None:
            notes.look_at(self.happenings.world)

    run_state_machine_as_test(Watched, settings=BUDGET)  # type: ignore[no-untyped-call]
    assert notes.moves <= drawn_moves()
    assert all(had <= drawn_flags()[state] for state, had in notes.flags.items())


@pytest.mark.slow
def test_long_random_runs_make_every_move_that_is_drawn_and_have_all_that_is_drawn(notes: Notes) -> None:
    for seed in range(30):
        Run(seed, notes).run(200)
    assert notes.moves == drawn_moves()
    assert notes.flags == drawn_flags()


class Run:
    """One random run: more steps than hypothesis takes, so that it comes further."""

    def __init__(self, seed: int, notes: Notes) -> None:
        self.random, self.notes = random.Random(seed), notes
        self.world = World(PLAN, Coe(min_residency_s=0.5))
        self.numbers = itertools.count()
        self.announced: list[RequestId] = []

    def run(self, steps: int) -> None:
        rules = {self.request: 8, self.end: 6, self.wait: 3, self.disturb: 1}
        for rule in self.random.choices(list(rules), list(rules.values()), k=steps):
            rule()
            self.notes.look_at(self.world)
            self.world.check_progress()
        self.world.settle()
        self.world.replay()

    def request(self) -> None:
        request, group = f"r{next(self.numbers)}", self.random.choice([None, "g1", "g2"])
        names = self.random.choice([NAMES, ["small", "medium", "large"]])
        experts = self.random.sample(names, self.random.randint(1, 3))
        if self.random.random() < 0.2:
            self.world.expect(request, experts[0], group)
            self.announced.append(request)
            request = f"r{next(self.numbers)}"
        self.world.arrive(request, *experts, group=group, deadline_class=self.random.choice(CLASSES))

    def end(self) -> None:
        """Something that is under way, well or badly."""
        world, fails = self.world, self.random.random() < 0.2
        ends = [
            *((lambda r=r: world.finish(r, not fails)) for r in world.leases),
            *((lambda r=r: world.cancel(r)) for r in [*world.waiting, *world.leases][:1]),
            *((lambda s=s: world.end_prefetch(s, fails)) for s in sorted(world.reading, key=str)),
        ]
        load, sleep = (world.fail_load, world.fail_sleep) if fails else (world.ready, world.slept)
        ends += [(lambda s=s: load(s.expert, s.host)) for s in world.seats("loading")]
        ends += [(lambda s=s: sleep(s.expert, s.host)) for s in world.seats("going")]
        if ends:
            self.random.choice(ends)()

    def wait(self) -> None:
        self.world.wait(self.random.choice([0.1, 0.5, 2.0, 10.0, 40.0]))

    def disturb(self) -> None:
        """A crash or another plan; nothing that was announced comes."""
        for request in self.announced:
            self.world.send(Cancelled(request))
        self.announced.clear()
        awake = self.world.seats("awake")
        if awake and self.random.random() < 0.5:
            seat = self.random.choice(awake)
            self.world.lose(seat.expert, seat.host)
            return
        moved, content = self.random.random() < 0.3, self.random.choice(["", "trained anew"])
        kept = [e for e in EXPERTS if self.random.random() < 0.8] or list(EXPERTS)
        experts = [replace(e, hosts=e.hosts[-1:] if moved else e.hosts, content=content) for e in kept]
        used = {host for expert in experts for host in expert.hosts}
        hosts = tuple(host for host in PLAN.hosts if host.id in used)
        self.world.reconfigure(replace(PLAN, experts=tuple(experts), hosts=hosts))


def test_the_design_page_shows_the_decision_order_and_the_drawing() -> None:
    page = (DOCS / "explanation" / "scheduler-design.md").read_text(encoding="utf-8")
    order = scheduler.__doc__ or ""
    assert order[order.index("1.  ") :].strip() in page
    drawing = inspect.getdoc(Replica) or ""
    assert drawing[drawing.index("      start_load") : drawing.index("``committed``")].strip("\n") in page


def test_each_number_of_the_decision_order_stands_where_it_is_done() -> None:
    numbers = set(re.findall(r"^(\d+)\. ", scheduler.__doc__ or "", re.MULTILINE))
    assert numbers == {str(number) for number in range(1, len(numbers) + 1)}
    folder = Path(scheduler.__file__).parent
    comments = (line.partition("# ")[2] for file in folder.glob("*.py") for line in _lines(file))
    assert {number for comment in comments for number in re.findall(r"\b(\d+)\.(?:\s|$)", comment)} == numbers


def _lines(file: Path) -> list[str]:
    return [line for line in file.read_text(encoding="utf-8").splitlines() if "# " in line]
