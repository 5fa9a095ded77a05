"""Generated cases: the same for everybody, of every kind that may occur."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
from plain_checks import plain_case

from hogwild.conformance.cases import AttentionCase, attention_case, rounded

NUM_CASES = 1500  # of those that each plain backend answers: numbers are drawn one by one, so any part is a sample
PRIMES = {7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67}


@pytest.fixture(scope="module")
def counts() -> Counter[str]:
    return Counter(trait for seed in range(NUM_CASES) for trait in traits(plain_case(seed)))


def traits(case: AttentionCase) -> Iterator[str]:
    """What a case has, in words; each at most once."""
    yield case.dtype if case.kv_dtype == "auto" else "K/V in 8 bits"
    yield f"up to 10^{int(np.ceil(np.log10(work(case))))} products"
    yield f"head dim {case.keys.shape[2]}"
    yield f"group size {case.queries.shape[1] // case.keys.shape[0]}"
    yield f"pairing {case.rotary.pairing}" if case.rotary.num_dims else "no rotation"
    for name in ("window", "softcap", "sinks"):
        if getattr(case, name) is not None:
            yield name
    if case.keys.shape[2] != case.values.shape[2]:
        yield "values of another width"
    if 0 < case.rotary.num_dims < case.keys.shape[2]:
        yield "partial rotation"
    yield f"{len(case.plan.groups)} groups"
    yield from set(_traits_of_views(case))
    yield from _traits_of_numbers(case)


def work(case: AttentionCase) -> int:
    """Multiplications for the scores."""
    pairs = sum(group.num_tokens * group.num_columns for group in case.plan.groups)
    return pairs * case.queries.shape[1] * case.queries.shape[2]


def _traits_of_views(case: AttentionCase) -> Iterator[str]:
    page = case.groups[0][0].own.pool.page_size
    yield f"page size {page}"
    for rows, group in zip(case.groups, case.plan.groups, strict=True):
        yield f"{len(rows)} workers"
        brought = {len(row.token_ids) for row in rows}
        yield "ragged rows" if len(brought - {0}) > 1 else "even rows"
        yield "a row without tokens" if 0 in brought else "all rows bring tokens"
        blocks = {block for row in rows for block in row.view}
        for block in blocks:
            length = len(block)
            yield f"length {length}" if length < 2 else "longer"
            if length in (page - 1, page + 1):
                yield "length next to a page"
            if length in PRIMES:
                yield "prime length"
        for row in rows:
            yield f"up to {2 ** int(np.ceil(np.log2(len(row.view))))} blocks in a view"
            if len(set(row.view)) < len(row.view):
                yield "a block twice in a view"
        holders = Counter(page for block in blocks for page in block.page_ids)
        if max(holders.values(), default=0) > 1:
            yield "a page shared by two blocks"
        if max(block.num_runs for block in blocks) > 9:
            yield "many published steps"
        if group.offsets.max() > 2**20 - 40000:
            yield "offset near +2^20"
        if group.offsets.min() < -(2**20 - 40000):
            yield "offset near -2^20"
        if ((group.offsets < 0) & (group.offsets > -1000)).any():
            yield "a small turn backwards"


def _traits_of_numbers(case: AttentionCase) -> Iterator[str]:
    if np.isnan(case.keys).any():
        yield "dead slots"
    loudest = np.linalg.norm(case.queries, axis=-1).max() * np.nanmax(np.linalg.norm(case.keys, axis=-1)) * case.scale
    if loudest > 1000:
        yield "scores beyond 1e5" if loudest > 1e5 else "scores beyond 1e3"


WANTED = [
    *(
        "float32",
        "float16",
        "bfloat16",
        "K/V in 8 bits",
        "window",
        "softcap",
        "sinks",
        "dead slots",
        "values of another width",
    ),
    *(f"head dim {dim}" for dim in (8, 16, 24, 32, 40, 56, 64, 72, 80, 96, 112, 128, 136, 192, 256)),
    *(f"group size {size}" for size in (1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 24, 32)),
    *(f"page size {size}" for size in (1, 2, 3, 4, 8, 16, 32, 64)),
    *(f"{count} workers" for count in range(1, 9)),
    *(f"{count} groups" for count in (1, 2, 3)),
    *("pairing half", "pairing interleaved", "no rotation", "partial rotation"),
    *("length 0", "length 1", "length next to a page", "prime length"),
    *(f"up to {count} blocks in a view" for count in (1, 2, 4, 8, 16, 32, 64)),
    *("a block twice in a view", "a page shared by two blocks", "many published steps", "a small turn backwards"),
    *("ragged rows", "a row without tokens", "offset near +2^20", "offset near -2^20"),
    *("scores beyond 1e3", "scores beyond 1e5"),
    *(f"up to 10^{power} products" for power in (4, 5, 6, 7, 8)),
]


@pytest.mark.parametrize("trait", WANTED)
def test_every_kind_of_case_is_drawn(trait: str, counts: Counter[str]) -> None:
    assert counts[trait] >= 8, f"{counts[trait]} of {NUM_CASES} cases"


def test_a_case_is_the_same_whenever_it_is_drawn() -> None:
    for seed in range(20):
        one, two = attention_case(seed), attention_case(seed)
        for name in ("queries", "keys", "values"):
            assert getattr(one, name).tobytes() == getattr(two, name).tobytes()
        assert one.plan.write_slots.tolist() == two.plan.write_slots.tolist()


def test_a_dtype_changes_the_numbers_only() -> None:
    for seed in range(10):
        cases = [attention_case(seed, dtype=dtype) for dtype in ("float32", "float16", "bfloat16")]
        assert len({case.keys.shape for case in cases}) == 1
        for case in cases:
            assert rounded(case.keys, case.dtype).tobytes() == case.keys.tobytes()


def test_bfloat16_is_rounded_to_the_nearest_even() -> None:
    x = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    x = np.concatenate([x, np.float32([1 + 2**-8, 1 + 3 * 2**-8, 0, np.nan, np.inf])])
    mantissa, exponent = np.frexp(x.astype(np.float64))
    np.testing.assert_array_equal(rounded(x, "bfloat16"), np.ldexp(np.rint(mantissa * 256) / 256, exponent))
