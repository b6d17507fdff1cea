"""What reading a whole request costs a router, beside its last message: ``python -m benchmarks.reading``.

The demonstration's router with the quick encoder; medians in milliseconds.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from coe.core.reading import read_chat
from coe.core.types import ExpertView
from coe.demo.questions import held_out_questions
from coe.demo.skills import all_skills
from coe.routers.base import Setting
from coe.routers.category import CategoryOptions, CategoryRouter

TURNS, CHARS, TIMES = 20, 200_000, 60


def messages(turns: Sequence[str]) -> Sequence[Mapping[str, Any]]:
    """The user's ``turns``, each but the last one answered."""
    said = [({"role": "user", "content": text}, {"role": "assistant", "content": "Done."}) for text in turns]
    return [message for pair in said for message in pair][:-1]


def median_ms(calls: Sequence[Callable[[], object]]) -> float:
    return statistics.median(_took_ms(call) for call in calls)


def _took_ms(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return (time.perf_counter() - started) * 1000


def main() -> None:
    views = [ExpertView("base", general=True)]
    views += [ExpertView(skill.name, skill.card, (skill.name,)) for skill in all_skills()]
    options = CategoryOptions(examples="package:demo", encoder="static")
    router = CategoryRouter("category", options, Setting(experts=tuple(views)))
    asked = [question.text for question in held_out_questions(TIMES)]

    def routed(turns: Sequence[str]) -> Callable[[], object]:
        said = messages(turns)
        return lambda: router.route(read_chat(said), views)

    before = asked[: TURNS - 1]
    routed(before)()
    alone = median_ms([routed([f"and {text}"]) for text in asked[100 : 100 + TIMES]])
    leaning = median_ms([routed([*before, f"and {n}?"]) for n in range(TIMES)])
    standing = median_ms([routed([*before, text]) for text in asked[200 : 200 + TIMES]])
    filler = "The committee met at the usual place and discussed the new library. " * (CHARS // 68)
    long = median_ms([routed([f"{n} {filler}{text}"]) for n, text in enumerate(asked[300 : 300 + TIMES])])
    print(f"one message                            {alone:.2f}")
    print(f"turn {TURNS} of a conversation, a new topic   {standing:.2f}")
    print(f"turn {TURNS}, leaning on the one before       {leaning:.2f}")
    print(f"one message of {CHARS:,} characters       {long:.2f}")


if __name__ == "__main__":
    main()
