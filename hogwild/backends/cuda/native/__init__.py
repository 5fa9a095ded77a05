"""C++ kernels for a CPU: attention by the work list of the GPU kernels, and the model's products of few rows.

They are built with the machine's compiler when a model asks for kernels, in a few seconds. The plain path
(`hogwild.backends.cuda.attention`) is their specification.
"""

from __future__ import annotations

import torch


def why_no_native(dtype: torch.dtype, device: torch.device) -> str | None:
    """The reason why the C++ kernels cannot serve a model here; None if they can, once they are built."""
    if device.type != "cpu":
        return f"the C++ kernels run on a CPU, not on {device}"
    if dtype != torch.float32:
        return f"the C++ kernels compute in float32, not in {str(dtype).removeprefix('torch.')}"
    return None
