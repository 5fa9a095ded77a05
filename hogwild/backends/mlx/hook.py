"""How a model's attention reaches the block pool: the name that mlx-lm's model files import is made to dispatch.

Every model file of mlx-lm calls `scaled_dot_product_attention(q, k, v, cache=..., ...)`. In the modules of a loaded
model that name is bound to a `Dispatch`, which looks at the cache: a `BlockCache` attends by itself, every other call
passes through unchanged. When the last model that uses a module is closed, the module gets its own function back.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from threading import Lock
from types import ModuleType
from typing import Any

import mlx.core as mx

SDPA = "scaled_dot_product_attention"
_LOCK = Lock()


class BlockCache:
    """What one attention layer of a model gets as its cache.

    Attributes:
        offset: `[T]` int32, one block-local position for each packed token, which the model hands to its own RoPE.
    """

    offset: mx.array
    _held: Any = None

    def make_mask(self, *args: Any, **kwargs: Any) -> mx.array | None:
        """No mask: who sees what is the pool's business."""
        return None

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Store `keys [T, kv_heads, 1, Dk]` and `values [T, kv_heads, 1, Dv]`; they are handed back as they came."""
        self.store(keys, values)
        self._held = HeldKeys(keys, self), values
        return self.keys_and_values()

    def keys_and_values(self) -> tuple[mx.array, mx.array]:
        """What this pass has stored, for a layer that reads it too."""
        held: tuple[mx.array, mx.array] = self._held
        return held

    def forget(self) -> None:
        """The pass is over: its keys and values need no memory of their own any longer."""
        self._held = None

    def store(self, keys: mx.array, values: mx.array) -> None:
        """Keep what the pass brings; see `update_and_fetch`."""
        raise NotImplementedError

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
        """`queries [T, H, 1, Dk]`, after the model's own RoPE, to outputs `[T, H, 1, Dv]`.

        keys, values: what the model attends to: of the pass alone, as `update_and_fetch` handed them back.
        softcap: scores become `softcap * tanh(score / softcap)`.
        """
        raise NotImplementedError


class HeldKeys(mx.array):
    """Keys that know the cache that holds them."""

    def __init__(self, keys: mx.array, cache: BlockCache) -> None:
        super().__init__(keys)
        self.cache = cache


class Dispatch:
    """Stands in a module of mlx-lm in the place of its attention function."""

    def __init__(self, original: Callable[..., Any]) -> None:
        self.original = original
        self.num_users = 0

    def __call__(self, queries: Any, keys: Any, values: Any, *args: Any, **kwargs: Any) -> Any:
        cache = args[0] if args else kwargs.get("cache")
        if cache is None and isinstance(keys, HeldKeys):
            cache = keys.cache
        if not isinstance(cache, BlockCache):
            return self.original(queries, keys, values, *args, **kwargs)
        rest = {name: value for name, value in kwargs.items() if name != "cache"}
        return cache.attend(queries, keys, values, *args[1:], **rest)


class Hook:
    """One model's use of the dispatch, from its making to `release`."""

    def __init__(self, model: Any) -> None:
        classes = {cls for _, module in model.named_modules() for cls in type(module).__mro__}
        modules = {sys.modules.get(cls.__module__) for cls in classes}
        self._modules = [module for module in modules if module is not None and callable(vars(module).get(SDPA))]
        with _LOCK:
            for module in self._modules:
                _dispatch_in(module).num_users += 1

    def release(self) -> None:
        """Let go of the modules; calling it twice is harmless."""
        with _LOCK:
            for module in self._modules:
                dispatch = _dispatch_in(module)
                dispatch.num_users -= 1
                if dispatch.num_users == 0:
                    setattr(module, SDPA, dispatch.original)
            self._modules = []


def _dispatch_in(module: ModuleType) -> Dispatch:
    found = getattr(module, SDPA)
    if not isinstance(found, Dispatch):
        found = Dispatch(found)
        setattr(module, SDPA, found)
    return found
