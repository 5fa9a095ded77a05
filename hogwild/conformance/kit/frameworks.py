"""What a framework itself makes of plain text with the weights that a target has loaded: the ordinary forward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hogwild.backends.base import Backend

Array = NDArray[np.float64]


def ordinary_forward(backend: Backend, token_ids: Sequence[int], *, layers: bool = False) -> tuple[list[Array], Array]:
    """One forward of a sequence by transformers or mlx-lm, with its own attention and without shared blocks.

    Gives the layers' outputs `[n, hidden_size]` (none unless asked for) and the logits `[n, V]`.
    """
    forwards = {"cuda": _transformers, "mlx": _mlx_lm}
    return forwards[backend.info.name](backend, token_ids, layers)


def _transformers(backend: Any, token_ids: Sequence[int], layers: bool) -> tuple[list[Array], Array]:
    import torch

    from hogwild.backends.cuda.attention import ATTENTION_NAME

    model, outputs = backend.model, []

    def keep(module: Any, given: Any, output: Any) -> None:
        outputs.append((output[0] if isinstance(output, tuple) else output)[0].double().cpu().numpy())

    hooks = [layer.register_forward_hook(keep) for layer in model.get_decoder().layers] if layers else []
    model.set_attn_implementation("eager")
    try:
        with torch.inference_mode():
            ids = torch.tensor([list(token_ids)], device=next(model.parameters()).device)
            logits = model(input_ids=ids, use_cache=False).logits[0].double().cpu().numpy()
    finally:
        model.set_attn_implementation(ATTENTION_NAME)
        for hook in hooks:
            hook.remove()
    return outputs, logits


def _mlx_lm(backend: Any, token_ids: Sequence[int], layers: bool) -> tuple[list[Array], Array]:
    import contextlib

    import mlx.core as mx
    from mlx_lm.models.cache import make_prompt_cache

    from hogwild.backends.mlx.model_pass import recorded_layers

    model, device = backend.model, mx.gpu if backend.info.device == "gpu" else mx.cpu
    recording: Any = recorded_layers(model) if layers else contextlib.nullcontext([])
    with mx.stream(mx.Device(device)), recording as outputs:
        logits = model(mx.array([list(token_ids)]), cache=make_prompt_cache(model))[0]
        return [_numbers(x[0]) for x in outputs], _numbers(logits)


def _numbers(x: Any) -> Array:
    import mlx.core as mx

    return np.array(x.astype(mx.float32), dtype=np.float64)
