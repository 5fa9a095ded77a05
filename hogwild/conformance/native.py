"""A generated case through the C++ kernels of the cuda backend on a CPU."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from hogwild.backends.cuda.angles import AngleTables
from hogwild.backends.cuda.native.attention import NativeAttention
from hogwild.backends.cuda.native.library import shared_library
from hogwild.conformance.cases import Array, AttentionCase
from hogwild.conformance.torch_pool import case_pool

_CPU = torch.device("cpu")


def native_answer(case: AttentionCase) -> Array:
    """Attention `[T, H, Dv]` in float32, whatever the case's dtype; the pass writes the new tokens' K/V.

    `BuildError` where the kernels cannot be built.
    """
    case = replace(case, dtype="float32")
    pool, slots = case_pool(case, _CPU), case.plan.write_slots
    tables = AngleTables(pool.layers, torch.float32, _CPU)
    kernels = NativeAttention(shared_library(), pool, pool.layers, case.queries.shape[1], tables)
    module = torch.nn.Module()
    module.layer_idx = 0  # type: ignore[assignment]
    q, k, v = (
        torch.from_numpy(np.ascontiguousarray(x))[None].transpose(1, 2)  # strided, as a model hands it over
        for x in (case.queries, case.keys[:, slots].swapaxes(0, 1), case.values[:, slots].swapaxes(0, 1))
    )
    sinks = None if case.sinks is None else torch.from_numpy(case.sinks)
    options = {"scaling": case.scale, "softcap": case.softcap, "s_aux": sinks}
    output = kernels.start(case.plan).attend(module, q, k, v, None, options)
    return np.asarray(output[0].numpy())
