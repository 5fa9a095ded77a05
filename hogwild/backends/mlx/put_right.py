"""Where mlx-lm's code computes something else than a model's config states, and little is needed to put it right.

Its files stay as they are: modules of the loaded model get other numbers, or a class of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx_lm.models import gemma2
from mlx_lm.models.rope_utils import YarnRoPE

from hogwild.backends.mlx.activations import put_activation_right
from hogwild.backends.mlx.hook import BlockCache
from hogwild.backends.mlx.stated import kind_of, scaling_of, share_of, stated_rotary, text_of

_Config = Mapping[str, Any]


def put_right(model: Any, config: _Config) -> None:
    """Make the model's modules compute what its config states. Raises `ModelRefused` where that is not possible."""
    text = text_of(config)
    _correct_yarn(model, text)
    _correct_share(model, text)
    put_activation_right(model, text)
    for _, module in model.named_modules():
        if type(module) is gemma2.Attention:
            module.__class__ = CappedAttention


def _correct_yarn(model: Any, text: _Config) -> None:
    """Give YaRN modules the frequencies and the factor that the config states, if it states one rule for all layers.

    mlx-lm's module rounds the ramp's ends whatever `truncate` says (gpt-oss: false), and ignores `attention_factor`.
    """
    scaling = scaling_of(text)
    if kind_of(scaling) != "yarn" or any(isinstance(value, Mapping) for value in scaling.values()):
        return
    for _, module in model.named_modules():
        if isinstance(module, YarnRoPE):
            stated = stated_rotary(text, module.dims)
            module._freqs = mx.array(1.0 / np.asarray(stated.inv_freq), mx.float32)
            module.mscale = stated.factor


def _correct_share(model: Any, text: _Config) -> None:
    """Let only the stated share of each head turn where a file turns whole heads (GLM-4 of 2024)."""
    share, head_dim = share_of(text), text.get("head_dim")
    if share is None or head_dim is None:
        return
    for _, module in model.named_modules():
        if type(module) is nn.RoPE and module.dims == int(head_dim):
            module.dims = int(head_dim * share)


class CappedAttention(gemma2.Attention):  # type: ignore[misc]
    """Gemma 2's attention over shared blocks; mlx-lm's forms scores by itself, since they are capped."""

    def __call__(self, x: mx.array, mask: mx.array | None = None, cache: Any = None) -> mx.array:
        """`x [T, 1, hidden]` to the same shape; with a cache of mlx-lm as mlx-lm does it."""
        if not isinstance(cache, BlockCache):
            output: mx.array = super().__call__(x, mask, cache)
            return output
        parts = ((self.q_proj, self.n_heads), (self.k_proj, self.n_kv_heads), (self.v_proj, self.n_kv_heads))
        queries, keys, values = (project(x).reshape(len(x), heads, 1, -1) for project, heads in parts)
        queries, keys = (self.rope(part, offset=cache.offset) for part in (queries, keys))
        keys, values = cache.update_and_fetch(keys, values)
        cap = self.attn_logit_softcapping
        mixed = cache.attend(queries, keys, values, self.scale, mask, softcap=cap)
        output = self.o_proj(mixed.reshape(len(x), 1, -1))
        return output
