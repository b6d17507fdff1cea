"""Is a run that was killed as good as a whole one? One task twice against one service.

``python -m benchmarks.resume TASK --data D --limit N --max-tokens M --out DIR [--search PATH ...]``: the
first run goes through; the second is killed (SIGKILL) when half of its answers are there, and started again.
Both ask one question at a time, at the temperature of the task. What the service was asked is read from its
own counter, so nobody else may ask it meanwhile. For a task that withholds its texts, the folders of the runs
and every ``--search`` are searched for pieces of its questions and options.
"""

from __future__ import annotations

import argparse
import os
import secrets
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families

from coe.eval.live.compare import Comparison, compare
from coe.eval.live.journal import read_journal
from coe.eval.live.leaks import files_with, pieces_of
from coe.eval.live.questions import Source, read_questions
from coe.eval.live.records import Summary, read_summary
from coe.eval.live.session import SALT_ENV
from coe.eval.live.task import Task, load_task

POLL_S = 0.2


@dataclass(frozen=True)
class Part:
    """One of the two runs. ``served``: requests at the service meanwhile, by HTTP status (499: the client
    went away)."""

    name: str
    summary: Summary
    served: Counter[str]


@dataclass(frozen=True)
class Trial:
    """What is run, and where. ``options`` are those of ``coe eval run``."""

    task: str
    url: str
    out: Path
    options: tuple[str, ...]

    def start(self, name: str) -> subprocess.Popen[bytes]:
        command = [
            sys.executable,
            "-m",
            "coe.cli",
            "eval",
            "run",
            self.task,
            "--url",
            self.url,
            *self.options,
        ]
        command += ["--concurrency", "1", "--out", str(self.out / name)]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL)

    def whole(self) -> Part:
        before = served(self.url)
        self._finish(self.start("whole"))
        return Part("not interrupted", read_summary(self.out / "whole"), served(self.url) - before)

    def killed(self, after: int) -> Part:
        """Killed as soon as ``after`` answers are in the journal."""
        before, journal = served(self.url), self.out / "killed" / "journal.jsonl"
        process = self.start("killed")
        while process.poll() is None and len(read_journal(journal).answers) < after:
            time.sleep(POLL_S)
        process.send_signal(signal.SIGKILL)
        process.wait()
        self._finish(self.start("killed"))
        return Part("killed and resumed", read_summary(self.out / "killed"), served(self.url) - before)

    def _finish(self, process: subprocess.Popen[bytes]) -> None:
        if process.wait() != 0:
            raise SystemExit("the run did not end well; see above")


def served(url: str) -> Counter[str]:
    """Chat completions since the service started, by HTTP status."""
    text = httpx.get(f"{url}/metrics").raise_for_status().text
    return Counter(
        {
            sample.labels["status"]: int(sample.value)
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == "coe_requests_total" and sample.labels["endpoint"].endswith("/chat/completions")
        }
    )


def table(parts: Sequence[Part], both: Comparison) -> str:
    lines = [
        "| run | questions | accuracy [95% Wilson] | unparsed | answered (200) | client gone (499) | other |",
        "|---|---|---|---|---|---|---|",
    ]
    for part in parts:
        one = part.summary
        other = part.served.total() - part.served["200"] - part.served["499"]
        cells = (
            part.name,
            one.questions,
            f"{one.accuracy:.3f} [{one.low:.3f}, {one.high:.3f}]",
            f"{one.unparsed:.3f}",
            part.served["200"],
            part.served["499"],
            other,
        )
        lines.append(f"| {' | '.join(map(str, cells))} |")
    same = f"same answer on {both.identical}, same output on {both.identical_outputs} of {both.questions}"
    return "\n".join([*lines, "", same])


def leaks(task: Task, source: Source, places: Sequence[Path]) -> str:
    """One line: in which files pieces of the task's texts stand."""
    items = read_questions(task, source).items
    pieces = pieces_of(text for item in items for text in (item.question, *item.options))
    found = [str(path) for path in files_with(pieces, places)]
    return (
        f"{len(pieces)} pieces of {len(items)} questions looked for: found in {', '.join(found) or 'no file'}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("task")
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--data", required=True)
    parser.add_argument("--limit", type=int, required=True)
    parser.add_argument("--max-tokens", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--search", type=Path, action="append", default=[], help="files or folders; repeat")
    options = parser.parse_args()
    os.environ.setdefault(SALT_ENV, secrets.token_hex(16))  # the hashes of both runs are compared
    passed = ("--data", options.data, "--limit", str(options.limit), "--max-tokens", str(options.max_tokens))
    trial = Trial(options.task, options.url, options.out, passed)
    parts = [trial.whole(), trial.killed(options.limit // 2)]
    print(table(parts, compare(options.out / "whole", options.out / "killed")))
    task = load_task(options.task)
    if task.data.withheld:
        source = Source(options.data, os.environ.get("GPQA_PASSWORD"), options.limit)
        print(leaks(task, source, [options.out, *options.search]))


if __name__ == "__main__":
    main()
