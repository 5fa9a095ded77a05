"""Triton kernels: attention over shared blocks that reads each shared key and value byte once for all workers.

`attend` computes the items of a pass's work list, `merge` adds them up, `write` stores the new K/V before anybody
reads. The plain path (`hogwild.backends.cuda.attention`) is their specification; `docs/kernels.md` has the derivation.
Nothing here is imported before a model asks for kernels: Triton exists for Linux only.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence

import torch

from hogwild.backends.base import LayerSpec

MAX_HEAD_DIM = 256
LEAST_CAPABILITY = (8, 0)  # Ampere: Triton's own least, and the oldest one that the kernels were compiled for


def why_no_kernel(layers: Sequence[LayerSpec], dtype: torch.dtype, device: torch.device) -> str | None:
    """The reason why a model's attention cannot be computed by the kernels here; None if it can."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        return f"they run on NVIDIA GPUs, not on {device}"
    if device.type == "cuda" and (found := torch.cuda.get_device_capability(device)) < LEAST_CAPABILITY:
        return "they need compute capability {}.{}, this GPU has {}.{}".format(*LEAST_CAPABILITY, *found)
    if dtype not in (torch.float32, torch.float16, torch.bfloat16):
        return f"they compute in float32, float16 and bfloat16, not in {str(dtype).removeprefix('torch.')}"
    widest = max(max(layer.key_dim, layer.value_dim) for layer in layers)
    if widest > MAX_HEAD_DIM:
        return f"a head has {widest} features, they take {MAX_HEAD_DIM}"
    return None
