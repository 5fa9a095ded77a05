"""Attention over shared blocks in torch, against the flat oracle: each view as one re-encoded sequence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from hogwild.backends.base import LayerSpec  # noqa: E402
from hogwild.backends.cuda import device_plan  # noqa: E402
from hogwild.backends.cuda.angles import AngleTables  # noqa: E402
from hogwild.backends.cuda.attention import SharedPass  # noqa: E402
from hogwild.backends.cuda.device_plan import to_device_plan  # noqa: E402
from hogwild.backends.cuda.pool import KVPool  # noqa: E402
from hogwild.core.blocks import Block  # noqa: E402
from hogwild.core.plan import Row, build_plan  # noqa: E402
from hogwild.core.pool import PagePool  # noqa: E402
from hogwild.core.rotary import NO_ROTARY, RotarySpec  # noqa: E402
from tests.oracle import Vectors, flat_attention, rope  # noqa: E402

VOCAB = 50
HALF = RotarySpec((1.0, 0.3, 0.05, 0.001), "half")
SPECS = {
    "half": HALF,
    "interleaved": RotarySpec(HALF.inv_freq, "interleaved"),
    "partial": RotarySpec((0.7, 0.02), "half"),
    "at the end": RotarySpec((0.7, 0.02), "interleaved", start=4),
    "yarn": RotarySpec(HALF.inv_freq, "half", factor=1.3),
    "backwards": RotarySpec(tuple(-f for f in HALF.inv_freq), "half"),
    "none": NO_ROTARY,
}


class Bench:
    """One attention layer over blocks, each output compared with the oracle. Dead slots: NaN keys, large values."""

    def __init__(
        self, spec: RotarySpec, dtype: Any, heads: int = 4, kv_heads: int = 2, window: int | None = None
    ) -> None:
        self.vectors = Vectors.random(0, VOCAB, heads, kv_heads, 8, 6)
        self.layer = LayerSpec(spec, kv_heads, 8, 6, window)
        self.dtype, self.heads, self.worst = dtype, heads, 0.0
        device = torch.device("cpu")
        self.pages, self.pool = PagePool(4, page_size=4), KVPool([self.layer], dtype, device)
        self.tables = AngleTables([self.layer], dtype, device)
        self.rng = np.random.default_rng(1)

    def block(self) -> Block:
        return Block(self.pages)

    def tokens(self, count: int) -> tuple[int, ...]:
        return tuple(self.rng.integers(0, VOCAB, count).tolist())

    def run(self, *groups: Sequence[Row]) -> None:
        """One pass; remembers the largest deviation from the oracle."""
        rows = [row for group in groups for row in group]
        slots = [[row.own.append(row.token_ids) for row in group] for group in groups]
        plan = build_plan(groups, self.pages.num_slots, slots)
        self._reserve(plan.num_slots)
        q, k = (rope(x[plan.token_ids], plan.positions, self.layer.rotary) for x in (self.vectors.q, self.vectors.k))
        current = SharedPass(to_device_plan(plan, self.heads, 8, self.tables), self.pool, [self.layer], self.tables)
        module = torch.nn.Module()
        module.layer_idx = 0
        v = self.vectors.v[plan.token_ids]
        got = current.attend(module, *(self._tensor(x) for x in (q, k, v)), None, {"scaling": 8**-0.5})[0]
        expected = [
            flat_attention(
                self.vectors,
                [block.token_ids.tolist() for block in row.view],
                len(row.token_ids),
                self.layer.rotary,
                self.layer.window,
            )
            for row in rows
            if row.token_ids
        ]
        self.worst = max(self.worst, float(np.abs(got.double().numpy() - np.concatenate(expected)).max()))
        assert np.isfinite(self.worst)

    def _tensor(self, x: Any) -> Any:
        return torch.from_numpy(x).transpose(0, 1)[None].to(self.dtype)

    def _reserve(self, num_slots: int) -> None:
        before = self.pool.keys[0].shape[1]
        self.pool.reserve(num_slots)
        self.pool.keys[0][:, before:] = float("nan")
        self.pool.values[0][:, before:] = 1e4


def play(bench: Bench, workers: int, prompt: int) -> None:
    """A session: a prompt, headers, ragged passes, a separator twice in each view, steps that are published."""
    common, separator = bench.block(), bench.block()
    own, header = ([bench.block() for _ in range(workers)] for _ in range(2))
    bench.run([Row((common,), bench.tokens(prompt))])
    bench.run([Row((common, separator), bench.tokens(3))])
    bench.run([Row((common, header[w]), bench.tokens(w + 1)) for w in range(workers)])

    def view(w: int) -> tuple[Block, ...]:
        others = [part for o in range(workers) if o != w for part in (own[o], separator)]
        return (common, header[w], *others, own[w])

    for number in range(12):
        counts = [(5 if (number + w) % 4 == 0 else (number + w) % 3) for w in range(workers)]
        if any(counts):
            bench.run([Row(view(w), bench.tokens(count)) for w, count in enumerate(counts)])
        if number % 3 == 2:
            common.link(own[number % workers])


@pytest.mark.parametrize("prompt", [1, 37, 300])
@pytest.mark.parametrize("name", SPECS)
def test_views_are_what_flat_sequences_are(name: str, prompt: int) -> None:
    for workers in (1, 2, 3):
        bench = Bench(SPECS[name], torch.float64)
        play(bench, workers, prompt)
        assert bench.worst < 1e-10


@pytest.mark.parametrize("window", [1, 7, 150])
def test_sliding_windows(window: int) -> None:
    bench = Bench(HALF, torch.float64, window=window)
    play(bench, 3, 200)
    assert bench.worst < 1e-10


@pytest.mark.parametrize(("heads", "kv_heads"), [(1, 1), (6, 6), (6, 1), (10, 2)])
def test_grouped_queries(heads: int, kv_heads: int) -> None:
    bench = Bench(HALF, torch.float64, heads, kv_heads)
    play(bench, 2, 140)
    assert bench.worst < 1e-10


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float16", 5e-3), ("bfloat16", 5e-2)])
def test_other_dtypes(dtype: str, tolerance: float) -> None:
    bench = Bench(HALF, getattr(torch, dtype))
    play(bench, 3, 300)
    assert bench.worst < tolerance


@pytest.mark.parametrize("kept", [0, 1 << 26])
def test_tokens_are_attended_in_chunks_of_bounded_memory(monkeypatch: pytest.MonkeyPatch, kept: int) -> None:
    monkeypatch.setattr(device_plan, "MAX_CHUNK", 8000)
    monkeypatch.setattr(device_plan, "MAX_KEPT", kept)
    bench = Bench(HALF, torch.float64, window=90)
    play(bench, 3, 200)
    assert bench.worst < 1e-10


def test_several_sessions_in_one_pass() -> None:
    bench = Bench(HALF, torch.float64)
    prompts = [bench.block() for _ in range(3)]
    owns = [[bench.block() for _ in range(2)] for _ in range(3)]
    bench.run(*([Row((prompt,), bench.tokens(count))] for prompt, count in zip(prompts, (20, 1, 150), strict=True)))
    for _ in range(5):
        bench.run(
            *(
                [Row((prompt, b, a), bench.tokens(2)), Row((prompt, a, b), bench.tokens(1))]
                for prompt, (a, b) in zip(prompts, owns, strict=True)
            )
        )
    assert bench.worst < 1e-10


def test_hundreds_of_published_steps() -> None:
    bench = Bench(HALF, torch.float64)
    common, own = bench.block(), bench.block()
    for count in range(200):
        bench.run([Row((common, own), bench.tokens(1 + count % 9))])
        common.link(own)
    assert bench.worst < 1e-10
    assert common.num_runs == 200


def test_a_broken_token_reaches_those_who_see_it_and_nobody_else() -> None:
    """NaN in one row's V: the other row, which does not see it, must not change by a bit."""
    device, layer = torch.device("cpu"), LayerSpec(HALF, 2, 8, 6)
    tables, outputs = AngleTables([layer], torch.float32, device), []
    for bad in (0.0, float("nan"), float("inf")):
        torch.manual_seed(0)
        pages, pool = PagePool(8, page_size=4), KVPool([layer], torch.float32, device)
        pool.reserve(pages.num_slots)
        first, second = Block(pages), Block(pages)
        rows = [Row((first,), (1, 2)), Row((second,), (3, 4))]
        plan = build_plan([rows], pages.num_slots, [[row.own.append(row.token_ids) for row in rows]])
        q, k, v = (torch.randn(1, heads, 4, dim) for heads, dim in ((4, 8), (2, 8), (2, 6)))
        v[0, 1, 0, 3] = v[0, 1, 0, 3] + bad
        module = torch.nn.Module()
        module.layer_idx = 0
        shared = SharedPass(to_device_plan(plan, 4, 8, tables), pool, [layer], tables)
        outputs.append(shared.attend(module, q, k, v, None, {"scaling": 0.3})[0])
    good, *broken = outputs
    for output in broken:
        assert torch.isnan(output[:2]).any(-1).all(), "its readers must become NaN"
        assert torch.equal(output[2:], good[2:]), "another worker's bits changed"
