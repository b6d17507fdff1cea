"""experts.yaml: loading, readable errors, the JSON schema."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
from pydantic import BaseModel
from ruamel.yaml import YAML

from coe.core.errors import ConfigError
from coe.registry.errors import RegistryError
from coe.registry.hosts import AdapterHost, RemoteHost, VllmHost
from coe.registry.json_schema import schema_text
from coe.registry.scheduling_settings import Mechanisms
from coe.registry.schema import Registry
from coe.routers import BUILTINS
from coe.service.registry_file import load_registry

ROOT = Path(__file__).parents[1]
EXAMPLES = (ROOT / "experts.yaml", ROOT / "docs" / "experts.example.yaml")
SCHEMA = ROOT / "docs" / "experts.schema.json"

SMALL = """\
pool:
  hosts:
    - id: slot
      device: cpu
      dtype: float32
experts:
  - id: base
    host: slot
    model: models/base
    card: "Everything."
    general: true
"""


def write(folder: Path, text: str) -> Path:
    file = folder / "experts.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def problems(folder: Path, text: str) -> list[str]:
    """``line:column message`` of each problem of a file with ``text``."""
    with pytest.raises(RegistryError) as caught:
        load_registry(write(folder, text))
    return [
        f"{p.position.line}:{p.position.column} {p.message}" if p.position else p.message
        for p in caught.value.issues
    ]


def plain(file: Path) -> Any:
    return json.loads(json.dumps(YAML(typ="safe", pure=True).load(file.read_text(encoding="utf-8"))))


# The annotated examples, the models and the schema agree


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.name)
def test_annotated_example_is_a_valid_registry(file: Path) -> None:
    assert load_registry(file).experts


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.name)
def test_annotated_example_fits_the_json_schema(file: Path) -> None:
    jsonschema.validate(plain(file), json.loads(SCHEMA.read_text(encoding="utf-8")))


def test_schema_file_is_current() -> None:
    assert SCHEMA.read_text(encoding="utf-8") == schema_text(), "run python -m coe.registry.json_schema"


def test_schema_is_a_valid_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(json.loads(schema_text()))


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        ("device: cpu", "device: tpu"),
        ("device: cpu", "devise: cpu"),
        ("general: true", 'general: "true"'),
        ("model: models/base", "model: 7"),
        ("id: base", "id: '-base'"),
        ("    host: slot\n", "    host: 7\n"),
        ("pool:", "service: {port: 70000}\npool:"),
    ],
    ids=str,
)
def test_schema_and_models_refuse_the_same_file(tmp_path: Path, change: tuple[str, str]) -> None:
    file = write(tmp_path, SMALL.replace(*change))
    with pytest.raises(ConfigError):
        load_registry(file)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(plain(file), json.loads(schema_text()))


def test_full_example_shows_every_key() -> None:
    shown = _keys(plain(EXAMPLES[1]))
    missing = {
        name
        for model in (Registry, VllmHost, AdapterHost, RemoteHost, Mechanisms)
        for name in _field_names(model)
        if name not in shown
    }
    assert missing <= {"token_file"}  # it excludes token_env


def _keys(value: object) -> set[str]:
    if isinstance(value, dict):
        return set(value) | {key for inner in value.values() for key in _keys(inner)}
    if isinstance(value, list):
        return {key for inner in value for key in _keys(inner)}
    return set()


def _field_names(model: type[BaseModel]) -> set[str]:
    names = set(model.model_fields)
    for field in model.model_fields.values():
        for part in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(part, type) and issubclass(part, BaseModel):
                names |= _field_names(part)
    return names


# What a valid file means


def test_small_file_gets_documented_defaults(tmp_path: Path) -> None:
    registry = load_registry(write(tmp_path, SMALL))
    assert registry.service.model_name == "coe"
    assert registry.pool.hosts[0].kind == "vllm"
    assert registry.routers.default == "category"


def test_registry_cannot_be_changed(tmp_path: Path) -> None:
    registry = load_registry(write(tmp_path, SMALL))
    with pytest.raises(ValueError, match="frozen"):
        registry.experts[0].card = "other"


def test_unquoted_date_is_text_as_it_stands(tmp_path: Path) -> None:
    registry = load_registry(write(tmp_path, SMALL.replace("models/base", "2024-01-31")))
    assert registry.experts[0].model == "2024-01-31"


def test_byte_order_mark_is_no_fault(tmp_path: Path) -> None:
    file = tmp_path / "experts.yaml"
    file.write_bytes(b"\xef\xbb\xbf" + SMALL.encode())
    assert load_registry(file).experts


# Errors name the place, the fault and the remedy


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            ("    model:", "    modle:"),
            [
                '7:5 experts[0]: the key "model" is missing',
                '9:5 unknown key "modle" in experts[0]; did you mean "model"?',
            ],
        ),
        (
            ("      device:", "      devcie:"),
            ['4:7 unknown key "devcie" in pool.hosts[0]; did you mean "device"?'],
        ),
        (
            ("pool:", "pol:"),
            [
                '1:1 the file: the key "pool" is missing',
                '1:1 unknown key "pol"; did you mean "pool"?',
            ],
        ),
        (("experts:", "max_queue: 3\nexperts:"), ['6:1 unknown key "max_queue"; it belongs under limits']),
        (
            ("device: cpu", "device: cup"),
            ['4:7 pool.hosts[0].device: "cup" is unknown; did you mean "cpu"? (choose from cpu, gpu)'],
        ),
        (
            ("- id: slot", "- id: slot\n      kind: vlm"),
            [
                '4:7 pool.hosts[0].kind: "vlm" is unknown; did you mean "vllm"? (choose from vllm, adapter,'
                " remote, module:Class)"
            ],
        ),
        (("general: true", "general: 3"), ["11:5 experts[0].general: must be true or false, not 3"]),
        (
            ("general: true", "parameters_b: -1"),
            ["11:5 experts[0].parameters_b: must be greater than 0, not -1"],
        ),
        (
            ("general: true", "memory_gb: .inf"),
            ["11:5 experts[0].memory_gb: must be a finite number, not inf"],
        ),
        (("general: true", "skills: sql"), ['11:5 experts[0].skills: must be a list, not "sql"']),
        (("general: true", "card: [a]"), ["line"]),
        (
            ("host: slot", "host: slto"),
            [
                '8:5 expert "base" is on host "slto", which is not in pool.hosts;'
                ' did you mean "slot"? (choose from slot)'
            ],
        ),
        (
            ("id: base", "id: coe"),
            [
                '7:5 expert "coe" has the model name that asks for routing; rename the expert'
                " or change service.model_name"
            ],
        ),
        (
            ("general: true", "adapter: a"),
            [
                '11:5 expert "base" names an adapter, but host "slot" is of kind vllm;'
                " put it on a host of kind adapter, or name a merged checkpoint as model"
            ],
        ),
        (
            ("experts:", "routers: {default: categry}\nexperts:"),
            [
                '6:11 the default router "categry" is not known;'
                f' did you mean "category"? (choose from {", ".join(BUILTINS)})'
            ],
        ),
    ],
    ids=lambda value: value[1].strip() if isinstance(value, tuple) else "",
)
def test_fault_is_reported_with_place_and_remedy(
    tmp_path: Path, change: tuple[str, str], expected: list[str]
) -> None:
    if expected == ["line"]:  # a key that stands twice
        expected = ['11:5 found duplicate key "card"; keep one of the two']
    assert problems(tmp_path, SMALL.replace(*change)) == expected


def test_a_url_is_no_model_of_a_provider(tmp_path: Path) -> None:
    """LiteLLM would send requests there for some providers, past the checks that URLs of hosts go through."""
    at_provider = "    - {id: far, kind: remote, provider: huggingface}\nexperts:"
    text = SMALL.replace("experts:", at_provider).replace("host: slot", "host: far")
    assert problems(tmp_path, re.sub("model: .*", "model: http://169.254.169.254/v1", text)) == [
        '10:5 the model of expert "base" is a URL, but host "far" names a provider;'
        " put it on a host of kind remote with that url"
    ]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("{name: x, kind: sttic}", '9:19 unknown router kind "sttic"; did you mean "static"? (choose from'
         f' {", ".join(BUILTINS)}), or write "module:Class"'),
        ("{name: x, kind: static, options: {expert: bse}}",
         '9:43 there is no expert "bse"; did you mean "base"? (choose from base)'),
        ("{name: x, kind: static}", '9:9 routers.available[0].options: the key "expert" is missing'),
        ("{name: x, kind: random, options: {sed: 1}}",
         '9:43 unknown key "sed" in routers.available[0].options; did you mean "seed"?'),
        ("{name: x, kind: category, options: {low_confidence: 2}}",
         "9:45 routers.available[0].options.low_confidence: must be at most 1, not 2"),
        ("[1]", "9:9 routers.available[0]: must be a mapping of keys to values, not a list"),
    ],
)  # fmt: skip
def test_router_fault_is_reported_at_its_own_place(tmp_path: Path, options: str, expected: str) -> None:
    routers = f"routers:\n  default: category\n  available:\n\n      - {options}\n"
    assert problems(tmp_path, SMALL.replace("pool:", "#\n" * 4 + routers + "pool:")) == [expected]


def test_all_problems_are_reported_at_once_in_order_of_lines(tmp_path: Path) -> None:
    text = (
        SMALL.replace("device: cpu", "devise: cpu").replace("host: slot", "host: nowhere") + "    memory: 3\n"
    )
    found = problems(tmp_path, text)
    assert [line.split(":")[0] for line in found] == ["4", "8", "12"]


def test_duplicate_ids_are_refused(tmp_path: Path) -> None:
    text = SMALL.replace("experts:", "    - id: slot\nexperts:") + "  - {id: base, host: slot, model: m}\n"
    assert problems(tmp_path, text) == [
        '6:7 two hosts are called "slot"; rename one',
        '13:6 two experts are called "base"; rename one',
    ]


def test_adapter_host_needs_an_adapter_for_each_expert(tmp_path: Path) -> None:
    text = SMALL.replace("    - id: slot", "    - id: slot\n      kind: adapter\n      base: models/base")
    (found,) = problems(tmp_path, text)
    assert "names no adapter" in found


def test_remote_host_needs_one_address_and_no_key(tmp_path: Path) -> None:
    remote = "    - {id: r, kind: remote}\nexperts:"
    (found,) = problems(tmp_path, SMALL.replace("experts:", remote))
    assert "url" in found
    assert "provider" in found
    fine = remote.replace("kind: remote", "kind: remote, url: http://localhost:1/v1")
    assert load_registry(write(tmp_path, SMALL.replace("experts:", fine)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "empty"),
        ("- a\n", "mapping"),
        ("a: [1\nb: 2\n", "2:2"),
        ("a:\n\tb: 1\n", "tabs"),
        ("a: 1\na: 2\n", 'duplicate key "a"'),
        ("a: *nothing\n", "undefined alias"),
        ("a: &a [*a]\n", "plain"),
        ("? [1]\n: 2\n", "plain"),
        ("!!python/object:os.system x\n", "tag"),
        ("a: \x00\n", "not readable"),
    ],
)
def test_what_is_no_registry_at_all_is_explained(tmp_path: Path, text: str, expected: str) -> None:
    assert any(expected in problem for problem in problems(tmp_path, text))


def aliases(form: str) -> str:
    """A few bytes that stand for 9 ** 9 of ``form``, whose {0} is nine aliases of the one before."""
    pairs = itertools.pairwise("abcdefghi")
    lines = (f"{name}: &{name} {form.format(','.join(['*' + of] * 9))}" for of, name in pairs)
    return "\n".join(["a: &a {p: 1, q: 2}", *lines])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (aliases("[{0}]"), "more than 100000 entries"),
        (aliases("{{<<: [{0}]}}"), "more than 100000 entries"),
        (aliases("{{x: [{0}], y: 1}}"), "more than 100000 entries"),
        ("a: " + "[" * 3_000 + "]" * 3_000, "more than 64 levels deep"),
        ("- " * 3_000 + "x", "more than 64 levels deep"),
        ("{a: " * 3_000, "more than 64 levels deep"),
        ("".join(" " * depth + "a:\n" for depth in range(1_000)), "more than 64 levels deep"),
    ],
    ids=["lists", "merges", "mappings", "deep lists", "deep dashes", "deep mappings", "deep blocks"],
)
def test_a_text_that_stands_for_much_more_is_refused_before_it_does(
    tmp_path: Path, text: str, expected: str
) -> None:
    (found,) = problems(tmp_path, text)
    assert expected in found
    assert re.match(r"\d+:\d+ YAML syntax", found)


def test_aliases_and_merges_of_the_usual_size_are_read(tmp_path: Path) -> None:
    shared = "  - &one {id: one, host: slot, model: m, skills: &skills [a, b]}\n  - {<<: *one, id: two}\n"
    registry = load_registry(
        write(tmp_path, SMALL + shared + "  - {id: x, host: slot, model: m, skills: *skills}\n")
    )
    assert [(each.id, each.skills) for each in registry.experts[1:]] == [
        (name, ("a", "b")) for name in ("one", "two", "x")
    ]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("version: '1'", "version: must be the number 1, not text; leave the quotes out"),
        ("version: 2", "version: 2 is unknown; choose from 1"),
        ("sleep_level: '2'", "sleep_level: must be the number 2, not text"),
        ("sleep_level: '3'", 'sleep_level: "3" is unknown'),
        ("url: http://127.0.0.1:99999/v1", "url: the port of a URL must be a whole number from 1 to 65535"),
        ("url: http://127.0.0.1:0", "url: the port of a URL"),
        ("url: http://127.0.0.1:x/v1", "url: the port of a URL"),
        ("url: 'http://[::1/v1'", "url: not a URL"),
        ("url: https://a.b/v1/chat/completions", "url: write the URL without /chat/completions at its end"),
        ("url: https://a.b/v1/completions/", "url: write the URL without /completions"),
        ("url: https://a.b/v1/models", "url: write the URL without /models"),
        ("redis_url: redis://:secret@h:70000/0", "state.redis_url: the port of a URL"),
        ("traces: http://127.0.0.1:65536", "observe.traces: the port of a URL"),
        ("port: 65536", "service.port: must be at most 65535"),
        ("port: -1", "service.port: must be at least 0"),
    ],
)
@pytest.mark.parametrize("kind", ["vllm", "remote", "adapter"])
def test_versions_ports_and_urls_are_checked(tmp_path: Path, line: str, expected: str, kind: str) -> None:
    key = line.partition(":")[0]
    section = {"redis_url": "state", "traces": "observe", "port": "service"}.get(key)
    if key == "url":
        text = SMALL.replace("experts:", f"    - {{id: far, kind: {kind}, base: b, {line}}}\nexperts:")
        text = text.replace(", base: b", "") if kind != "adapter" else text
    elif key == "sleep_level":
        text = SMALL.replace("device: cpu", f"device: cpu\n      {line}")
    else:
        text = (f"{section}: {{{line}}}\n" if section else f"{line}\n") + SMALL
    found = problems(tmp_path, text)
    assert any(expected in each for each in found), found
    assert not any("secret" in each for each in found)


@pytest.mark.parametrize(
    "url", ["http://h:1/v1", "https://h:65535", "http://h/v1/models/x", "http://[::1]:80/v1"]
)
def test_other_urls_are_fine(tmp_path: Path, url: str) -> None:
    text = SMALL.replace("experts:", f"    - {{id: far, kind: remote, url: '{url}'}}\nexperts:")
    assert load_registry(write(tmp_path, text)).pool.hosts[1].id == "far"


def test_missing_file_directory_and_binary_are_explained(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        load_registry(tmp_path / "absent.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_registry(tmp_path)
    (tmp_path / "binary").write_bytes(b"a: 1\nb: \xff\xfe")
    with pytest.raises(ConfigError, match=r"binary:2:1: not UTF-8"):
        load_registry(tmp_path / "binary")


def test_a_pinned_expert_that_does_not_exist_is_found(tmp_path: Path) -> None:
    text = """
pool: {hosts: [{id: slot}], pinned: [mahts]}
experts: [{id: maths, host: slot, model: m}]
"""
    [problem] = problems(tmp_path, text)
    assert "mahts" in problem
    assert "maths" in problem
