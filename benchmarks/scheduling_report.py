"""The scheduling benchmark in words: a table for each setting, and each target beside what was measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.scheduling_optimum import goodput_beside_the_optimum
from benchmarks.scheduling_probes import exact_ratios

if TYPE_CHECKING:
    from benchmarks.scheduling import Results

FREE = "coe, free switching"
FIGURES = ("goodput", "mean", "p99", "max_wait", "swaps_per_1k", "switching_share")
STUDENT_95 = dict(
    enumerate((12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20, 2.18, 2.16, 2.14), start=2)
)
"""Quantiles of Student's t for a 95% interval of the mean of so many seeds."""


@dataclass(frozen=True)
class Verdict:
    """A target and what came out. ``met`` is None where it was not measured."""

    target: str
    setting: str
    measured: str
    met: bool | None
    note: str = ""


def report(
    results: Results, loads: Sequence[float], policies: Sequence[str], found: Sequence[Verdict]
) -> str:
    lines: list[str] = []
    for trace, mix in results.settings:
        for load in loads if results.values(trace, mix, FREE, loads[0], "goodput") else (0.9,):
            lines += ["", f"{trace}, {mix}, load {load:g} (mean over seeds, +- 95%)", _HEADER]
            of_policies = (_line(results, trace, mix, load, policy) for policy in (*policies, FREE))
            lines += [line for line in of_policies if line]
    lines += list(_worth(results, [policy for policy in policies if "[" in policy]))
    lines += ["", "arrival rate sustained at 90% goodput (in loads)"]
    for trace, mix in results.settings:
        loads_of = [v for (at, of, _), v in sorted(results.sustained.items()) if (at, of) == (trace, mix)]
        if loads_of[0]:
            means = (f"{policy} {mean([v[policy] for v in loads_of]):.2f}" for policy in loads_of[0])
            lines += [f"  {trace}, {mix}: " + ", ".join(means)]
    if found:
        lines += ["", _beside_the_optimum(), "", "targets"]
    for verdict in found:
        state = "not measured" if verdict.met is None else "met" if verdict.met else "MISSED"
        lines.append(f"  {state:<8} {verdict.target} [{verdict.setting}]: {verdict.measured} {verdict.note}")
    return "\n".join(lines)


def _worth(results: Results, without: Sequence[str]) -> Iterator[str]:
    """What is lost without each mechanism: paired by seed, so that what seeds have in common cancels out."""
    if without:
        yield from (
            "",
            "load 0.9: what coe gains by each mechanism (paired by seed, +- 95%, *: no chance)",
        )
    for trace, mix in results.settings:
        for policy in without:
            cells = []
            for figure, unit in (("goodput", ""), ("mean", " s"), ("p99", " s")):
                ours, theirs = (results.values(trace, mix, p, 0.9, figure) for p in ("coe", policy))
                gained = [a - b for a, b in zip(ours, theirs, strict=True)]
                beyond = "*" if gained and abs(mean(gained)) > half_width(gained) > 0 else " "
                cells.append(f"{figure} {mean(gained):+.3f} +-{half_width(gained):.3f}{unit}{beyond}")
            yield f"  {f'{trace}, {mix}':<38}{policy:<25}" + "  ".join(cells)


def _beside_the_optimum() -> str:
    found = goodput_beside_the_optimum()
    return (
        f"goodput beside the optimum that knows the future ({found.instances} small instances): coe "
        f"{found.ours:.3f}, collating-fifo {found.theirs:.3f}, optimum {found.best:.3f}: "
        f"{found.closed:.0%} of the gap"
    )


TITLES = ("goodput", "mean s", "p99 s", "longest wait s", "swaps/1k", "switching")
_HEADER = f"{'policy':<28}" + "".join(f"{title:>15}" for title in TITLES)


def _line(results: Results, trace: str, mix: str, load: float, policy: str) -> str:
    cells = []
    for figure in FIGURES:
        values = results.values(trace, mix, policy, load, figure)
        if not values:
            return ""
        digits = 3 if figure in ("goodput", "switching_share") else 1
        cells.append(f"{mean(values):.{digits}f} +-{half_width(values):.{digits}f}")
    return f"{policy:<28}" + "".join(f"{cell:>15}" for cell in cells)


def verdicts(results: Results) -> Iterator[Verdict]:
    for trace, mix in results.targeted:

        def at(policy: str, load: float, figure: str, trace: str = trace, mix: str = mix) -> float | None:
            values = results.values(trace, mix, policy, load, figure)
            return mean(values) if values else None

        name = f"{trace}, {mix}"
        yield from _goodput(name, at)
        yield _sustained(results, trace, mix)
        yield from _low_load(results, trace, mix)
        yield from _swaps(name, at)
        yield from _grouping(name, at)
    if not results.targeted:
        return
    ratios = exact_ratios()
    yield Verdict(
        "mean within 1.3x of the exact optimum (small instances)",
        f"{len(ratios)} instances solved",
        f"ratio {mean(ratios):.2f}, worst {max(ratios):.2f}" if ratios else "none",
        mean(ratios) <= 1.3 if ratios else None,
    )


Figure = Callable[[str, float, str], float | None]


def _goodput(name: str, at: Figure) -> Iterator[Verdict]:
    ours, theirs, free = (at(p, 0.9, "goodput") for p in ("coe", "collating-fifo", FREE))
    if ours is None or theirs is None or free is None:
        return
    closed = (ours - theirs) / (free - theirs) if free > theirs else math.inf
    ratio = ours / theirs if theirs else math.inf
    note = "(1.4x would be above 1: forbidden, the gap counts)" if theirs * 1.4 > 1.0 else ""
    yield Verdict(
        "load .9: goodput 1.4x collating FIFO's, or 70% of the gap to free switching closed",
        name,
        f"{ours:.3f} against {theirs:.3f} (x{ratio:.2f}), free {free:.3f}, {closed:.0%} of the gap",
        ratio >= 1.4 or closed >= 0.7,
        note,
    )
    tail, their_tail = at("coe", 0.9, "p99"), at("collating-fifo", 0.9, "p99")
    if tail is not None and their_tail:
        yield Verdict(
            "load .9: p99 at most 1.2x collating FIFO's",
            name,
            f"{tail:.1f} s against {their_tail:.1f} s (x{tail / their_tail:.2f})",
            tail <= 1.2 * their_tail,
        )


def _sustained(results: Results, trace: str, mix: str) -> Verdict:
    found = [v for (at, of, _), v in sorted(results.sustained.items()) if (at, of) == (trace, mix)]
    ours, floor = (mean([v.get(p, math.nan) for v in found]) for p in ("coe", "fcfs-lru"))
    known = not math.isnan(ours + floor)
    return Verdict(
        "rate sustained at 90% goodput 3x FCFS+LRU's",
        f"{trace}, {mix}",
        f"{ours:.2f} against {floor:.2f}",
        ours >= 3.0 * floor if known else None,
    )


def _low_load(results: Results, trace: str, mix: str) -> Iterator[Verdict]:
    """No worse: the interval of the paired differences reaches 0, or the loss is below half a percent."""
    ours = results.values(trace, mix, "coe", 0.3, "goodput")
    policies = {row.policy for rows in results.rows.values() for row in rows} - {"coe", FREE}
    losses = {}
    for policy in sorted(p for p in policies if "[" not in p):
        theirs = results.values(trace, mix, policy, 0.3, "goodput")
        lost = [b - a for a, b in zip(ours, theirs, strict=True)]
        losses[policy] = mean(lost) if lost and mean(lost) - half_width(lost) > 0 else 0.0
    if ours and losses:
        worst = max(losses, key=lambda policy: losses[policy])
        yield Verdict(
            "load .3: goodput no worse than any baseline's",
            f"{trace}, {mix}",
            f"{mean(ours):.3f}; largest significant loss {losses[worst]:.3f} to {worst}",
            losses[worst] <= 0.005,
        )


def _swaps(name: str, at: Figure) -> Iterator[Verdict]:
    for load in (0.9, 1.2):
        ours, theirs = at("coe", load, "swaps_per_1k"), at("fcfs-lru", load, "swaps_per_1k")
        if ours is not None and theirs:
            saved = 1.0 - ours / theirs
            yield Verdict(
                f"load {load:g}: 80% fewer swaps than FCFS+LRU", name, f"{saved:.0%} fewer", saved >= 0.8
            )


def _grouping(name: str, at: Figure) -> Iterator[Verdict]:
    for policy in ("group-online", "group-offline"):
        ours, theirs = at("coe", 0.9, "p99"), at(policy, 0.9, "p99")
        good, their_good = at("coe", 0.9, "goodput"), at(policy, 0.9, "goodput")
        if ours is None or not theirs or good is None or their_good is None:
            continue
        yield Verdict(
            f"load .9: p99 40% below {policy}'s at no lower goodput",
            name,
            f"{1 - ours / theirs:.0%} below, goodput {good:.3f} against {their_good:.3f}",
            ours <= 0.6 * theirs and good >= their_good,
        )


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def half_width(values: Sequence[float]) -> float:
    """Of the 95% interval of the mean (Student's t); 0 for a single value."""
    if len(values) < 2:
        return 0.0
    centre = mean(values)
    deviation = math.sqrt(sum((v - centre) ** 2 for v in values) / (len(values) - 1))
    return STUDENT_95.get(len(values), 1.96) * deviation / math.sqrt(len(values))


def rows_as_json(results: Results) -> dict[str, Any]:
    """What :meth:`benchmarks.scheduling.Results.add` reads."""
    return {
        "rows": [
            {"trace": trace, "mix": mix, "seed": seed, **asdict(row)}
            for (trace, mix, seed), rows in results.rows.items()
            for row in rows
        ],
        "sustained": [
            {"trace": trace, "mix": mix, "seed": seed, **loads}
            for (trace, mix, seed), loads in results.sustained.items()
        ],
    }


def as_json(results: Results, seeds: Sequence[int], found: Sequence[Verdict]) -> dict[str, Any]:
    targets = [asdict(verdict) for verdict in found]
    return {**rows_as_json(results), "targets": targets, "seeds": list(seeds)}
