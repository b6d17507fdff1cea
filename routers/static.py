"""Always the same expert: the baseline "best single expert", and a way to switch routing off."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import ClassVar

from coe.core.decision import before_all, decide, generals
from coe.core.errors import RoutingError
from coe.core.plugins import unknown_expert
from coe.core.types import Decision, ExpertId, ExpertView, Ranked, Rule
from coe.routers.base import RouterOptions, Setting


class StaticOptions(RouterOptions):
    """``expert``: the id of the expert that gets every request."""

    expert: ExpertId

    @property
    def reads_profiles(self) -> bool:
        return False

    def faults(self, experts: Sequence[ExpertId]) -> Mapping[str, str]:
        return unknown_expert("expert", self.expert, experts)


class StaticRouter:
    """Refuses, rather than choosing another, when its expert is not among the experts of the moment."""

    options_type: ClassVar[type[RouterOptions]] = StaticOptions
    blocking = False

    def __init__(self, name: str, options: StaticOptions, setting: Setting) -> None:  # noqa: ARG002
        self.name = name
        self._expert = options.expert

    def route(self, text: str, experts: Sequence[ExpertView]) -> Decision:  # noqa: ARG002
        if all(view.id != self._expert for view in experts):
            raise RoutingError(
                f'router "{self.name}" always asks expert "{self._expert}", which is not available',
                hint="Name another router in coe.router, or put the expert back into experts.yaml.",
            )
        others = (Ranked(view.id, 0.0) for view in experts if view.id != self._expert)
        always = partial(before_all, (self._expert,))
        rule = Rule(general=generals(experts), prefers=always, why="fixed", fixed=True)
        return decide(self.name, (Ranked(self._expert, 1.0), *others), f"always {self._expert}", rule)
