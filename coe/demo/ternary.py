"""Sparse ternary adapters after ComPEFT (Yadav et al. 2023, section 3): top-k magnitudes, sign, scale.

Each LoRA pair is A (rank x in) and B (out x rank). Every rank component keeps its largest
``density`` share of entries, as signs times one scale (the mean magnitude of what is kept: least
squares for a fixed support). ComPEFT uses one scale a tensor; one a rank component costs 2 bytes
each and keeps components of unlike norm apart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

DENSITY = 0.3


def rank_dimension(name: str) -> int:
    """The dimension that runs over rank components: 0 for ``lora_A`` (rank x in), 1 for ``lora_B``."""
    return 0 if ".lora_A" in name else 1


def ternary(weight: torch.Tensor, dim: int, density: float = DENSITY) -> tuple[torch.Tensor, torch.Tensor]:
    """``(signs, scales)``: int8 in {-1, 0, 1} of ``weight``'s shape, and one scale per slice of ``dim``."""
    rows = weight if dim == 0 else weight.T
    keep = max(1, round(density * rows.shape[1]))
    magnitude = rows.abs()
    threshold = magnitude.kthvalue(rows.shape[1] - keep + 1, dim=1, keepdim=True).values
    kept = (magnitude >= threshold) & (magnitude > 0)
    scales = (magnitude * kept).sum(1) / kept.sum(1).clamp(min=1)
    signs = (rows.sign() * kept).char()
    return (signs if dim == 0 else signs.T), scales


def dense(signs: torch.Tensor, scales: torch.Tensor, dim: int) -> torch.Tensor:
    """The float32 weight that ``(signs, scales)`` stand for."""
    return signs.float() * (scales[:, None] if dim == 0 else scales[None, :])
