"""Rotary modules that share their cos and sin within a pass give what they give alone."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx_lm.models.rope_utils import Llama3RoPE, ProportionalRoPE, YarnRoPE

from hogwild.backends.mlx.rope import Positions, share_tables

LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
MODULES: dict[str, Any] = {
    "halves": lambda: nn.RoPE(16),
    "neighbours": lambda: nn.RoPE(16, traditional=True, base=500.0, scale=0.5),
    "some features, neighbours": lambda: nn.RoPE(6, traditional=True),
    "some features": lambda: nn.RoPE(6),
    "llama3": lambda: Llama3RoPE(16, scaling_config=LLAMA3),
    "yarn with a factor": lambda: YarnRoPE(12, scaling_factor=4.0, original_max_position_embeddings=64),
    "proportional": lambda: ProportionalRoPE(16, 8),
}


def model_of(*modules: Any) -> Any:
    return SimpleNamespace(named_modules=lambda: [(str(i), module) for i, module in enumerate(modules)])


@pytest.fixture(autouse=True)
def on_a_cpu() -> Any:
    with mx.stream(mx.cpu):
        yield


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
@pytest.mark.parametrize("name", MODULES)
def test_shared_tables_change_no_number(name: str, dtype: Any) -> None:
    alone, shared = MODULES[name](), MODULES[name]()
    share_tables(model_of(shared))
    positions = np.array([0, 1, 700, 5000, 131071])
    for heads in (4, 1):
        x = mx.random.normal((5, heads, 1, 16), key=mx.random.key(heads)).astype(dtype)
        expected, found = alone(x, offset=mx.array(positions.astype(np.int32))), shared(x, offset=Positions(positions))
        assert found.shape == expected.shape
        assert found.dtype == dtype
        np.testing.assert_allclose(as_numpy(found), as_numpy(expected), rtol=0, atol=8 * mx.finfo(dtype).eps)


def test_modules_that_are_alike_make_them_once_and_others_their_own() -> None:
    twins, other = (nn.RoPE(8), nn.RoPE(8)), nn.RoPE(8, base=100.0)
    share_tables(model_of(*twins, other))
    x, positions = mx.ones((2, 3, 1, 8)), Positions(np.array([3, 40]))
    first, second, third = (module(x, offset=positions) for module in (*twins, other))
    assert len(positions.tables) == 2
    assert mx.array_equal(first, second)
    assert not mx.allclose(first, third)


def test_any_other_offset_is_the_modules_own_business() -> None:
    alone, shared = nn.RoPE(8), nn.RoPE(8)
    share_tables(model_of(shared))
    x = mx.random.normal((2, 3, 5, 8), key=mx.random.key(0))
    for offset in (0, 7, mx.array([3, 9])):
        assert mx.array_equal(alone(x, offset=offset), shared(x, offset=offset))


def as_numpy(x: mx.array) -> Any:
    return np.array(x.astype(mx.float32))
