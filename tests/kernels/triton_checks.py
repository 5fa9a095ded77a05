"""Checks of the Triton kernels, the same in the interpreter and on a GPU; `test_triton_interpreted.py` runs them.

A file of their own, run in a process of its own: whether Triton interprets is settled when it is first imported.
HOGWILD_CASES: how many generated cases (the default fits CI; 6000 take an hour in the interpreter).
"""

from __future__ import annotations

import functools
import importlib.util
import itertools
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hogwild.backends.base import LayerSpec
from hogwild.backends.cuda.kernels import attend as attend_module
from hogwild.backends.cuda.kernels import attention as attention_module
from hogwild.backends.cuda.kernels.attention import KernelAttention
from hogwild.backends.cuda.kernels.merge import merge
from hogwild.backends.cuda.kernels.rotation import Angles
from hogwild.backends.cuda.pool import KVPool
from hogwild.conformance.cases import AttentionCase, KVDtype, attention_case
from hogwild.conformance.kit.schedule import PARTS as SCHEDULES
from hogwild.conformance.verdict import typical_ratio
from hogwild.core.blocks import Block
from hogwild.core.plan import Row, build_plan
from hogwild.core.pool import PagePool
from hogwild.core.rotary import MAX_OFFSET, NO_ROTARY, RotarySpec, exact_angles
from tests.kernels.kernel_run import DEVICE, Layer, call_arguments, kernels_for, num_steps, run_case, to_numpy, verdict
from tests.metal.made_case import made_case

if DEVICE == "cpu":
    from tests.kernels.quick_interpreter import make_quick

    make_quick()

NUM_CASES = int(os.environ.get("HOGWILD_CASES", "304"))
PARTS = 8
MAX_STEPS, MAX_WORK = (20, 5e4) if DEVICE == "cpu" else (np.inf, np.inf)


def affordable(part: int = 0, parts: int = 1) -> Iterator[tuple[int, AttentionCase, dict[str, int]]]:
    """Generated cases that the interpreter gets through, each with some way to cut it; a quarter of them in 8 bits."""
    for seed in itertools.count(part, parts):
        rng = np.random.default_rng(seed)
        # 16 is the least that a product on tensor cores takes.
        tile, max_rows, num_items = (int(rng.choice(among)) for among in ((16, 16, 32), (16, 32, 64), (1, 2, 5, 9)))
        kv_dtype: KVDtype = "int8" if rng.random() < 0.25 else "auto"
        case = attention_case(seed, max_length=40, max_work=MAX_WORK, kv_dtype=kv_dtype)
        if num_steps(case, tile, max_rows) <= MAX_STEPS:
            yield seed, case, {"tile": tile, "max_rows": max_rows, "num_items": num_items}


@pytest.mark.parametrize("part", range(PARTS))
def test_generated_cases(part: int) -> None:
    mine = itertools.islice(affordable(part, PARTS), -(-NUM_CASES // PARTS))
    found = [verdict(case, by_block=seed % 3 == 0, **cut) for seed, case, cut in mine]
    assert [(verdict.case, verdict.problems) for verdict in found if not verdict.passed] == []
    assert typical_ratio(found) <= 1


def check(**changes: Any) -> None:
    case = made_case(**{"new_tokens": (3, 1), "shared": (20, 5), "kv_heads": 1, **changes})
    assert not verdict(case, tile=16, num_items=3).problems


@pytest.mark.parametrize("dim", [8, 40, 72, 104, 200, 256])
def test_head_dims(dim: int) -> None:
    check(key_dim=dim, value_dim=dim)


@pytest.mark.parametrize("dims", [(8, 256), (192, 128), (64, 72)])
def test_keys_and_values_of_different_width(dims: tuple[int, int]) -> None:
    check(key_dim=dims[0], value_dim=dims[1], dtype="float16")


@pytest.mark.parametrize("group_size", [*range(1, 9), 12, 16, 17, 24, 31, 32, 71])
def test_group_sizes(group_size: int) -> None:
    check(group_size=group_size, shared=(20,), key_dim=16, value_dim=16)


@pytest.mark.parametrize("length", [0, 1, 15, 16, 17, 31, 32, 33])
def test_lengths_around_pages_and_tiles(length: int) -> None:
    check(shared=(length,), page_size=16)
    check(shared=(length, 0, length), page_size=32)


def test_many_short_blocks() -> None:
    check(shared=tuple(i % 5 for i in range(40)), page_size=4)


def test_a_block_that_stands_several_times_in_a_view() -> None:
    check(shared=(33, 2), repeat=3)


@pytest.mark.parametrize("new_tokens", [(0, 1), (1, 0, 0, 40), (33, 0, 1), (1,) * 8])
def test_rows_without_tokens_and_long_rows(new_tokens: tuple[int, ...]) -> None:
    check(new_tokens=new_tokens)


def test_two_sessions_in_one_pass() -> None:
    check(num_sessions=2)


@pytest.mark.parametrize("window", [1, 2, 15, 16, 17, 1 << 20])
def test_windows(window: int) -> None:
    check(window=window)


@pytest.mark.parametrize("softcap", [0.5, 30.0])
@pytest.mark.parametrize("loudness", [1.0, 1e6])
def test_soft_caps_and_loud_scores(softcap: float, loudness: float) -> None:
    check(softcap=softcap, loudness=loudness)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_scores_of_a_million(dtype: str) -> None:
    check(dtype=dtype, loudness=1e6 if dtype != "float16" else 1e4)


@pytest.mark.parametrize("sink", [-200.0, 0.0, 200.0])
def test_sinks(sink: float) -> None:
    check(sinks=sink)


@pytest.mark.parametrize("pairing", ["half", "interleaved"])
@pytest.mark.parametrize(("num_dims", "start"), [(64, 0), (32, 0), (32, 32), (18, 7), (2, 62)])
def test_rotations(pairing: str, num_dims: int, start: int) -> None:
    check(pairing=pairing, num_dims=num_dims, start=start)


def test_no_rotation() -> None:
    assert not verdict(replace(made_case(new_tokens=(2, 1)), rotary=NO_ROTARY), tile=16).problems


def test_the_tuned_parameters() -> None:
    for dtype in ("float32", "bfloat16"):
        for dim in (64, 128, 256):
            case = made_case(new_tokens=(1, 1), key_dim=dim, value_dim=dim, dtype=dtype, group_size=5, kv_heads=1)
            assert not verdict(case).problems


def test_dead_slots_reach_nobody() -> None:
    """The same bits whatever stands in slots that nobody holds."""
    case = made_case(new_tokens=(2, 1), page_size=16)
    answers = [run_case(_filled(case, filler), tile=16)[0] for filler in (np.nan, np.inf, 0.0)]
    assert np.isnan(case.keys).any()
    assert np.isfinite(answers[0]).all()
    assert all(np.array_equal(answer, answers[0]) for answer in answers)


def _filled(case: AttentionCase, filler: float) -> AttentionCase:
    keys, values = (np.where(np.isnan(x), np.float32(filler), x) for x in (case.keys, case.values))
    return replace(case, keys=keys, values=values)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_broken_token_reaches_those_who_see_it_and_nobody_else(bad: float) -> None:
    case = made_case(new_tokens=(2, 1), private=True)
    good = run_case(case, tile=16)[0]
    values = case.values.copy()
    values[1, case.plan.write_slots[0], 3] = bad
    broken = run_case(replace(case, values=values), tile=16)[0]
    assert np.isnan(broken[:2]).any(-1).all(), "its readers must become NaN"
    assert np.array_equal(broken[2:], good[2:]), "another worker's bits changed"


@pytest.mark.parametrize("kv_dtype", ["auto", "int8"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_writing_is_what_the_plain_path_writes(dtype: str, kv_dtype: str) -> None:
    layer = LayerSpec(NO_ROTARY, 3, 24, 40)
    pools = [KVPool([layer], getattr(torch, dtype), torch.device(DEVICE), kv_dtype) for _ in range(2)]
    torch.manual_seed(0)
    k, v = (torch.randn(5, 3, dim, device=DEVICE).to(pools[0].dtype).transpose(0, 1) for dim in (24, 40))
    v[2, 1, 7], v[0, 3, 0] = float("nan"), float("-inf")
    v[1, 2], v[2, 2] = 0, 1e-45
    k[1, 0, :7] = torch.tensor([127, 0.5, 1.5, 2.5, -0.5, -1.5, -126.5])
    k[2, 4, 3] = float("inf")
    slots = torch.tensor([9, 4, 17, 0, 30])
    for pool in pools:
        pool.reserve(32)
        for stored in (x for layer_pool in pool.stored(0) for x in (layer_pool.numbers, layer_pool.scales)):
            if stored is not None:
                stored.zero_()
    pools[0].write(0, slots.to(DEVICE), k, v)
    kernels = KernelAttention(pools[1], [layer], 3)
    # The last token only fills up the pass.
    kernels.tables.load(
        {name: np.zeros(0, np.int32) for name in attention_module.TABLES} | {"write_slots": slots.numpy()}
    )
    kernels.write(0, *(torch.cat([x, torch.full_like(x[:, :1], 7.0)], dim=1) for x in (k, v)))
    for expected, got in zip(pools[0].stored(0), pools[1].stored(0), strict=True):
        for x, y in ((expected.numbers, got.numbers), (expected.scales, got.scales)):
            assert x is y is None or torch.equal(_comparable(x), _comparable(y))


def _comparable(x: torch.Tensor) -> torch.Tensor:
    return x.nan_to_num(1e4)  # NaN equals nothing


def test_angles_are_exact() -> None:
    spec = RotarySpec(tuple(float(np.float32(5e5 ** -(i / 20))) for i in range(20)))
    angles, rng = Angles(spec, torch.device(DEVICE)), np.random.default_rng(0)
    offsets = np.concatenate([[0, -MAX_OFFSET, MAX_OFFSET], rng.integers(-MAX_OFFSET, MAX_OFFSET, 200)])
    angles.reserve(len(offsets) + 5)
    angles.values.fill_(7.0)
    table = torch.zeros(len(offsets) + 5, dtype=torch.int32, device=DEVICE)
    table[: len(offsets)] = torch.from_numpy(offsets)
    angles.compose(table, torch.tensor([len(offsets)], dtype=torch.int32, device=DEVICE))
    exact = np.stack(exact_angles(offsets, spec), axis=1)
    assert np.abs(to_numpy(angles.values[: len(offsets)]) - exact).max() < 1e-7
    assert (angles.values[len(offsets) :] == 7.0).all()


@pytest.mark.parametrize("has_sinks", [False, True])
@pytest.mark.parametrize("num_items", [0, 1, 16, 37])
def test_merge(num_items: int, has_sinks: bool) -> None:
    """Two tokens, the second at the second place of its chunk; some parts are empty, one more belongs to neither."""
    rng, kv_heads, group, dim = np.random.default_rng(num_items), 2, 3, 24
    lse = rng.standard_normal((num_items + 1, kv_heads, 2 * group)) * 30
    lse[rng.random(lse.shape) < 0.2] = -np.inf
    parts = rng.standard_normal((*lse.shape, dim))
    parts[np.isneginf(lse)] = np.nan
    sinks = rng.standard_normal(kv_heads * group).astype(np.float32)
    tokens = torch.tensor([[0, 0, 0, 0, num_items], [0, 0, 1, 0, num_items]], dtype=torch.int32, device=DEVICE)
    order = torch.from_numpy(rng.permutation(num_items).astype(np.int32)).to(DEVICE)
    out = torch.full((2, kv_heads * group, dim), 7.0, device=DEVICE)
    given = (torch.from_numpy(x.astype(np.float32)).to(DEVICE) for x in (parts, lse, sinks))
    merge[(2, kv_heads * group)](
        tokens,
        order,
        *given,
        out,
        kv_heads * group,
        GROUP=group,
        ROWS=2 * group,
        KV_HEADS=kv_heads,
        VALUE_DIM=dim,
        BLOCK_VALUE=32,
        BLOCK_ITEMS=16,
        BLOCK_HEADS=1,
        HAS_SINKS=has_sinks,
    )
    lse, parts = (x.astype(np.float32).astype(np.float64)[:num_items] for x in (lse, np.nan_to_num(parts)))
    shaped = [x.reshape(num_items, kv_heads, 2, group, *x.shape[3:]).swapaxes(1, 2) for x in (lse, parts)]
    lse, parts = (x.reshape(num_items, 2, kv_heads * group, *x.shape[4:]) for x in shaped)
    total = np.logaddexp.reduce(lse, axis=0, initial=-np.inf)
    total = np.logaddexp(total, sinks) if has_sinks else total
    with np.errstate(invalid="ignore"):
        weights = np.nan_to_num(np.exp(lse - total))
    expected = (weights[..., None] * parts).sum(0)
    assert np.abs(to_numpy(out) - expected).max() <= 1e-5


def lone_prefill(prompt: int, new: int, dtype: str = "float32") -> AttentionCase:
    """A row that appends to its own block, which lies in one piece."""
    pool = PagePool(8, page_size=64)
    own = Block(pool)
    own.append([0] * prompt)
    row = Row((own,), (1,) * new)
    plan = build_plan([[row]], pool.num_slots, [[own.append(row.token_ids)]])
    case = made_case(shared=(1,), new_tokens=(1,), dtype=dtype, group_size=3)  # type: ignore[arg-type]
    rng, slots = np.random.default_rng(0), np.unique(plan.groups[0].column_slots)
    stored = np.full((2, 2, plan.num_slots, 64), np.nan, np.float32)
    stored[:, :, slots] = rng.standard_normal((2, 2, len(slots), 64), dtype=np.float32)
    queries = rng.standard_normal((new, 6, 64), dtype=np.float32)
    return replace(case, groups=((row,),), plan=plan, queries=queries, keys=stored[0], values=stored[1])


@pytest.mark.parametrize(("prompt", "new"), [(0, 70), (37, 70)])
def test_a_lone_prefill_is_torchs_own_attention(prompt: int, new: int, monkeypatch: pytest.MonkeyPatch) -> None:
    case = lone_prefill(prompt, new)
    assert not verdict(case, tile=64, max_rows=256).problems
    with monkeypatch.context() as patch:
        patch.setattr(KernelAttention, "read", None)
        assert not verdict(case).problems
    assert not verdict(replace(case, kv_dtype="int8")).problems
    capped = replace(case, softcap=5.0)  # which torch's own attention does not know
    assert not verdict(capped, tile=64, max_rows=256, num_items=2).problems


def test_only_a_lone_prefill_is_no_pass_for_a_graph() -> None:
    for new, is_one in ((70, False), (30, True)):
        case = lone_prefill(0, new)
        kernels = kernels_for(case)
        kernels.load(case.plan)
        assert (kernels.shape_key is not None) == is_one


def test_a_pass_that_is_filled_up_reads_and_writes_the_same() -> None:
    case = made_case(new_tokens=(2, 1))
    kernels, (q, k, v, options) = kernels_for(case, tile=16), call_arguments(case)
    kernels.load(case.plan)
    plain = kernels.start().attend(Layer(), q, k, v, None, options)
    pool = [x.clone() for x in (kernels.pool.keys[0], kernels.pool.values[0])]
    kernels.load(case.plan, num_tokens=8)
    assert kernels.token_ids.shape == kernels.positions.shape == (1, 8)
    q, k, v = (torch.cat([x, torch.full_like(x[:, :, :1], 3.0).expand(-1, -1, 5, -1)], dim=2) for x in (q, k, v))
    filled = kernels.start().attend(Layer(), q, k, v, None, options)
    assert torch.equal(filled[:, :3], plain)
    assert not filled[:, 3:].any()
    for before, after in zip(pool, (kernels.pool.keys[0], kernels.pool.values[0]), strict=True):
        assert torch.equal(before.nan_to_num(7.0), after.nan_to_num(7.0))


@pytest.mark.skipif(DEVICE != "cpu", reason="products are replaced by exact ones in the interpreter")
def test_with_fixed_cuts_the_schedule_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Statement L0, but for what the rows of one matrix product do to each other; without fixed cuts it fails."""
    monkeypatch.setattr(np, "matmul", lambda a, b, dtype: np.einsum("ij,jk->ik", a.astype(float), b).astype(dtype))
    case = made_case(new_tokens=(3, 1), shared=(40, 5), kv_heads=1, window=7, kv_dtype="int8")
    for span in (0, 2):
        how = {"span": span, "tile": 16, "max_rows": 16, "num_items": 3}
        first, passes = run_case(case, **how)[0], itertools.chain(*(part(case) for part in SCHEDULES.values()))
        changed = any(run_case(given, **how)[0].tobytes() != first[tokens].tobytes() for tokens, given in passes)
        assert changed == (span == 0)


FAULTS = {
    "a key too many in a window": ("distance < window", "distance <= window"),
    "a token does not see itself": ("distance >= 0", "distance > 0"),
    "dead values are read": ("mask=written[:, None] & (value_feature < VALUE_DIM)[None, :]", "mask=True"),
    "the last key of a range is left out": ("first_index + 1)", "first_index)"),
    "a window begins where no key of another shift would stand between": (
        "nearest - (last_index - num_keys + 1)",
        "nearest - first_index",
    ),
    "the index of another key": ("column_index + column + here + TILE,", "column_index + column + nth,"),
    "a window begins too late": ("start // TILE * TILE", "start // TILE * TILE + 1"),
    "turned the wrong way": ("first[None, :], -sin, sin", "first[None, :], sin, -sin"),
    "not turned": ("x = x * cos + ", "x = x + 0 * "),
    "the sum is not shrunk": ("total * shrink +", "total +"),
    "the output is not shrunk": ("out * shrink[:, None]", "out"),
    "the slots of the tile before": ("mask=here + TILE < end", "mask=here + TILE < 0"),
    "log-sum-exp in the wrong base": ("most * LN_2", "most"),
    "query heads of one kv head mixed up": ("row % GROUP) * head_stride", "(row + 1) % GROUP) * head_stride"),
    "a key's scale is left out": (
        "scores *= tl.load(key_scales + slot",
        "scores *= 1.0 + 0.0 * tl.load(key_scales + slot",
    ),
    "the unit of values is not shrunk": ("shrink *= unit / new_unit", "shrink *= 1.0"),
    "the scales of the kv head before": ("value_scales += head.to(tl.int64) * num_slots", "value_scales += 0"),
}


@pytest.mark.skipif(DEVICE != "cpu", reason="the checks are proven in the interpreter")
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_the_kernel_is_caught(fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, (right, wrong) = Path(attend_module.__file__).read_text(encoding="utf-8"), FAULTS[fault]
    assert right in source
    path = tmp_path / "faulty_attend.py"
    path.write_text(source.replace(right, wrong), encoding="utf-8")
    spec = importlib.util.spec_from_file_location("faulty_attend", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert _right_without_faults()
    monkeypatch.setattr(attention_module, "attend", module.attend)
    assert _found()


@functools.cache
def _right_without_faults() -> bool:
    return not _found()


def _louder_and_louder(case: AttentionCase) -> AttentionCase:
    """In 8 bits, with values that grow from slot to slot."""
    growth = np.linspace(1, 4, case.values.shape[1], dtype=np.float32)
    return replace(case, values=case.values * growth[:, None], kv_dtype="int8")


def _found() -> bool:
    """Whether something is wrong, with one tile for an item or with many."""
    cases = [made_case(new_tokens=new, window=window, page_size=64) for new in ((3, 1), (2,)) for window in (20, None)]
    cases.append(made_case(steps=24, new_tokens=(2,), window=70, page_size=64))
    cases.append(_louder_and_louder(made_case(new_tokens=(1,), shared=(40,), group_size=1)))
    return any(verdict(case, tile=16, num_items=num_items).problems for case in cases for num_items in (3, 1))
