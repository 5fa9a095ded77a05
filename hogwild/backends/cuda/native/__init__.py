"""C++ kernels for a CPU: attention by the work list of the GPU kernels, and the model's products of few rows.

They are built with the machine's compiler when a model is loaded for the first time, in a few seconds, and kept in the
user's cache folder. The plain path (`hogwild.backends.cuda.attention`) is their specification.
"""

from __future__ import annotations

import torch


def why_no_native(dtype: torch.dtype) -> str | None:
    """The reason why the C++ kernels cannot serve a model on a CPU; None if they can, once they are built."""
    if dtype != torch.float32:
        return f"they compute in float32, not in {str(dtype).removeprefix('torch.')}"
    return None
