"""A model's cache list with every attention layer's cache replaced by one of ours."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any, TypeVar

from mlx_lm.models import cache as mlx_cache

from hogwild.backends.mlx.hook import BlockCache
from hogwild.backends.mlx.latent import LatentCache
from hogwild.errors import ModelRefused

_ATTENTION = (mlx_cache.KVCache, mlx_cache.RotatingKVCache, mlx_cache.ConcatenateKVCache)
_REASONS = {
    "ArraysCache": "it keeps a recurrent state, which workers cannot share",
    "ChunkedKVCache": "its attention is chunked: what a token sees depends on its absolute position",
}

Cache = TypeVar("Cache", bound=BlockCache)


def replace_caches(
    model: Any, make: Callable[[int, int | None], Cache], latent: Collection[int] = ()
) -> tuple[list[Any], list[Cache]]:
    """The list that the model takes as `cache=`, and the caches that were made for it, in order of layers.

    make: called with a layer's number and the window of its rotating cache, if it has one.
    latent: which of the made ones, by their place, stand behind a `LatentCache`.
    Raises `ModelRefused` for a layer that keeps anything but keys and values.
    """
    made: list[Cache] = []

    def replace(cache: Any, layer: int) -> Any:
        if cache is None:
            return None
        if isinstance(cache, mlx_cache.CacheList):
            return mlx_cache.CacheList(*(replace(part, layer) for part in cache.caches))
        if type(cache) not in _ATTENTION:
            kind = type(cache).__name__
            raise refused(layer, _REASONS.get(kind, f"its cache is of the kind {kind}"))
        if getattr(cache, "keep", 0):
            raise refused(layer, f"its rotating cache keeps the first {cache.keep} tokens for ever")
        made.append(make(layer, getattr(cache, "max_size", None)))
        return LatentCache(made[-1]) if len(made) - 1 in latent else made[-1]

    return [replace(cache, layer) for layer, cache in enumerate(mlx_cache.make_prompt_cache(model))], made


def refused(layer: int, reason: str) -> ModelRefused:
    """The error for a layer that cannot be computed exactly."""
    return ModelRefused(
        f"layer {layer} cannot be computed over shared blocks: {reason}",
        expected="attention with rotary or no positions over plain keys and values",
        remedy="use another model",
    )


def decoder_layers(model: Any) -> Iterator[Any]:
    """The model's decoder layers, in order."""
    yield from (layer for layer in model.layers if layer is not None)
