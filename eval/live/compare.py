"""Two live runs of one task, question by question."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coe.core.errors import ConfigError
from coe.eval.live.records import Summary, read_records, read_summary
from coe.eval.statistics import McNemar, PairedDifference, mcnemar, paired_bootstrap


@dataclass(frozen=True)
class Comparison:
    """``difference`` is A minus B over the questions that both answered or failed.

    ``identical`` counts questions whose final answers are the same; ``identical_outputs`` those whose
    outputs are, by text or salted hash, None where the hashes have different salts.
    """

    a: Summary
    b: Summary
    questions: int
    difference: PairedDifference
    test: McNemar
    identical: int
    identical_outputs: int | None
    swaps_saved: float | None
    seconds_saved: float


def compare(a: Path, b: Path) -> Comparison:
    """Raises ConfigError when the folders hold no runs of the same task and version."""
    left, right = read_summary(a), read_summary(b)
    if (left.task, left.version) != (right.task, right.version):
        raise ConfigError(
            f"{a} ran {left.task} v{left.version} and {b} {right.task} v{right.version}: nothing to pair",
            hint="Compare two runs of the same task.",
        )
    of_a, of_b = _by_id(a), _by_id(b)
    both = [identity for identity in of_a if identity in of_b]
    if not both:
        raise ConfigError(f"{a} and {b} have no question in common", hint="Use the same --limit and --seed.")
    scores = [(float(of_a[one]["score"]), float(of_b[one]["score"])) for one in both]
    first, second = [one for one, _ in scores], [two for _, two in scores]
    return Comparison(
        a=left,
        b=right,
        questions=len(both),
        difference=paired_bootstrap(first, second),
        test=mcnemar([one >= 0.5 for one in first], [two >= 0.5 for two in second]),
        identical=sum(of_a[one]["answer"] == of_b[one]["answer"] for one in both),
        identical_outputs=_same_outputs([of_a[one] for one in both], [of_b[one] for one in both]),
        swaps_saved=None if left.swaps is None or right.swaps is None else right.swaps - left.swaps,
        seconds_saved=right.seconds - left.seconds,
    )


def _by_id(folder: Path) -> Mapping[str, dict[str, Any]]:
    return {str(record["id"]): record for record in read_records(folder)}


def _same_outputs(a: list[dict[str, Any]], b: list[dict[str, Any]]) -> int | None:
    """Experts that answered both are paired by name: the order of a run does not matter."""
    same_salt = any(one["prompt_hash"] == two["prompt_hash"] for one, two in zip(a, b, strict=True))
    texts = all(None not in record["outputs"] for record in (*a, *b))
    if not texts and not same_salt:
        return None
    column = "outputs" if texts else "output_hashes"
    return sum(_outputs(one, column) == _outputs(two, column) for one, two in zip(a, b, strict=True))


def _outputs(record: dict[str, Any], column: str) -> list[tuple[str, str]]:
    return sorted(zip(record["experts"], record[column], strict=True))


def comparison_lines(found: Comparison) -> list[str]:
    """The comparison in words."""
    lines = [
        f"accuracy, A minus B: {found.difference} over {found.questions} questions (95% paired bootstrap)",
        f"only A right {found.test.only_a}, only B right {found.test.only_b}, McNemar p {found.test.p:.4f}",
        f"same final answer on {found.identical} questions",
    ]
    if found.identical_outputs is not None:
        lines.append(f"same outputs on {found.identical_outputs} questions")
    if found.swaps_saved is not None:
        lines.append(f"swaps: A {found.a.swaps:.0f}, B {found.b.swaps:.0f}, A saves {found.swaps_saved:.0f}")
    lines.append(
        f"seconds: A {found.a.seconds:.1f}, B {found.b.seconds:.1f}, A saves {found.seconds_saved:.1f}"
    )
    return lines
