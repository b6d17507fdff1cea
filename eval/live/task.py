"""Tasks as small declarative files: data, prompt, generation, extractor and scorer, with a version.

The shipped ones are ``eval/tasks/*.toml``; a path to a file of the same form is a task too. A task's digest
goes into every result, so that two runs are compared only where they asked the same thing.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from coe.core.errors import ConfigError
from coe.core.suggest import suggest

SHIPPED = Path(__file__).parents[1] / "tasks"
Columns = tuple[str, ...]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Data(_Model):
    """Where questions come from, and which columns hold what. The first column that exists is taken."""

    kind: Literal["table", "gpqa", "demo", "beir"] = "table"
    hub: str | None = None
    """data set on the Hugging Face hub, for `--data hub`"""
    files: tuple[str, ...] = ()
    """patterns tried in turn in a folder given by --data"""
    exemplar_files: tuple[str, ...] = ()
    split: str = "test"
    """what is asked, in the words of the data set"""
    id: Columns = ("question_id", "id")
    question: Columns = ("question",)
    options: Columns = ("options",)
    """one column with a list, or the columns of the options in order"""
    gold: Columns = ("gold", "answer")
    gold_form: Literal["letter", "index", "text", "after_hashes"] = "text"
    """after_hashes: what stands after the last ####, as in GSM8K"""
    category: Columns = ("category",)
    shuffle_options: bool = False
    """by a fixed seed for each question"""
    withheld: bool = False
    """texts are never recorded: only id, salted hash and parsed answer"""
    how_to_get: str = ""
    licence: str = ""


class Prompt(_Model):
    """How a question becomes messages. Templates take {question}, {options} and {category}."""

    system: str | None = None
    user: str = "{question}"
    shots: Annotated[int, Field(ge=0)] = 0
    exemplar_answer: str = "{cot}"
    """the assistant's turn of an exemplar"""


class Generation(_Model):
    """Sampling; temperature 0 is greedy."""

    max_tokens: Annotated[int, Field(gt=0)] = 1024
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    stop: tuple[str, ...] = ()


class Task(_Model):
    """One way to ask one data set."""

    name: str
    version: Annotated[int, Field(ge=1)]
    description: str
    data: Data
    prompt: Prompt = Prompt()
    generation: Generation = Generation()
    extractor: Literal["choice", "number", "text", "none"] = "text"
    scorer: Literal["exact", "number", "demo", "ndcg10"] = "exact"

    @property
    def digest(self) -> str:
        """Changes with anything that changes what is asked or how it is marked."""
        return hashlib.sha256(self.model_dump_json(exclude={"description"}).encode()).hexdigest()[:16]


def shipped_tasks() -> list[str]:
    return sorted(path.stem for path in SHIPPED.glob("*.toml"))


def load_task(name: str) -> Task:
    """A shipped task by name, or the task in the file ``name``. Raises ConfigError."""
    path = Path(name) if name.endswith(".toml") else SHIPPED / f"{name}.toml"
    if not path.is_file():
        raise ConfigError(
            f'there is no task "{name}"; {suggest(name, shipped_tasks())}',
            hint="A task of your own is a file that ends in .toml; docs/howto/evaluation.md describes it.",
        )
    try:
        return Task.model_validate_json(json.dumps(tomllib.loads(path.read_text(encoding="utf-8"))))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not TOML: {error}") from None
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(str(step) for step in detail['loc'])}: {detail['msg']}"
            for detail in error.errors(include_url=False)
        )
        raise ConfigError(
            f"{path}: {faults}", hint="docs/howto/evaluation.md describes a task file."
        ) from None
