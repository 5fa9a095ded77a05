"""Whether a request fits: the model's context, the device's memory. Asked before anything is computed."""

from __future__ import annotations

from hogwild.backends.base import ModelSpec
from hogwild.bench.options import BenchOptions
from hogwild.bench.workload import find_lengths, pool_tokens
from hogwild.core.quantized import vector_bytes
from hogwild.errors import OptionError, PoolExhausted
from hogwild.models.shapes import SHAPES, num_parameters

DTYPE_BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}


def check_views(options: BenchOptions) -> None:
    """`OptionError` for a context that is too short for its workers; it can be asked without a model."""
    for context in options.contexts:
        for workers in options.workers:
            find_lengths(options.layout, workers, context)


def check_lengths(options: BenchOptions, context_size: int) -> None:
    """`OptionError` for a context that is longer than the model's."""
    longest = max(options.contexts)
    if longest > context_size:
        raise OptionError(
            "the context is longer than the model's", expected=f"at most {context_size} tokens", got=str(longest)
        )


def check_shape(name: str, options: BenchOptions, dtype: str, kv_dtype: str, free: int | None) -> None:
    """Check a shape before its weights are made. `PoolExhausted` when weights and cache do not fit in `free` bytes."""
    config, width = SHAPES[name], DTYPE_BYTES[dtype]
    check_lengths(options, config["max_position_embeddings"])
    vector = vector_bytes(config["head_dim"]) if kv_dtype == "int8" else config["head_dim"] * width
    kv = 2 * config["num_hidden_layers"] * config["num_key_value_heads"] * vector
    _check_memory(num_parameters(name) * width, pool_tokens(options) * kv, free)


def check_model(spec: ModelSpec, options: BenchOptions, free: int | None) -> None:
    """The same for a model that is loaded already."""
    check_lengths(options, spec.context_size)
    _check_memory(0, pool_tokens(options) * spec.kv_bytes_per_token, free)


def _check_memory(weights: int, cache: int, free: int | None) -> None:
    if free is not None and weights + cache > free:
        raise PoolExhausted(
            "the device has no room for this benchmark",
            expected=f"{(weights + cache) / 1e9:.1f} GB"
            + (f", {weights / 1e9:.1f} of them weights" if weights else ""),
            got=f"{free / 1e9:.1f} GB free",
            remedy="use a smaller model, a smaller dtype or a shorter context",
        )
