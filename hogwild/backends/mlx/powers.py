"""Powers of 2 for the weights of attention.

MLX computes `exp` and `power` number by number on a CPU, 20 and 10 ns each. `2^x = 2^i 2^f` with a whole `i` and `f` in
(-1, 0] takes 5: a polynomial for `2^f`, and for `2^i` a float32 whose exponent bits are `i + 127`. Three kernels and a
product, since a compiler does not vectorise what writes two arrays.
"""

from __future__ import annotations

from functools import partial

import mlx.core as mx

LEAST = -127  # its exponent bits are those of zero
# Of 1 + c1 f + .. + c6 f^6, least squares of the relative error over [-1, 0], which is at most 2.2e-9.
_COEFFICIENTS = (0.69314705898, 0.24022430573, 0.055490506851, 0.0095787229616, 0.0012743611154, 0.00010889923224)


def weights_of(scores: mx.array, top: mx.array) -> mx.array:
    """`2^(scores - top)` in float32 within 2e-7 of itself; scores at most `top`. 0 below 2^-127, NaN for NaN."""
    exponents = _exponents(scores, top)
    return _fractions(exponents) * _bits(exponents).view(mx.float32)


@partial(mx.compile, shapeless=True)
def _exponents(scores: mx.array, top: mx.array) -> mx.array:
    return mx.maximum(scores - top, LEAST)


@partial(mx.compile, shapeless=True)
def _fractions(x: mx.array) -> mx.array:
    """`2^f`, where `f` is what x is more than its whole part."""
    c1, c2, c3, c4, c5, c6 = _COEFFICIENTS
    f = x - x.astype(mx.int32).astype(mx.float32)
    square = f * f
    return (1.0 + c1 * f) + (c2 + c3 * f) * square + ((c4 + c5 * f) + c6 * square) * (square * square)


@partial(mx.compile, shapeless=True)
def _bits(x: mx.array) -> mx.array:
    """The float32 `2^i` as an int32, where i is the whole part of x."""
    return mx.left_shift(x.astype(mx.int32) - LEAST, 23)
