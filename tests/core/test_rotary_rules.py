"""Rotary frequencies against transformers, exactness of the offset tables, and what turning must keep."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from core_oracle import SPECS
from hypothesis import given
from hypothesis import strategies as st

from hogwild.core.rotary import MAX_OFFSET, OffsetTable, RotarySpec, exact_angles, rotary_from_config, turn
from hogwild.errors import ModelRefused

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
DEEPSEEK = {**YARN, "factor": 40, "original_max_position_embeddings": 4096, "beta_fast": 32, "beta_slow": 1}
RULES: dict[str, tuple[dict[str, Any], int, float]] = {
    "default, SmolLM2": ({}, 64, 1e5),
    "default, Llama 2": ({}, 128, 1e4),
    "default, Qwen3": ({}, 128, 1e6),
    "default, wide": ({}, 256, 1e6),
    "default, partial": ({"rope_type": "default", "partial_rotary_factor": 0.5}, 128, 1e4),
    "linear": ({"rope_type": "linear", "factor": 2.5}, 96, 1e4),
    "linear, old key": ({"type": "linear", "factor": 4}, 128, 1e6),
    "llama3, 3.1": (LLAMA3, 128, 5e5),
    "llama3, 3.2": ({**LLAMA3, "factor": 32.0}, 64, 5e5),
    "yarn, QwQ": (YARN, 128, 1e6),
    "yarn, factor given": ({**YARN, "attention_factor": 1.25}, 128, 1e6),
    "yarn, betas": ({**YARN, "beta_fast": 16.0, "beta_slow": 2.0}, 64, 1e4),
    "yarn, not truncated": ({**YARN, "truncate": False}, 64, 1.5e5),
    "yarn, mscale": ({**DEEPSEEK, "mscale": 1.0, "mscale_all_dim": 1.0}, 64, 1e4),
    "yarn, two mscales": ({**DEEPSEEK, "mscale": 0.707, "mscale_all_dim": 1.3}, 64, 1e4),
    "yarn, one mscale": ({**DEEPSEEK, "mscale": 0.707}, 64, 1e4),
    "yarn, of the context": ({"rope_type": "yarn", "factor": 2.0}, 64, 1e4),
    "yarn, no factor": ({**YARN, "factor": None}, 64, 1e4),
}
CONTEXT = 131072


def config_of(rule: str) -> tuple[dict[str, Any], int]:
    scaling, head_dim, theta = RULES[rule]
    return {
        "rope_theta": theta,
        "rope_scaling": dict(scaling) or None,
        "head_dim": head_dim,
        "hidden_size": 4 * head_dim,
        "num_attention_heads": 4,
        "max_position_embeddings": CONTEXT,
    }, head_dim


@pytest.mark.parametrize("rule", RULES)
def test_frequencies_are_those_of_transformers(rule: str) -> None:
    rope = pytest.importorskip("transformers.modeling_rope_utils")
    transformers = pytest.importorskip("transformers")
    config, head_dim = config_of(rule)
    spec = rotary_from_config(config, head_dim)
    theirs = transformers.LlamaConfig(**config)
    kind = rule.split(",")[0]
    if kind == "default":
        embedding = pytest.importorskip("transformers.models.llama.modeling_llama").LlamaRotaryEmbedding
        expected, factor = embedding(theirs).inv_freq, 1.0
        expected = expected[: len(spec.inv_freq)] if "partial" not in rule else None
    else:
        expected, factor = rope.ROPE_INIT_FUNCTIONS[kind](theirs, None)
    if expected is None:
        reduced = transformers.LlamaConfig(**{**config, "head_dim": head_dim // 2, "rope_scaling": None})
        expected = embedding(reduced).inv_freq
    # transformers computes the powers in float32: a unit or two in the last place.
    np.testing.assert_allclose(spec.inv_freq, expected.double().numpy(), rtol=5e-7)
    assert spec.factor == pytest.approx(factor, rel=1e-12)


@pytest.mark.parametrize("rule", RULES)
def test_offset_tables_are_exact_to_1e_7(rule: str) -> None:
    config, head_dim = config_of(rule)
    spec = rotary_from_config(config, head_dim)
    rng = np.random.default_rng(0)
    edges = [0, 1, 1023, 1024, 1025, MAX_OFFSET - 1025, MAX_OFFSET - 1, MAX_OFFSET]
    offsets = np.array([*edges, *(-edge for edge in edges), *rng.integers(-MAX_OFFSET, MAX_OFFSET + 1, 20_000)])
    for got, exact in zip(OffsetTable(spec)(offsets), exact_angles(offsets, spec), strict=True):
        assert got.dtype == np.float32
        assert np.abs(got - exact).max() < 1e-7


def test_offset_tables_are_shaped_like_their_offsets() -> None:
    cos, sin = OffsetTable(SPECS["partial"])(np.arange(-3, 3).reshape(2, 3))
    assert cos.shape == sin.shape == (2, 3, 3)


OFFSETS = st.integers(-MAX_OFFSET // 2, MAX_OFFSET // 2)


@given(name=st.sampled_from(sorted(SPECS)), a=OFFSETS, b=OFFSETS, seed=st.integers(0, 99))
def test_turning_is_a_rotation(name: str, a: int, b: int, seed: int) -> None:
    spec = SPECS[name]
    x = np.random.default_rng(seed).standard_normal((3, 2, 12))

    def turned(x: np.ndarray, offset: int) -> np.ndarray:
        return turn(x, *exact_angles(np.array([[offset]]), spec), spec)

    np.testing.assert_allclose(np.linalg.norm(turned(x, a), axis=-1), np.linalg.norm(x, axis=-1), rtol=1e-12)
    np.testing.assert_allclose(turned(turned(x, a), b), turned(x, a + b), atol=1e-8)
    np.testing.assert_allclose(turned(turned(x, a), -a), x, atol=1e-12)
    np.testing.assert_array_equal(turned(x, 0), x)


@given(name=st.sampled_from(sorted(SPECS)), query=OFFSETS, key=OFFSETS, offset=OFFSETS)
def test_turning_the_query_moves_the_query(name: str, query: int, key: int, offset: int) -> None:
    """A score depends on the distance alone: moving the query by `offset` is moving the key by `-offset`."""
    spec = SPECS[name]
    q, k = np.random.default_rng(1).standard_normal((2, 12))

    def at(x: np.ndarray, position: int) -> np.ndarray:
        return turn(x, *exact_angles(np.array(position), spec), spec)

    there = at(q, query + offset) @ at(k, key)
    turned = turn(at(q, query), *exact_angles(np.array(offset), spec), spec) @ at(k, key)
    assert there == pytest.approx(turned, abs=1e-8)


def test_features_that_do_not_turn_are_untouched() -> None:
    spec = SPECS["start, interleaved, partial"]
    x = np.random.default_rng(2).standard_normal((5, 12))
    y = turn(x, *exact_angles(np.arange(5), spec), spec)
    np.testing.assert_array_equal(y[:, [0, 1, 8, 9, 10, 11]], x[:, [0, 1, 8, 9, 10, 11]])
    assert not np.isclose(y[1:, 2:8], x[1:, 2:8]).all(axis=0).any()


def test_turning_keeps_float32() -> None:
    spec = SPECS["half"]
    x = np.ones((2, 12), dtype=np.float32)
    assert turn(x, *OffsetTable(spec)(np.array([5, -7])), spec).dtype == np.float32


@pytest.mark.parametrize("kind", ["dynamic", "longrope", "proportional", "su", "mrope"])
def test_rules_that_change_with_the_length_are_refused(kind: str) -> None:
    with pytest.raises(ModelRefused, match=kind):
        rotary_from_config({"rope_scaling": {"rope_type": kind, "factor": 2.0}}, 64)


@pytest.mark.parametrize(
    "config",
    [
        {"rope_scaling": {"rope_type": "linear"}},
        {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}},
        {"rope_scaling": {"rope_type": "yarn", "factor": 8.0}},
        {"rope_scaling": {"rope_type": "linear", "factor": "two"}},
        {"rope_scaling": {"rope_type": "linear", "factor": 0}},
        {"rope_scaling": {"rope_type": "linear", "factor": float("nan")}},
        {"rope_theta": 0},
        {"rope_theta": -1e4},
        {"partial_rotary_factor": 0.0},
        {"partial_rotary_factor": 2.0},
        {"partial_rotary_factor": 0.3},
        {"rope_parameters": {"full_attention": {"rope_theta": 1e6}, "sliding_attention": {"rope_theta": 1e4}}},
    ],
)
def test_incomplete_or_impossible_rules_are_refused(config: dict[str, Any]) -> None:
    with pytest.raises(ModelRefused):
        rotary_from_config(config, 64)


def test_a_rule_may_stand_in_either_place() -> None:
    new = {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e4}}
    old = {"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_theta": 5e4}
    assert rotary_from_config(new, 64) == rotary_from_config(old, 64)


def test_a_spec_counts_its_features() -> None:
    assert [spec.num_dims for spec in (SPECS["half"], SPECS["start"], RotarySpec(()))] == [12, 8, 0]
