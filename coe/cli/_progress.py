"""Answers of a service, awaited with a progress bar."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import TypeVar

import click

T = TypeVar("T")


async def collected(rows: AsyncIterator[T], total: int, asked: Callable[[T], str], url: str) -> list[T]:
    """All ``rows``; the bar on stderr says who was ``asked``. Raises ClickException where the service at
    ``url`` does not answer."""
    import aiohttp
    from rich.console import Console
    from rich.progress import Progress

    found = []
    try:
        with Progress(console=Console(stderr=True)) as bar:
            task = bar.add_task("asking", total=total)
            async for row in rows:
                found.append(row)
                bar.update(task, advance=1, description=asked(row))
    except aiohttp.ClientConnectionError as error:
        raise click.ClickException(f"no service at {url} ({error}); start one with `coe serve`") from None
    return found
