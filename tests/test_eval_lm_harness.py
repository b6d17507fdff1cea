"""A stock lm-evaluation-harness against our service. It has an environment of its own (``make lm-eval``),
because it brings seventy packages that nothing else needs."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest

from coe.eval.importers import importer
from coe.registry.schema import Registry
from coe.service.service import build_service
from coe.testing.engines import FakeEngine, Script
from tests.support.serving import serving

PROGRAM = Path(__file__).parents[1] / ".venv" / "lm-eval" / "bin" / "lm-eval"

pytestmark = pytest.mark.skipif(not PROGRAM.exists(), reason="lm-eval is not installed (make lm-eval)")

TASK = """task: small_sums
dataset_path: json
dataset_kwargs:
  data_files: {data}
test_split: train
output_type: generate_until
doc_to_text: "What is {{{{question}}}}?"
doc_to_target: "{{{{answer}}}}"
generation_kwargs:
  until: ["\\n\\n"]
  max_gen_toks: 16
metric_list:
  - metric: exact_match
"""


def registry() -> Registry:
    return Registry.model_validate(
        {
            "pool": {"hosts": [{"id": "slot", "kind": "vllm", "device": "cpu"}]},
            "experts": [{"id": "sums", "host": "slot", "model": "models/x", "general": True}],
            "routers": {
                "default": "fixed",
                "available": [{"name": "fixed", "kind": "static", "options": {"expert": "sums"}}],
            },
        }
    )


def variables() -> dict[str, str]:
    """Without the path to our own packages, which are none of its business."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


@pytest.mark.parametrize(
    ("client", "endpoint", "extra"),
    [
        ("local-chat-completions", "chat/completions", ["--apply_chat_template"]),
        ("local-completions", "completions", []),
    ],
)
async def test_its_openai_clients_run_a_task_through_the_router(
    tmp_path: Path, client: str, endpoint: str, extra: list[str]
) -> None:
    data = tmp_path / "sums.json"
    data.write_text("".join(json.dumps({"question": f"{n} + 0", "answer": str(n)}) + "\n" for n in range(4)))
    (tmp_path / "small_sums.yaml").write_text(TASK.format(data=data))
    engine = FakeEngine("slot", Script(text="2"))
    async with serving(build_service(registry(), Path(), lambda *_: engine)) as url:
        process = await asyncio.create_subprocess_exec(
            str(PROGRAM), "--model", client, "--tasks", "small_sums",
            "--model_args", f"model=coe,base_url={url}/v1/{endpoint},num_concurrent=2,tokenizer_backend=none,"
            "tokenized_requests=False",
            "--include_path", str(tmp_path), "--output_path", str(tmp_path / "out"), "--log_samples", *extra,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
            env={**variables(), "OPENAI_API_KEY": "none", "HF_HOME": str(tmp_path / "hf")},
        )  # fmt: skip
        out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()[-4000:]
    found = importer("lm-eval")([tmp_path / "out"], "coe")
    assert [row.score for row in found.outcomes] == [0.0, 0.0, 1.0, 0.0]
    assert [row.answer for row in found.outcomes] == ["2"] * 4
    assert found.questions[2].question == "2 + 0"
