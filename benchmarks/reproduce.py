"""Which commands make the tables of the documentation, from a folder of recorded data.

One place names the pools and the options, so that a table in the docs and the command beside it agree. A new
table of the documentation is a new entry of TABLES.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from coe.eval.recorded.pools import POOL_A, POOL_B, POOL_C

KNOWN_BESIDE_A = (
    "Llama-2-13b-hf",
    "Llama-2-70b-hf",
    "Llama-2-7b-hf",
    "Meta-Llama-3-70B",
    "Meta-Llama-3-8B",
    "Meta-Llama-3.1-70B",
    "Meta-Llama-3.1-70B-Instruct",
    "Meta-Llama-3.1-8B",
    "Mistral-7B-Instruct-v0.1",
    "Mistral-7B-v0.1",
    "Mixtral-8x7B-Instruct-v0.1",
    "Mixtral-8x7B-v0.1",
    "Qwen1.5-110B",
    "Yi-6B",
)
"""Fourteen that are not routed to, and say how hard questions are."""


@dataclass(frozen=True)
class Table:
    """A table of the documentation.

    ``page`` is where it stands, below docs/; ``program`` the module that makes it, by ``arguments``, in which
    ``{data}`` and ``{out}`` stand for the folders of data and of results.
    """

    name: str
    page: str
    program: str
    arguments: tuple[str, ...]

    def command(self, data: Path, out: Path) -> list[str]:
        """What follows ``python -m``."""
        return [self.program, *(argument.format(data=data, out=out) for argument in self.arguments)]


def _listed(experts: Sequence[str]) -> str:
    return ",".join(f'"{expert}"' for expert in experts)


_FITS = ("--fits", "{out}/fits")
"""Tables of the same sets, folds and seeds fit their routers once."""


def _recorded(name: str, page: str, outcomes: str, *options: str, pool: Sequence[str] = ()) -> Table:
    chosen = ("--pool", _listed(pool)) if pool else ()
    read, written = ("--outcomes", f"{{data}}/outcomes/{outcomes}"), ("--json", f"{{out}}/{name}.json")
    return Table(name, page, "coe.cli", ("eval", "recorded", *read, *chosen, *options, *_FITS, *written))


def _probing(name: str, *options: str) -> Table:
    return Table(
        name,
        "measurements/profiles-results.md",
        "benchmarks.probing",
        ("--outcomes", "{data}/outcomes/mmlu_pro", "--pool", ",".join(POOL_A), "--context",
         ",".join(KNOWN_BESIDE_A), "--encoder", "static", *options, "--json", f"{{out}}/{name}.json"),
    )  # fmt: skip


def _retrieval(task: str) -> Table:
    name = f"retrieval-{task}"
    arguments = (
        "eval",
        "run",
        task,
        "--data",
        "{data}/retrieval",
        "--encoder",
        "static",
        "--out",
        f"{{out}}/{name}",
    )
    return Table(name, "measurements/evaluation-results.md", "coe.cli", arguments)


_ROUTING, _COMBINING = "measurements/routing-results.md", "measurements/aggregation-results.md"


def _combining(name: str, *options: str) -> Table:
    pool = ("--outcomes", "{data}/outcomes/mmlu_pro", "--pool", _listed(POOL_A), "--router", "blend")
    written = ("--json", f"{{out}}/{name}.json")
    return Table(name, _COMBINING, "coe.cli", ("eval", "combining", *pool, *options, *_FITS, *written))


def _sets(name: str, *options: str) -> Table:
    arguments = ("{data}", "--out", f"{{out}}/{name}", *_FITS, *options)
    return Table(name, _ROUTING, "coe.eval.recorded.sets", arguments)


def _scheduling(name: str, seeds: str, mixes: str, policies: str) -> Table:
    return Table(name, "measurements/scheduling-results.md", "benchmarks.scheduling",
                 ("--seeds", seeds, "--mixes", mixes, "--policies", policies, "--traces", "{data}/traces",
                  "--json", f"{{out}}/{name}.json"))  # fmt: skip


TABLES = (
    _scheduling("scheduling", "55,56,57,58,59", "zipf;mmlu-pro",
                "coe,coe[-slack_density],coe[-frames],coe[-admission_closing],"
                "fcfs-lru,collating-fifo,group-offline,group-online,coserve,static"),
    _combining("combining-pool-a", "--seeds", "0,1,2,3,4"),
    _sets("sets", "--seeds", "0", "--seeds-of", "pool-a=0,1,2,3,4"),
    _probing("few-answers-linear", "--router", "linear", "--answers", "50,100,200,400",
             "--designs", "adaptive", "--draws", "20"),
    _recorded("combining-pool-a-seed-3", _COMBINING, "mmlu_pro", "--seed", "3",
              "--experts-per-query", "1,3,5,top-p:0.4,top-p:0.6,top-p:0.8",
              "--routers", "static,category,skill,knn,linear,traits,blend,cascade", pool=POOL_A),
    _scheduling("scheduling-mechanisms", "55,56,57", "zipf, room for 3 and disk;zipf 2.0 of 8",
                "coe,coe[-slack_density],coe[-frames],coe[-admission_closing],coe[-prewake],coe[-prefetch],"
                "collating-fifo,fcfs-lru,ttl,multiplexed-lru,belady"),
    Table("scheduling-headroom", "measurements/scheduling-results.md", "benchmarks.scheduling_headroom",
          ("--seeds", "55,56", "--traces", "{data}/traces")),
    _probing("few-answers-category", "--router", "category", "--answers", "50,100,200,400,800",
             "--designs", "adaptive:200,random", "--draws", "20", "--errors", "0.01,0.03,0.05,0.1"),
    *(_sets(f"learning-curve-{share}", "--sets", "pool-a", "--seeds", "0", "--learn-share", share)
      for share in ("0.125", "0.25", "0.5")),
    _recorded("pool-c", _COMBINING, "mmlu_pro", "--experts-per-query", "1,3",
              "--routers", "static,blend,cascade", pool=POOL_C),
    _recorded("pool-b", _COMBINING, "mmlu_pro", "--experts-per-query", "1,3", "--routers", "static",
              pool=POOL_B),
    _combining("combining-ablation", "--seeds", "1", "--experts-per-query", "3", "--ablation"),
    Table("encoders", "explanation/encoders.md", "benchmarks.encoders",
          ("--outcomes", "{data}/outcomes/mmlu_pro", "--queries", "60", "--encoders", "static,minilm-int8")),
    Table("peers-gsm8k", "measurements/evaluation-results.md", "benchmarks.compare_peers",
          ("--outcomes", "{data}/outcomes/routellm_gsm8k", "--routers", "knn",
           "--json", "{out}/peers-gsm8k.json")),
    Table("extraction", "measurements/evaluation-results.md", "coe.cli",
          ("eval", "extraction", "--outcomes", "{data}/outcomes/mmlu_pro",
           "--json", "{out}/extraction.json")),
    _retrieval("arguana"),
    _retrieval("scifact"),
    _retrieval("nfcorpus"),
)  # fmt: skip
"""Those that take longest first: they run side by side."""
