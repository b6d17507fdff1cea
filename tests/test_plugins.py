"""Plug-ins: classes of experts.yaml, found in its folder without PYTHONPATH."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from coe.core.errors import ConfigError
from coe.engines import ENGINE_KIND, build_engine
from coe.pool.registry_pool import RegistryPool
from coe.registry.errors import RegistryError
from coe.registry.hosts import AdapterHost, RemoteHost, VllmHost
from coe.registry.schema import Expert, Pool, Registry, RouterSpec
from coe.registry.summary import summary
from coe.routers import ROUTER_KIND, build_router
from coe.routers.base import RouterOptions
from coe.scheduler.plan import build_plan
from coe.scheduler.policies import make_policy
from coe.service.registry_file import load_registry
from coe.testing.conformance_engine import Adoption, check_engine

EXPERTS = [Expert(id="base", host="slot", model="m"), Expert(id="sums", host="slot", model="m")]

ROUTER = """
from coe.core.types import Decision, Ranked
from coe.routers.base import RouterOptions
from coe.scheduler.plan import build_plan
from coe.scheduler.policies import make_policy
from coe.service.registry_file import load_registry
from coe.testing.conformance_engine import Adoption, check_engine

class Options(RouterOptions):
    place: int = 0

class Mine:
    options_type = Options

    def __init__(self, name, options, setting):
        self.name, self._place = name, options.place

    def route(self, text, experts):
        chosen = experts[self._place].id
        return Decision(self.name, (Ranked(chosen, 1.0),), (chosen,), 1.0, {reason})
"""


def write(folder: Path, name: str, text: str) -> Path:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return folder


def router(reason: str = "'its place'") -> str:
    return ROUTER.replace("{reason}", reason)


def reason(folder: Path, kind: str, **options: Any) -> str:
    built = build_router(RouterSpec(name="mine", kind=kind, options=options), EXPERTS, folder)
    return built.route("hello", [expert.view() for expert in EXPERTS]).reason


def test_a_module_in_the_folder_of_experts_yaml_is_found_without_pythonpath(tmp_path: Path) -> None:
    write(tmp_path, "my_router.py", router())
    assert reason(tmp_path, "my_router:Mine", place=1) == "its place"
    assert "my_router" not in sys.modules


def test_modules_of_a_package_in_the_folder_import_each_other_relatively(tmp_path: Path) -> None:
    write(tmp_path, "mine/__init__.py", "")
    write(tmp_path, "mine/deep/words.py", "REASON = 'from words'")
    write(tmp_path, "mine/router.py", "from .deep.words import REASON\n" + router("REASON"))
    write(tmp_path, "beside.py", "from .mine.deep import words\n" + router("words.REASON + ' beside'"))
    assert reason(tmp_path, "mine.router:Mine") == "from words"
    assert reason(tmp_path, "beside:Mine") == "from words beside"


def test_two_folders_in_one_process_do_not_mix(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write(tmp_path / name, "words.py", f"REASON = 'words of {name}'")
        write(tmp_path / name, "my_router.py", "from . import words\n" + router("words.REASON"))
    assert reason(tmp_path / "one", "my_router:Mine") == "words of one"
    assert reason(tmp_path / "two", "my_router:Mine") == "words of two"
    assert reason(tmp_path / "two" / ".." / "one", "my_router:Mine") == "words of one"


def test_a_module_in_the_folder_hides_no_installed_one(tmp_path: Path) -> None:
    """Neither from those who import it, nor from the plug-ins themselves."""
    write(tmp_path, "json.py", "import json\n" + router("json.dumps(['the installed one'])"))
    write(tmp_path, "numpy/__init__.py", "raise RuntimeError('nobody asked for this')")
    write(tmp_path, "routers/knn.py", "import numpy\n" + router("str(numpy.sum([1, 2]))"))
    assert reason(tmp_path, "json:Mine") == '["the installed one"]'
    assert reason(tmp_path, "routers.knn:Mine") == "3"
    assert sys.modules["json"] is json


def test_our_own_package_is_never_taken_from_the_folder(tmp_path: Path) -> None:
    write(tmp_path, "coe/routers/uniform.py", "raise RuntimeError('nobody asked for this')")
    assert ROUTER_KIND.beside(tmp_path).find("coe.routers.uniform:RandomRouter") is ROUTER_KIND.find("random")


def test_an_installed_plug_in_needs_no_folder(tmp_path: Path) -> None:
    assert ROUTER_KIND.beside(tmp_path).find(f"{__name__}:Installed") is Installed
    folder = Path(__file__).parents[1]  # where this very file is imported already
    assert ROUTER_KIND.beside(folder).find(f"{__name__}:Installed") is Installed


class Installed:
    options_type = RouterOptions

    def route(self) -> None: ...


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\ndef f(:\n", "invalid syntax (my_router.py, line 2)"),
        ("import no_such_package\n", "No module named 'no_such_package' (my_router.py, line 1)"),
        ("\n\nunknown_name\n", "NameError: name 'unknown_name' is not defined (my_router.py, line 3)"),
        ("", "my_router.py has no Mine"),
        ("Mine = 3\n", "no router class: it must be a class with options_type and route"),
        ("class Mine: ...\n", "no router class: it must be a class with options_type and route"),
        (router().replace("options_type = Options", "options_type = dict"), "no router class"),
        (router().replace("def route", "def rout"), "no router class"),
        (router().replace("options.place\n", "options.plaice\n"), "cannot be built: AttributeError"),
        (router().replace("experts[", "experts[").replace("def __init__(self, name, options, setting)",
         "def __init__(self)"), "cannot be built: TypeError"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_plug_in_is_told_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    write(tmp_path, "my_router.py", text)
    with pytest.raises(ConfigError) as caught:
        reason(tmp_path, "my_router:Mine")
    assert message in caught.value.message
    assert caught.value.hint


def test_an_absolute_import_of_a_neighbour_is_explained(tmp_path: Path) -> None:
    write(tmp_path, "words.py", "")
    write(tmp_path, "my_router.py", "import words\n")
    with pytest.raises(ConfigError, match=r"No module named 'words' \(my_router.py, line 1\)") as caught:
        reason(tmp_path, "my_router:Mine")
    assert 'write "from . import words"' in (caught.value.hint or "")


def test_a_module_that_was_broken_is_found_once_it_is_mended(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        reason(tmp_path, "my_router:Mine")
    write(tmp_path, "my_router.py", "import no_such_package\n")
    with pytest.raises(ConfigError):
        reason(tmp_path, "my_router:Mine")
    write(tmp_path, "my_router.py", router())
    assert reason(tmp_path, "my_router:Mine") == "its place"


def test_options_of_a_plug_in_are_checked_as_those_of_a_built_in(tmp_path: Path) -> None:
    write(tmp_path, "my_router.py", router())
    with pytest.raises(ConfigError, match=r"wrong options: plaice: Extra inputs"):
        reason(tmp_path, "my_router:Mine", plaice=1)
    with pytest.raises(ConfigError, match=r"wrong options: place"):
        reason(tmp_path, "my_router:Mine", place="1")


# Policies


POLICY = """
from dataclasses import dataclass
from typing import ClassVar
from coe.core.plugins import PluginOptions
from coe.scheduler.policies.common import Baseline, load_first, served, unplaced

class Options(PluginOptions):
    patience_s: float = 5.0

@dataclass(frozen=True)
class Mine(Baseline):
    patience_s: float
    pinned: tuple
    name: str = "mine"
    options_type: ClassVar = Options

    @classmethod
    def build(cls, name, options, pool):
        return cls(options.patience_s, pool.pinned, name)

    def swap(self, view):
        return load_first(view, unplaced(view), served)
"""


def test_a_policy_in_the_folder_is_built_with_its_options_and_the_settings_of_the_pool(
    tmp_path: Path,
) -> None:
    write(tmp_path, "my_policy.py", POLICY)
    pool = Pool(hosts=(), policy="my_policy:Mine", options={"patience_s": 2}, pinned=("base",))
    policy: Any = make_policy(pool, tmp_path)
    assert (policy.name, policy.patience_s, policy.pinned) == ("my_policy:Mine", 2.0, ("base",))
    with pytest.raises(ConfigError, match="cannot be imported"):
        make_policy(pool, tmp_path / "elsewhere")


# Commands


REGISTRY = """\
pool:
  hosts: [{id: far, kind: remote, url: "http://127.0.0.1:9/v1"}]
experts:
  - {id: base, host: far, model: m, card: "Everything.", general: true}
  - {id: sums, host: far, model: m, card: "Sums."}
routers:
  default: mine
  available: [{name: mine, kind: "my_router:Mine", options: {place: 1}}]
"""


def command(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-P", "-c", "from coe.cli import main; main()", *arguments]
    return subprocess.run(line, cwd=cwd, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.slow
def test_commands_find_the_plug_in_from_any_folder(tmp_path: Path) -> None:
    write(tmp_path, "there/my_router.py", router())
    write(tmp_path, "there/experts.yaml", REGISTRY)
    file = tmp_path / "there" / "experts.yaml"
    checked = command("check", str(file), cwd=tmp_path)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "kind my_router:Mine, place: 1" in checked.stdout
    routed = command("route", "hello", "--local", "--registry", str(file), cwd=tmp_path)
    assert routed.stdout.startswith("sums: its place"), routed.stdout + routed.stderr


@pytest.mark.slow
def test_the_simulator_runs_a_policy_of_the_folder_of_its_registry(tmp_path: Path) -> None:
    there = tmp_path / "there"
    text = REGISTRY.replace('kind: remote, url: "http://127.0.0.1:9/v1"', "memory_gb: 30, swap: sleep")
    text = text.replace("host: far,", "host: far, memory_gb: 20,")
    text = text.replace("pool:\n", "pool:\n  policy: my_policy:Mine\n  options: {patience_s: 3}\n")
    write(there, "my_policy.py", POLICY)
    write(there, "my_router.py", router())
    write(there, "experts.yaml", text)
    arrivals = "".join(f"{i},{'base' if i % 3 else 'sums'}\n" for i in range(20))
    write(tmp_path, "trace.csv", "t,expert\n" + arrivals)
    words = ("--trace", "trace.csv", "--registry", "there/experts.yaml", "--exact-limit", "0", "--json", "-")
    ran = command("simulate", *words, "--policies", "my_policy:Mine,coe,static,coserve", cwd=tmp_path)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    rows = json.loads(ran.stdout)["rows"]
    assert [row["policy"] for row in rows] == ["my_policy:Mine", "coe", "static", "coserve"]
    write(there, "experts.yaml", text.replace("patience_s: 3", "patience: 3"))
    wrong = command("check", "there/experts.yaml", cwd=tmp_path)
    assert wrong.returncode == 1
    assert ':3:13: unknown key "patience" in pool.options; did you mean "patience_s"?' in wrong.stderr


# Engines


ENGINE = """
from coe.core.errors import EngineError
from coe.core.types import EngineStats
from coe.engines.base import EngineOptions
from coe.engines.experts import Experts
from coe.engines.text import TextAnswer

class Options(EngineOptions):
    greeting: str = "Hello"

class Mine:
    options_type = Options

    def __init__(self, name, options, setting):
        self.id, self._greeting = name, options.greeting
        self._experts = Experts(name, setting.experts)
        self._state, self._awake, self._swaps = "stopped", [], 0

    async def start(self):
        self._state = "ready"

    async def ensure_ready(self, expert):
        if self._experts[expert].id not in self._awake:
            self._awake.append(expert)
            self._swaps += 1

    async def sleep(self, expert, level=1):
        self._awake = [awake for awake in self._awake if awake != expert]

    async def set_experts(self, experts):
        self._experts.set_experts(experts)

    async def ask(self, expert, call):
        if self._experts[expert].id not in self._awake:
            raise self._experts.not_ready(expert)
        return TextAnswer(expert, call, f"{self._greeting} from {expert}, of {self._experts[expert].model}")

    async def stop(self):
        self._state, self._awake = "stopped", []

    def stats(self):
        return EngineStats(self._state, tuple(self._awake), self._swaps)
"""
POOL = """\
pool:
  hosts:
    - id: mine
      kind: my_engine:Mine
      options: {greeting: Ahoy}
experts:
  - {id: base, host: mine, model: m, card: "Everything.", general: true}
  - {id: sums, host: mine, model: n, card: "Sums."}
routers: {default: random}
"""


def test_an_engine_in_the_folder_is_scheduled_as_its_class_says(tmp_path: Path) -> None:
    write(tmp_path, "my_engine.py", ENGINE)
    write(tmp_path, "experts.yaml", POOL)
    (turns,) = build_plan(load_registry(tmp_path / "experts.yaml")).hosts
    assert (turns.capacity, turns.always_awake, turns.max_running) == (1.0, False, 16)
    text = POOL.replace("kind: my_engine:Mine", "kind: my_engine:Mine\n      experts_at_once: 2")
    write(tmp_path, "experts.yaml", text)
    (two,) = build_plan(load_registry(tmp_path / "experts.yaml")).hosts
    assert two.capacity == 2.0
    write(
        tmp_path, "two_engines.py", ENGINE.replace("class Mine:", "class Mine:\n    experts_at_once = 'all'")
    )
    write(tmp_path, "experts.yaml", POOL.replace("my_engine", "two_engines"))
    registry = load_registry(tmp_path / "experts.yaml")
    (all_awake,) = build_plan(registry).hosts
    assert all_awake.always_awake
    assert "two_engines:Mine, all experts ready at once" in "\n".join(summary(registry))
    sent = Registry.model_validate(json.loads(registry.model_dump_json(exclude_defaults=True)))
    assert sent.pool.hosts[0].always_awake, "who gets the registry need not have the class to know this"


async def test_a_plug_in_engine_keeps_the_contract(tmp_path: Path) -> None:
    write(tmp_path, "my_engine.py", ENGINE)
    write(tmp_path, "experts.yaml", POOL)
    registry = load_registry(tmp_path / "experts.yaml")
    base, sums = registry.experts
    engine = build_engine(registry.pool.hosts[0], [base], tmp_path)
    await check_engine(engine, "base", adoption=Adoption((base,), sums))


def test_a_pool_owner_builds_engine_and_policy_of_the_folder_from_what_it_is_sent(tmp_path: Path) -> None:
    write(tmp_path, "my_engine.py", ENGINE)
    write(tmp_path, "my_policy.py", POLICY)
    write(tmp_path, "experts.yaml", POOL.replace("pool:\n", "pool:\n  policy: my_policy:Mine\n"))
    sent = load_registry(tmp_path / "experts.yaml").model_dump_json()
    owned = RegistryPool(Registry.model_validate_json(sent), tmp_path, build_engine)
    assert [type(engine).__name__ for engine in owned.pool.engines.values()] == ["Mine"]
    with pytest.raises(ConfigError, match="cannot be imported"):
        RegistryPool(Registry.model_validate_json(sent), tmp_path / "elsewhere", build_engine)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("greeting", "greetign"), '5:17: unknown key "greetign" in pool.hosts[0].options; did you mean'),
        (("Ahoy", "7"), '5:17: pool.hosts[0].options.greeting: must be text (put quotes round it), not 7'),
        (("my_engine:", "my_engin:"), '4:7: engine kind "my_engin:Mine" cannot be imported'),
        (("options:", "optoins:"), '5:7: unknown key "optoins" in pool.hosts[0]; did you mean "options"?'),
        (("options:", "experts_at_once: 0\n      options:"), "5:7: pool.hosts[0].experts_at_once: must"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_an_engine_is_told_at_its_place(
    tmp_path: Path, change: tuple[str, str], expected: str
) -> None:
    write(tmp_path, "my_engine.py", ENGINE)
    write(tmp_path, "experts.yaml", POOL.replace(*change))
    with pytest.raises(RegistryError) as caught:
        load_registry(tmp_path / "experts.yaml")
    assert expected in caught.value.message


def test_every_kind_of_host_has_its_engine_in_one_table() -> None:
    kinds = (VllmHost(id="a"), VllmHost(id="b", swap="sleep"), AdapterHost(id="c", kind="adapter", base="m"))
    remote = RemoteHost(id="d", kind="remote", url="http://127.0.0.1:9/v1")
    rows = [host.engine for host in (*kinds, remote)]
    assert rows == list(ENGINE_KIND.built_in)
    assert [type(host) for host in (*kinds, remote)] == [ENGINE_KIND.find(row).options_type for row in rows]
