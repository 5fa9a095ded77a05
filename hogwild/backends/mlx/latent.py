"""Latent attention (MLA, arXiv 2405.04434) as mlx-lm's newer files compute a single token.

They keep one latent vector `c` and one rotary key `k` for each token, absorb the projection of the keys into the
queries, and hand over the scores of the rotary part where a mask belongs:

    latent, rotary = cache.update_and_fetch(latent, rotary)
    rotary_scores = (rotary_queries * scale) @ rotary.swapaxes(-1, -2)
    scaled_dot_product_attention(latent_queries, latent, latent, scale=scale, mask=rotary_scores)

That is ordinary attention with one kv head: keys `[c, k]`, queries `[latent_queries, rotary_queries]`, values `c`. Only
the rotary queries never come out of the file. An identity matrix in the place of `rotary` makes the scores those
queries, exactly, times the scale.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from hogwild.backends.mlx.hook import BlockCache


class LatentCache(BlockCache):
    """Stands between a layer with latent attention and a cache for ordinary attention."""

    def __init__(self, inner: BlockCache) -> None:
        self._inner = inner

    @property
    def offset(self) -> mx.array:  # type: ignore[override]
        """Positions of the pass."""
        return self._inner.offset

    def make_mask(self, *args: Any, **kwargs: Any) -> mx.array | None:
        """That of the ordinary cache."""
        return self._inner.make_mask(*args, **kwargs)

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """`keys [T, 1, 1, rank]`: the latent vectors; `values [T, 1, 1, rotary]`, for which an identity comes back."""
        self._inner.update_and_fetch(mx.concatenate([keys, values], axis=-1), keys)
        return keys, mx.eye(values.shape[-1], dtype=values.dtype)[None, None]

    def attend(
        self,
        queries: mx.array,
        keys: mx.array,
        values: mx.array,
        scale: float,
        mask: mx.array | None = None,
        sinks: mx.array | None = None,
        softcap: float | None = None,
    ) -> mx.array:
        """`queries [T, H, 1, rank]`; mask: `[T, H, 1, rotary]`, the rotary queries times the scale."""
        assert mask is not None
        whole = mx.concatenate([queries, (mask / scale).astype(queries.dtype)], axis=-1)
        return self._inner.attend(whole, *self._inner.keys_and_values(), scale, None, sinks, softcap)
