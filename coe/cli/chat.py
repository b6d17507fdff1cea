"""``coe chat``: ask from the terminal."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from coe.cli._client import ServiceClient, service_client
from coe.cli._group import Failed
from coe.cli._options import url_option


@click.command()
@click.argument("message", required=False)
@url_option
@click.option("--model", default="coe", help="coe: the router chooses. An expert's id: ask that expert.")
@click.option("--router", help="Use this router instead of the default one.")
@click.option("--temperature", type=click.FloatRange(0, 2), default=0.0, help="0 gives the likeliest answer.")
@click.option("--max-tokens", type=click.IntRange(min=1), default=256, help="Longest answer, in tokens.")
def main(
    message: str | None,
    url: str | None,
    ca: Path | None,
    model: str,
    router: str | None,
    temperature: float,
    max_tokens: int,
) -> None:
    """Ask MESSAGE. Without MESSAGE, hold a conversation (/new starts another, Ctrl-D ends).

    The answer goes to stdout as it comes, the receipt to stderr. A piped stdin is read as the message.
    """
    settings: dict[str, Any] = {"model": model, "temperature": temperature, "max_tokens": max_tokens}
    if router:
        settings["coe"] = {"router": router}
    chat = _Chat(service_client(url, ca), settings, [])
    if message is None and not sys.stdin.isatty():
        message = sys.stdin.read().strip()
    if message is None:
        _talk(chat)
    elif message:
        chat.ask(message)
    else:
        raise Failed("the message is empty", 'For example: coe chat "What is 12 + 30?"')


def _talk(chat: _Chat) -> None:
    click.echo(f"Talking to {chat.client.url}. /new starts another conversation, Ctrl-D ends.", err=True)
    while True:
        try:
            message = input("> ").strip()
        except EOFError:
            click.echo(err=True)
            return
        if message == "/new":
            chat.messages.clear()
        elif message:
            _ask_or_complain(chat, message)


def _ask_or_complain(chat: _Chat, message: str) -> None:
    """One failed question is no reason to end the talk."""
    try:
        chat.ask(message)
    except Failed as error:
        error.show()


@dataclass
class _Chat:
    """One conversation; ``messages`` holds the turns that succeeded."""

    client: ServiceClient
    settings: Mapping[str, Any]
    messages: list[dict[str, str]]

    def ask(self, message: str) -> None:
        turns = [*self.messages, {"role": "user", "content": message}]
        answer, receipt = "", None
        for event in self.client.stream(
            "/v1/chat/completions", {**self.settings, "messages": turns, "stream": True}
        ):
            receipt = event.get("coe") or receipt
            for choice in event.get("choices", ()):
                piece = choice.get("delta", {}).get("content") or ""
                click.echo(piece, nl=False)
                answer += piece
        click.echo()
        if receipt:
            click.echo(receipt_line(receipt), err=True)
        self.messages[:] = [*turns, {"role": "assistant", "content": answer}]


def receipt_line(receipt: Mapping[str, Any]) -> str:
    """``[arithmetic 0.99 (next: units) | router category | queue 3 ms | swap 731 ms | ran 402 ms]``"""
    expert = str(receipt.get("expert"))
    if receipt.get("confidence") is not None:
        expert += f" {receipt['confidence']:.2f}"
    if receipt.get("runner_up"):
        expert += f" (next: {receipt['runner_up']})"
    parts = [expert, f"router {receipt.get('router')}"]
    parts += [f"{name} {receipt[key]:.0f} ms" for name, key in (("queue", "queue_ms"), ("swap", "swap_ms"))]
    for leg in receipt.get("legs", ()):
        if leg.get("run_ms") is not None:
            parts.append(f"ran {leg['run_ms']:.0f} ms")
        if leg.get("outcome", "ok") != "ok":
            parts.append(f"{leg['expert']}: {leg['outcome']}")
    return "[" + " | ".join(parts) + f"] {receipt.get('reason', '')}".rstrip()
