"""Shares of attention: against float64 on generated cases, and against transformers' own attention weights.

Measuring changes nothing: not the tokens, not the logits, not a stored byte.
"""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tiny_models import write_tiny_model

import hogwild
from hogwild.backends.base import Backend
from hogwild.backends.options import LoadOptions
from hogwild.backends.registry import find_backend
from hogwild.cache import SharedCache
from hogwild.conformance.cases import AttentionCase, attention_case
from hogwild.conformance.families import family
from hogwild.conformance.oracle import exact_attention
from hogwild.conformance.plain import reference_supports
from hogwild.conformance.small_models import random_model, random_tokens, write_folder
from hogwild.core import events as ev
from hogwild.core.arrays import IntArray
from hogwild.core.options import SessionOptions
from hogwild.core.plan import Row
from hogwild.core.shares import block_columns, count_columns, indicator, slot_columns
from hogwild.errors import LayoutError, OptionError
from hogwild.models import find_checkpoint
from hogwild.models.checkpoint import Checkpoint

Array = NDArray[Any]
HAS_TORCH = importlib.util.find_spec("transformers") is not None
HAS_MLX = importlib.util.find_spec("mlx") is not None
BACKENDS = ["reference", *(["cuda"] if HAS_TORCH else []), *(["mlx"] if HAS_MLX else [])]
NUM_CASES = 48


def open_backend(model: Path | Checkpoint, backend: str, **options: Any) -> Backend:
    options = {"dtype": "float32", "device": "cpu", **options}
    checkpoint = find_checkpoint(str(model)) if isinstance(model, Path) else model
    return find_backend(backend).loader()(checkpoint, LoadOptions(**options))


# Generated cases ---------------------------------------------------------------------------------------------------


def torch_shares(case: AttentionCase, columns: IntArray, num_columns: int) -> Array:
    """`[H, T, K]` as a model's layer measures them, and not a byte of the pool changed."""
    import torch

    from hogwild.backends.cuda.angles import AngleTables
    from hogwild.backends.cuda.attention import SharedPass
    from hogwild.backends.cuda.device_plan import to_device_plan
    from hogwild.backends.cuda.shares import Measuring
    from hogwild.conformance.torch_pool import case_pool

    dtype, new = getattr(torch, case.dtype), case.plan.write_slots
    pool = case_pool(case, torch.device("cpu"))
    tables = AngleTables(pool.layers, dtype, torch.device("cpu"))
    plan = to_device_plan(case.plan, case.queries.shape[1], case.queries.shape[2], tables)
    current = SharedPass(plan, pool, pool.layers, tables)
    module = torch.nn.Module()
    module.layer_idx = 0
    q, k, v = (
        torch.from_numpy(np.ascontiguousarray(x)).to(dtype)[None]
        for x in (case.queries.transpose(1, 0, 2), case.keys[:, new], case.values[:, new])
    )
    sinks = None if case.sinks is None else torch.from_numpy(case.sinks)
    options = {"scaling": case.scale, "softcap": case.softcap, "s_aux": sinks}
    with torch.inference_mode():
        first = current.attend(module, q, k, v, None, options)
        before = [stored.numbers.view(torch.uint8).clone() for stored in pool.stored(0)]
        measuring = Measuring(current, columns, num_columns)
        again = measuring.attend(module, q, k * torch.nan, v * torch.nan, None, options)
        after = [stored.numbers.view(torch.uint8) for stored in pool.stored(0)]
    assert torch.equal(first.nan_to_num(7.0), again.nan_to_num(7.0))
    assert all(map(torch.equal, before, after))
    return np.asarray(measuring.shares[0])


def mlx_shares(case: AttentionCase, columns: IntArray, num_columns: int) -> Array:
    import mlx.core as mx

    from hogwild.backends.mlx.attention import PassReader
    from hogwild.backends.mlx.shares import _Measuring
    from hogwild.conformance.mlx_pool import case_arrays
    from hogwild.core.rotary import OffsetTable

    tables = {case.rotary: OffsetTable(case.rotary)}
    num_heads, key_dim = case.queries.shape[1:]
    reader = PassReader(case.plan, tables.__getitem__, num_heads, key_dim, case.plan.num_slots)
    measuring = _Measuring(reader, mx.array(indicator(columns, num_columns)))
    measuring.attend(
        mx.array(case.queries).astype(getattr(mx, case.dtype))[:, :, None],
        *case_arrays(case),
        rotary=case.rotary,
        window=case.window,
        scale=case.scale,
        sinks=None if case.sinks is None else mx.array(case.sinks),
        softcap=case.softcap,
    )
    return np.array(measuring.shares[0])


def reference_shares(case: AttentionCase, columns: IntArray, num_columns: int) -> Array:
    from hogwild.backends.reference.attention import PassReader
    from hogwild.backends.reference.shares import _Measuring
    from hogwild.conformance.sequences import pairs_side_by_side

    num_tokens, num_heads, key_dim = case.queries.shape
    order = pairs_side_by_side(case.rotary, key_dim)
    inv_freq = np.zeros(key_dim // 2)
    inv_freq[: len(case.rotary.inv_freq)] = case.rotary.inv_freq

    def turns(offsets: IntArray) -> Array:
        return np.asarray(np.exp(1j * (offsets[..., None] * inv_freq)), dtype=np.complex64)

    reader = PassReader(case.plan, turns, num_heads, key_dim, np.dtype(np.float32))
    ones = indicator(columns, num_columns)
    measuring = _Measuring(reader, np.broadcast_to(ones, (case.keys.shape[0], *ones.shape)))
    queries = np.ascontiguousarray(case.queries[..., order]) * np.float32(case.scale)
    queries = queries.reshape(num_tokens, case.keys.shape[0], -1, key_dim)
    with np.errstate(invalid="ignore"):
        measuring.attend(queries, np.ascontiguousarray(case.keys[..., order]), case.values, case.window)
    return measuring.shares[0]


MEASURE = {"reference": reference_shares, "cuda": torch_shares, "mlx": mlx_shares}


def columns_of(case: AttentionCase, seed: int) -> tuple[IntArray, int, bool]:
    """A column for each slot: blocks, or at random; K; whether they are blocks."""
    rows = [row for group in case.groups for row in group if row.token_ids]
    if seed % 2:
        try:
            blocks = block_columns(rows)
            return slot_columns(rows, blocks, case.plan.num_slots), count_columns(blocks), True
        except LayoutError:  # blocks that share pages
            pass
    rng = np.random.default_rng(seed)
    return rng.integers(-1, 5, case.plan.num_slots), 5, False


def shares_by_block(case: AttentionCase, num_columns: int) -> Array:
    """`[T, H, K]` from the log-sum-exp of each block of a view, in float64."""
    exact = exact_attention(case, "float32", by_block=True)
    sinks = np.full(case.queries.shape[1], -np.inf) if case.sinks is None else case.sinks.astype(np.float64)
    parts = np.exp(exact.block_log_sum_exp - np.logaddexp(exact.log_sum_exp, sinks)[..., None])
    rows = [row for group in case.groups for row in group if row.token_ids]
    columns, shares, token = block_columns(rows), np.zeros((*parts.shape[:2], num_columns)), 0
    for row in rows:
        end = token + len(row.token_ids)
        for place, block in enumerate(row.view):
            shares[token:end, :, columns[block]] += parts[token:end, :, place]
        token = end
    return shares


@pytest.mark.parametrize("backend", BACKENDS)
def test_generated_cases(backend: str) -> None:
    num_blocks, wholes, shapes = 0, [], set()
    for seed in range(NUM_CASES):
        case = attention_case(seed, max_length=40)
        if backend == "reference" and not reference_supports(case):
            continue
        columns, num_columns, are_blocks = columns_of(case, seed)
        ones = np.broadcast_to(indicator(columns, num_columns), (case.keys.shape[0], len(columns), num_columns))
        exact = exact_attention(replace(case, values=ones), "float32")
        shares = MEASURE[backend](case, columns, num_columns).swapaxes(0, 1)
        assert (np.abs(shares - exact.output) <= exact.allowed("float32")).all(), case.name
        if are_blocks:
            num_blocks += 1
            assert np.abs(exact.output - shares_by_block(case, num_columns)).max() < 1e-9
            if case.sinks is None:
                wholes.append(np.abs(shares.sum(axis=-1) - 1).max())
            else:
                assert (shares.sum(axis=-1) < 1 + 1e-5).all()
        heads, kv_heads = case.queries.shape[1], case.keys.shape[0]
        views = [row.view for group in case.groups for row in group]
        shapes |= {
            ("window", case.window is not None),
            ("sinks", case.sinks is not None),
            ("groups of heads", heads > kv_heads),
            ("ragged", len({len(row.token_ids) for group in case.groups for row in group}) > 1),
            ("repeated blocks", any(len(set(view)) < len(view) for view in views)),
        }
    names = ["window", "groups of heads", "ragged", "repeated blocks", *(["sinks"] if backend != "reference" else [])]
    assert {(name, True) for name in names} <= shapes
    assert num_blocks >= 4
    assert max(wholes) < 1e-5


# Whole models ------------------------------------------------------------------------------------------------------


class World:
    """Three blocks, and a row of several tokens in each of two views of them."""

    def __init__(self, backend: Backend, vocab_size: int = 250) -> None:
        self.cache = SharedCache(backend, num_tokens=16)
        self.ids = random_tokens(40, vocab_size)
        self.prompt = self.cache.block(self.ids[:17], name="prompt")
        self.other, self.own = self.cache.new_block("other"), self.cache.new_block("own")
        self.cache.prefill(self.other, self.ids[17:30], (self.prompt,))
        self.cache.prefill(self.own, self.ids[30:34], (self.prompt, self.other))

    def rows(self) -> list[Row]:
        return [Row((self.prompt, self.other, self.own), self.ids[34:37], logits="all")]


FAMILIES = {
    "llama": BACKENDS,
    "qwen3": BACKENDS,
    "mistral-window": BACKENDS,
    "gemma2": [name for name in BACKENDS if name != "reference"],
    "gpt_oss": [name for name in BACKENDS if name == "cuda"],  # mlx-lm does not read the experts as transformers writes
}


@pytest.mark.skipif(not HAS_TORCH, reason="torch, transformers are not installed")
@pytest.mark.parametrize("name", FAMILIES)
def test_shares_are_those_of_transformers_own_weights(name: str, tmp_path: Path) -> None:
    """Of one flat sequence with its eager attention, windows, sinks and soft caps included; on every backend."""
    import torch

    from hogwild.backends.cuda.loading import quiet

    config = family(name).config
    model = random_model(config)
    checkpoint = write_folder(model, tmp_path, config)
    ids = random_tokens(40)
    with quiet(), torch.inference_mode():
        found = model(input_ids=torch.tensor([ids[:37]]), use_cache=False, output_attentions=True).attentions
    weights = np.stack([layer[0].double().numpy() for layer in found])[:, :, 34:37]  # [layers, H, 3, 37]
    parts = np.split(weights, [17, 30], axis=-1)
    expected = np.stack([part.sum(axis=-1).mean(axis=-1) for part in parts], axis=-1)  # [layers, H, 3 columns]
    for backend in FAMILIES[name]:
        world = World(open_backend(checkpoint, backend))
        world.cache.forward(world.rows())
        shares = world.cache.attention_shares(world.rows(), by_head=True)
        assert shares.shape == (len(weights), weights.shape[1], 1, 3)
        assert np.abs(shares[:, :, 0] - expected).max() < 2e-5, backend
        mean = world.cache.attention_shares(world.rows())
        assert np.allclose(mean, shares.mean(axis=1), atol=1e-6)
        missing = 1 - mean.sum(axis=-1)
        assert (missing > 1e-3).all() if name == "gpt_oss" else np.abs(missing).max() < 1e-5
        world.cache.backend.close()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("shares") / "tiny")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kv_dtype", ["auto", "int8"])
def test_measuring_changes_no_bit(backend: str, kv_dtype: str, tiny: Path) -> None:
    """Two caches do the same, one of them measures after every pass: logits and stored bytes are the same."""
    seen = []
    for measures in (False, True):
        world = World(open_backend(tiny, backend, kv_dtype=kv_dtype))
        cache, logits = world.cache, []
        alice, bob = cache.new_block("alice"), cache.new_block("bob")
        for step in range(4):
            rows = [
                Row((world.prompt, bob, alice), world.ids[step : step + 1 + step % 2]),
                Row((world.prompt, alice, bob), world.ids[step + 5 : step + 8 - step % 2]),
            ]
            logits.append(cache.to_numpy(cache.forward(rows)))
            if measures:
                before = [cache.read_kv(block, layer) for block in (world.prompt, alice, bob) for layer in range(3)]
                shares = cache.attention_shares(rows)
                after = [cache.read_kv(block, layer) for block in (world.prompt, alice, bob) for layer in range(3)]
                assert all(
                    np.array_equal(a, b) for x, y in zip(before, after, strict=True) for a, b in zip(x, y, strict=True)
                )
                assert np.abs(shares.sum(axis=-1) - 1).max() < 1e-5
                assert shares.min() > 0
            if step == 2:
                world.prompt.link(alice)
        stored = [cache.read_kv(block, layer) for block in (world.prompt, alice, bob) for layer in range(3)]
        seen.append([*logits, *(array for pair in stored for array in pair)])
        cache.backend.close()
    assert all(np.array_equal(without, having) for without, having in zip(*seen, strict=True))


@pytest.mark.parametrize("backend", BACKENDS)
def test_measuring_never_writes(backend: str, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(open_backend(tiny, backend))
    world.cache.forward(world.rows())
    expected = world.cache.attention_shares(world.rows())

    def refuse(*given: Any) -> None:
        raise AssertionError("the pool is written")

    pool = importlib.import_module(f"hogwild.backends.{backend}.pool").KVPool
    monkeypatch.setattr(pool, "write", refuse)
    if backend == "cuda":  # whose kernels on a CPU store new keys and values themselves
        monkeypatch.setattr(importlib.import_module("hogwild.backends.cuda.native.library").Library, "write", refuse)
    assert np.array_equal(world.cache.attention_shares(world.rows()), expected)
    with pytest.raises(AssertionError, match="the pool is written"):
        world.cache.forward([Row((world.prompt, world.own), (7,))])


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_session_is_the_same_to_the_last_bit(backend: str, tiny: Path) -> None:
    """Tokens, logits, events: with and without measuring in every other pass."""
    seen: list[tuple[list[Array], list[dict[str, Any]]]] = []
    for every in (0, 2):
        model = hogwild.load(str(tiny), backend=backend, dtype="float32", device="cpu")
        forward, logits = model.backend.forward, []

        def recorded(*given: Any, forward: Any = forward, model: Any = model, logits: Any = logits, **how: Any) -> Any:
            result = forward(*given, **how)
            logits.append(model.backend.to_numpy(result.logits))
            return result

        model.backend.forward = recorded  # type: ignore[method-assign]
        engine = hogwild.Engine(model)
        options = SessionOptions(max_passes=14, max_step_tokens=4, finisher_tokens=2, attention_every=every)
        engine.submit("How much is 17 times 23?", options)
        events = list(engine.events())
        measured = [event for event in events if isinstance(event, ev.AttentionMeasured)]
        assert [event.pass_index for event in measured] == (list(range(2, 15, 2)) if every else [])
        assert all(np.abs(np.sum(event.shares, axis=-1) - 1).max() < 1e-5 for event in measured)
        plain = [ev.event_to_dict(event) for event in events if not isinstance(event, ev.AttentionMeasured)]
        seen.append((logits, [{k: v for k, v in x.items() if k not in ("seconds", "options")} for x in plain]))
        engine.close()
    (without, plainly), (having, measuring) = seen
    assert plainly == measuring
    assert len(without) == len(having) > 14
    assert all(np.array_equal(a, b) for a, b in zip(without, having, strict=True))


# What the low-level call takes -------------------------------------------------------------------------------------


def test_heads_of_ragged_layers_are_refused(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(open_backend(tiny, "reference"))
    world.cache.forward(world.rows())
    ragged = (np.full((2, 3, 3), 0.25), np.full((4, 3, 3), 0.5))
    monkeypatch.setattr(world.cache.backend, "attention_shares", lambda *given: ragged)
    assert world.cache.attention_shares(world.rows())[:, 0, 0].tolist() == [0.25, 0.5]
    with pytest.raises(OptionError, match="different numbers of heads"):
        world.cache.attention_shares(world.rows(), by_head=True)


def test_columns_of_single_tokens_and_rows_without_tokens(tiny: Path) -> None:
    world = World(open_backend(tiny, "reference"))
    rows = [*world.rows(), Row((world.prompt, world.other), ())]
    world.cache.forward(rows)
    by_block = world.cache.attention_shares(rows)
    assert by_block.shape == (3, 2, 3)
    assert np.isnan(by_block[:, 1]).all()
    tokens = {world.prompt: np.arange(17), world.other: 17 + np.arange(13), world.own: 30 + np.arange(7)}
    by_token = world.cache.attention_shares(rows, tokens)
    assert by_token.shape == (3, 2, 37)
    sums = [part.sum(axis=-1) for part in np.split(by_token[:, 0], [17, 30], axis=-1)]
    assert np.allclose(np.stack(sums, axis=-1), by_block[:, 0], atol=1e-6)
    # The last of the row's three tokens is seen by itself alone, the first by all three.
    assert (by_token[:, 0, 36] < by_token[:, 0, 34:36].sum(axis=-1) * 3).all()
    in_two = world.cache.attention_shares(rows, {world.prompt: 1, world.other: 0, world.own: 1})
    assert np.allclose(in_two[:, 0, 0], by_block[:, 0, 1], atol=1e-6)


def test_what_nobody_sees_has_exactly_no_share(tiny: Path) -> None:
    world = World(open_backend(tiny, "reference"))
    alice, bob = world.cache.new_block("alice"), world.cache.new_block("bob")
    rows = [Row((world.prompt, alice), world.ids[:3]), Row((world.prompt, bob), world.ids[3:4])]
    world.cache.forward(rows)
    shares = world.cache.attention_shares(rows, {world.prompt: 2, alice: 0, bob: 1})
    assert (shares[:, 0, 1] == 0).all()
    assert (shares[:, 1, 0] == 0).all()
    assert (shares[:, 0, 0] > 0).all()


def test_misuse_is_refused(tiny: Path) -> None:
    world = World(open_backend(tiny, "reference"))
    rows = world.rows()
    with pytest.raises(LayoutError, match="not the last ones of block 'own'"):
        world.cache.attention_shares(rows)
    world.cache.forward(rows)
    with pytest.raises(LayoutError, match="columns of block 'other' are not understood"):
        world.cache.attention_shares(rows, {world.prompt: 0, world.own: 1})
    for bad in (-1, 0.5, np.zeros(3, dtype=int)):
        with pytest.raises(LayoutError, match="columns of block 'other'"):
            world.cache.attention_shares(rows, {world.prompt: 0, world.own: 1, world.other: bad})
    fork = world.prompt.fork("fork")
    rows = [Row((world.prompt, fork, world.cache.new_block()), (7,))]
    world.cache.forward(rows)
    with pytest.raises(LayoutError, match="block 'fork' shares keys with another block"):
        world.cache.attention_shares(rows)
    both = {world.prompt: 0, fork: 0, rows[0].own: 1}
    assert np.abs(world.cache.attention_shares(rows, both).sum(axis=-1) - 1).max() < 1e-5
