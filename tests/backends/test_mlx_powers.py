"""Powers of 2 by a polynomial and bits."""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from hogwild.backends.mlx.powers import weights_of


def test_powers_of_two_are_right_to_the_last_bits() -> None:
    rng = np.random.default_rng(0)
    scores = np.concatenate([-np.arange(126.0), -rng.uniform(0, 125, 2000), -rng.exponential(1e-4, 200)])
    top = np.array([[rng.uniform(-1e3, 1e3)]], np.float32)
    given = scores.astype(np.float32).reshape(2, -1) + top
    given[:, :1] = top
    expected = np.exp2((given - top).astype(np.float64))
    with mx.stream(mx.cpu):
        found = np.array(weights_of(mx.array(given), mx.array(top)))
    np.testing.assert_allclose(found, expected, rtol=2e-7)
    assert (found[:, 0] == 1).all()


def test_what_is_hidden_weighs_nothing_and_nan_stays() -> None:
    with mx.stream(mx.cpu):
        scores = mx.array([[-np.inf, -1e30, -200.0, -126.5, -2.0, 0.0, np.nan]])
        found = np.array(weights_of(scores, mx.zeros((1, 1))))[0]
    assert (found[:3] == 0).all()
    assert 0 <= found[3] < 1.2e-38
    assert found[4] == 0.25
    assert found[5] == 1
    assert np.isnan(found[6])
