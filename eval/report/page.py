"""One HTML file that needs nothing else: text, tables and plots within it."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence
from pathlib import Path

from coe.eval.report.tables import cell

_STYLE = """body{font:15px/1.45 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse;margin:1rem 0;font-size:13px}
td,th{border:1px solid #ccc;padding:.2rem .5rem;text-align:left}
th{background:#f3f3f3}img{max-width:100%}"""


class Page:
    """Collects parts in order; :meth:`write` makes the file."""

    def __init__(self, title: str) -> None:
        self._title = html.escape(title)
        self._parts: list[str] = [f"<h1>{self._title}</h1>"]

    def heading(self, text: str) -> None:
        self._parts.append(f"<h2>{html.escape(text)}</h2>")

    def text(self, text: str) -> None:
        self._parts.append(f"<p>{html.escape(text)}</p>")

    def table(self, head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        lines = [_row("th", head), *(_row("td", [cell(value) for value in row]) for row in rows)]
        self._parts.append(f"<table>{''.join(lines)}</table>")

    def plot(self, png: bytes, says: str) -> None:
        data = base64.b64encode(png).decode()
        self._parts.append(f'<p><img alt="{html.escape(says)}" src="data:image/png;base64,{data}"></p>')
        self.text(says)

    def write(self, path: Path) -> None:
        body = "\n".join(self._parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{self._title}</title>'
            f"<style>{_STYLE}</style><body>\n{body}\n</body></html>\n",
            encoding="utf-8",
        )


def _row(tag: str, cells: Sequence[str]) -> str:
    return "<tr>" + "".join(f"<{tag}>{html.escape(one)}</{tag}>" for one in cells) + "</tr>"
