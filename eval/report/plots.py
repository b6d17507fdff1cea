"""Plots as PNG bytes. Pure: numbers in, picture out; colours and sizes are the same on every page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from coe.core.page import png_of
from coe.eval.report.curves import Point, hull
from coe.eval.statistics import Calibration

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = npt.NDArray[np.float64]
_LETTER = 0.075
"""Inches of a letter of the labels: a figure gets room for its longest ones."""


def cost_quality(ways: Sequence[Point], singles: Sequence[Point], unit: str) -> bytes:
    """Ways to answer and single experts over their cost, with the hull of what mixing them reaches."""
    figure, axes = _axes(7.5, 4.5)
    for points, marker, label in ((singles, "o", "single expert"), (ways, "D", "composition")):
        if points:
            axes.scatter([p.cost for p in points], [p.quality for p in points], marker=marker, label=label)
        for point in points:
            axes.annotate(point.name, (point.cost, point.quality), fontsize=6, xytext=(3, 3),
                          textcoords="offset points")  # fmt: skip
    for points, label in ((singles, "hull of single experts"), (ways, "hull of compositions")):
        edge = hull(points)
        axes.plot([p.cost for p in edge], [p.quality for p in edge], linewidth=1, label=label)
    axes.set_xlabel(unit)
    axes.set_ylabel("accuracy")
    axes.legend(fontsize=7)
    return png_of(figure)


def heat_map(rows: Sequence[str], columns: Sequence[str], values: Floats, title: str) -> bytes:
    """Numbers in 0..1 as colours; cells without a number (NaN) stay white. ``values``: (rows, columns)."""
    left, below = (_LETTER * max(map(len, names), default=0) for names in (rows, columns))
    width = max(0.55 * len(columns) + left, 1.5 * _LETTER * len(title)) + 1.2
    figure, axes = _axes(width, 0.3 * len(rows) + below + 0.6)
    image = axes.imshow(values, vmin=0, vmax=1, cmap="viridis", aspect="auto")
    axes.set_xticks(range(len(columns)), columns, rotation=60, ha="right", fontsize=7)
    axes.set_yticks(range(len(rows)), rows, fontsize=7)
    if values.size <= 600:
        for (row, column), value in np.ndenumerate(values):
            if np.isfinite(value):
                colour = "black" if value > 0.6 else "white"
                axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=6, color=colour)
    figure.suptitle(title, fontsize=9)
    figure.colorbar(image, ax=axes).ax.tick_params(labelsize=7)
    return png_of(figure)


def reliability(found: Mapping[str, Calibration]) -> bytes:
    """Accuracy over confidence, a line a router; on the diagonal a confidence is what it says."""
    figure, axes = _axes(5.5, 4.5)
    axes.plot([0, 1], [0, 1], color="grey", linewidth=1, linestyle=":")
    for name, one in found.items():
        axes.plot([b.confidence for b in one.bins], [b.accuracy for b in one.bins], marker="o", markersize=3,
                  linewidth=1, label=f"{name} (error {one.error:.3f})")  # fmt: skip
    axes.set_xlabel("confidence")
    axes.set_ylabel("accuracy")
    axes.legend(fontsize=7)
    return png_of(figure)


def intervals(names: Sequence[str], values: Sequence[float], bounds: Sequence[tuple[float, float]]) -> bytes:
    """Accuracies with their intervals, one a line."""
    figure, axes = _axes(7.5, 1.2 + 0.25 * len(names))
    places = np.arange(len(names))[::-1]
    errors = np.asarray([(v - low, high - v) for v, (low, high) in zip(values, bounds, strict=True)]).T
    axes.errorbar(values, places, xerr=np.maximum(errors, 0), fmt="o", markersize=4, capsize=2)
    axes.set_yticks(places, names, fontsize=7)
    axes.set_xlabel("accuracy, 95% interval")
    return png_of(figure)


def steps(times: Sequence[float], counts: Sequence[float], ylabel: str) -> bytes:
    """A counter over seconds."""
    figure, axes = _axes(7.5, 3.0)
    axes.step(times, counts, where="post")
    axes.set_xlabel("seconds")
    axes.set_ylabel(ylabel)
    return png_of(figure)


def histogram(values: Sequence[float], xlabel: str) -> bytes:
    figure, axes = _axes(7.5, 3.0)
    axes.hist(values, bins=40)
    axes.set_xlabel(xlabel)
    axes.set_ylabel("questions")
    return png_of(figure)


def _axes(width: float, height: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(min(width, 16), min(height, 16)), layout="constrained")
    return figure, figure.add_subplot()
