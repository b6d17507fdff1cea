"""One HTML file that needs nothing else: text, tables and plots within it, all escaped by the template."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Page:
    """Collects parts in order; :meth:`write` makes the file."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._parts: list[dict[str, Any]] = []

    def heading(self, text: str) -> None:
        self._parts.append({"kind": "heading", "text": text})

    def text(self, text: str) -> None:
        self._parts.append({"kind": "text", "text": text})

    def table(self, head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        shown = [[cell(value) for value in row] for row in rows]
        self._parts.append({"kind": "table", "head": head, "rows": shown})

    def plot(self, png: bytes, says: str) -> None:
        self._parts.append({"kind": "plot", "png": base64.b64encode(png).decode(), "says": says})

    def write(self, path: Path) -> None:
        from jinja2 import Environment, PackageLoader

        environment = Environment(loader=PackageLoader("coe.core", "."), autoescape=True, trim_blocks=True)
        page = environment.get_template("page.html").render(title=self._title, parts=self._parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page + "\n", encoding="utf-8")


def cell(value: object) -> str:
    """What a table shows; a dash for None and NaN."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 100 else f"{value:,.0f}"
    return str(value)


def png_of(figure: Figure) -> bytes:
    """The picture. ``figure`` is one of its own: pyplot would keep every figure and look for a screen."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
