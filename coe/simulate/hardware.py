"""What hardware takes: seconds to load, wake, put to sleep, prefill and decode, by gigabytes of weights.

[P] published, [M] measured with this project's engines, [D] derived from [P] or [M] as stated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from coe.core.suggest import suggest
from coe.simulate.errors import SimulationError

BATCH_EXPONENT = 0.83
"""[M] Work per second of a batch of b is b ** 0.83 that of one request: SmolLM2-135M on one CPU core decodes
14 tok/s alone and 129 tok/s at batch 16 (16 ** 0.80)."""


@dataclass(frozen=True)
class ModelSize:
    """``weights_gb`` are moved and read; ``active_b`` billion parameters work on a token."""

    weights_gb: float
    active_b: float


DEFAULT_SIZE = ModelSize(weights_gb=13.5, active_b=6.74)
"""A 7B model in bf16: Llama-2-7B has 6.74e9 parameters, the SN40L paper's experts are 13.5 GB [P]."""


@dataclass(frozen=True)
class Preset:
    """One slot of a kind of hardware. A transition takes ``fixed_s + GB / gb_per_s``.

    ``ram_gb`` is the RAM of a node that holds experts which are not on the accelerator; those that do not
    fit are read from disk. ``cold_start_s`` is the start of an engine process (hosts that give every expert
    its own process). ``bytes_per_parameter``: of weights whose size is known by parameters only.
    """

    name: str
    memory_gb: float
    ram_gb: float
    wake_fixed_s: float
    wake_gb_per_s: float
    sleep_fixed_s: float
    sleep_gb_per_s: float
    disk_gb_per_s: float
    cold_start_s: float
    decode_gb_per_s: float
    prefill_tflops: float
    bytes_per_parameter: float = 2.0

    def wake_s(self, gb: float) -> float:
        """RAM to accelerator."""
        return self.wake_fixed_s + gb / self.wake_gb_per_s

    def sleep_s(self, gb: float) -> float:
        """Accelerator to RAM, or only freeing where ``sleep_gb_per_s`` is infinite."""
        return self.sleep_fixed_s + gb / self.sleep_gb_per_s

    def disk_s(self, gb: float) -> float:
        """Disk to RAM."""
        return gb / self.disk_gb_per_s

    def service_s(self, size: ModelSize, input_tokens: float, output_tokens: float) -> float:
        """Run time of a request alone in its batch: prefill is bound by compute (2 operations per active
        parameter and token), decode by reading the active weights once a token."""
        prefill = input_tokens * 2.0 * size.active_b * 1e9 / (self.prefill_tflops * 1e12)
        total_b = max(size.weights_gb / self.bytes_per_parameter, size.active_b)
        read_gb = size.weights_gb * size.active_b / total_b
        return prefill + output_tokens * read_gb / self.decode_gb_per_s


_A100 = Preset(
    name="a100",
    # NVIDIA A100 80GB SXM datasheet [P]; DGX A100 640GB datasheet: 2 TB system memory [P].
    memory_gb=80.0,
    ram_gb=2_000.0,
    # Fit of vLLM's published sleep-mode level 1 times on A100 [D]: wake 0.26 s (Qwen3-0.6B, 1.2 GB), 0.82 s
    # (Phi-3-vision 4B, 8.3 GB), 2.9 s (Qwen3-Coder-30B, 61 GB); sleep 0.09, 0.42, 2.8 s. PCIe 4 x16 has
    # 32 GB/s. A 13.5 GB expert: wake 0.84 s, sleep 0.65 s.
    wake_fixed_s=0.25,
    wake_gb_per_s=23.0,
    sleep_fixed_s=0.04,
    sleep_gb_per_s=22.0,
    # Level 2 wakes reload weights from disk: 2.58 s against 0.82 s for 8.3 GB [D].
    disk_gb_per_s=4.7,
    # Cold starts published beside them: 38, 58 and 47 s, hardly dependent on size [P]; their mean.
    cold_start_s=48.0,
    # 2,039 GB/s and 312 TFLOPS dense bf16 (datasheet [P]); 60% of bandwidth in decode (Databricks, "LLM
    # inference performance engineering": 55-60% at batch 1 [P]), 50% of peak in prefill [D].
    decode_gb_per_s=0.6 * 2_039.0,
    prefill_tflops=0.5 * 312.0,
)

_H100 = Preset(
    name="h100",
    # NVIDIA H100 SXM datasheet [P]; DGX H100 datasheet: 2 TB system memory [P].
    memory_gb=80.0,
    ram_gb=2_000.0,
    # PCIe 5 x16 has 64 GB/s, twice the A100's link: its rates doubled, fixed parts kept [D].
    # A 13.5 GB expert: wake 0.54 s (the link alone 0.21 s, SN40L paper's estimate), sleep 0.35 s.
    wake_fixed_s=0.25,
    wake_gb_per_s=46.0,
    sleep_fixed_s=0.04,
    sleep_gb_per_s=44.0,
    disk_gb_per_s=4.7,  # as the A100: the same kind of local NVMe [D]
    cold_start_s=48.0,  # as the A100: dominated by the process, not the GPU [D]
    # 3,350 GB/s and 989 TFLOPS dense bf16 (datasheet [P]); the same shares of peak.
    decode_gb_per_s=0.6 * 3_350.0,
    prefill_tflops=0.5 * 989.0,
)

_SN40L = Preset(
    name="sn40l",
    # One node of 8 sockets, each 64 GB HBM and up to 1.5 TB DDR (arXiv 2405.07518 [P]).
    memory_gb=512.0,
    ram_gb=12_000.0,
    # More than 1 TB/s DDR to HBM per node; 31x faster than a DGX at 32 GB/s gives the same [P].
    # Weights are read-only: eviction writes nothing back [P]. A 13.5 GB expert: 0.0135 s.
    wake_fixed_s=0.0,
    wake_gb_per_s=1_000.0,
    sleep_fixed_s=0.0,
    sleep_gb_per_s=float("inf"),
    disk_gb_per_s=4.7,  # not published: as the others [D]
    cold_start_s=0.0,  # compiled graphs stay resident [D]
    # 2 TB/s HBM and 638 TFLOPS bf16 a socket [P]; 75% of peak in token generation (DAC 2025 talk [P]).
    decode_gb_per_s=0.75 * 8 * 2_000.0,
    prefill_tflops=0.5 * 8 * 638.0,
)

_CPU = Preset(
    name="cpu",
    # The 2-core, 24 GB machine of this project's measurements; one engine per core.
    memory_gb=24.0,
    ram_gb=24.0,
    # In-place reload of float32 weights [M]: 0.09 s for 20M (0.08 GB), 0.42 s for 120M (0.48 GB); with pause,
    # cache reset and resume 0.75 s for 0.65 GB. Nothing is written back.
    wake_fixed_s=0.2,
    wake_gb_per_s=1.2,
    sleep_fixed_s=0.0,
    sleep_gb_per_s=float("inf"),
    disk_gb_per_s=1.0,  # a network volume's usual throughput (AWS gp3 maximum [P])
    cold_start_s=38.0,  # 28 to 48 s [M]
    # 14 tok/s of a 0.54 GB model at batch 1; 129 tok/s at batch 16 is 0.035 TFLOPS at least [M].
    decode_gb_per_s=14.0 * 0.54,
    prefill_tflops=0.035,
    bytes_per_parameter=4.0,
)

PRESETS: Mapping[str, Preset] = {preset.name: preset for preset in (_H100, _A100, _SN40L, _CPU)}

ADAPTER_LOAD_S, ADAPTER_UNLOAD_S = 0.026, 0.002
"""A LoRA adapter of a 135M base: 18 to 34 ms in, 2 ms out [M]."""


def find_preset(name: str) -> Preset:
    """Raises :class:`SimulationError` with the choices."""
    preset = PRESETS.get(name)
    if preset is None:
        raise SimulationError(f"no hardware preset {name!r}", hint=suggest(name, PRESETS))
    return preset
