"""Products in C++ against torch operations over published steps, and what happens where there is no compiler."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from hogwild.backends.base import LayerSpec  # noqa: E402
from hogwild.backends.cuda import backend as backend_module  # noqa: E402
from hogwild.backends.cuda.angles import AngleTables  # noqa: E402
from hogwild.backends.cuda.attention import SharedPass  # noqa: E402
from hogwild.backends.cuda.device_plan import to_device_plan  # noqa: E402
from hogwild.backends.cuda.native.products import BuildError, Products, has_products  # noqa: E402
from hogwild.backends.cuda.pool import KVPool  # noqa: E402
from hogwild.backends.options import LoadOptions  # noqa: E402
from hogwild.core.blocks import Block  # noqa: E402
from hogwild.core.plan import ForwardPlan, Row, build_plan  # noqa: E402
from hogwild.core.pool import PagePool  # noqa: E402
from hogwild.core.rotary import NO_ROTARY, RotarySpec  # noqa: E402

CPU = torch.device("cpu")
INV_FREQ = tuple(0.9 / 1.7**i for i in range(8))
SPECS = {
    "half": RotarySpec(INV_FREQ, "half"),
    "interleaved": RotarySpec(INV_FREQ, "interleaved"),
    "at the end": RotarySpec(INV_FREQ, "half", start=16),
    "none": NO_ROTARY,
}


@pytest.fixture(scope="module")
def products() -> Products:
    if not any(map(shutil.which, ("c++", "g++", "clang++"))):
        pytest.skip("no C++ compiler")
    return Products()


def plan_over_steps(pages: PagePool, rng: np.random.Generator, num_steps: int, workers: int) -> ForwardPlan:
    """Published steps of 1 to 40 tokens, one of them seen by the first worker alone, and ragged rows of all workers."""
    common, other = Block(pages), Block(pages)
    for _ in range(num_steps):
        step = Block(pages)
        step.append(tuple(rng.integers(0, 9, int(rng.integers(1, 41))).tolist()))
        common.link(step)
    other.append((1, 2, 3))
    own = [Block(pages) for _ in range(workers)]
    for block in own:
        block.append(tuple(range(int(rng.integers(1, 20)))))
    rows = [
        Row(
            ((common, other) if w == 0 else (common,)) + tuple(b for b in own if b is not block) + (block,),
            (4,) * (1 + w % 3),
        )
        for w, block in enumerate(own)
    ]
    return build_plan([rows], pages.num_slots, [[row.own.append(row.token_ids) for row in rows]])


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", SPECS)
def test_products_are_those_of_torch(products: Products, name: str, threads: int) -> None:
    rng, before = np.random.default_rng(len(name)), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for workers, heads, kv_heads, window in ((1, 3, 3, None), (2, 6, 2, 30), (3, 7, 1, None), (5, 2, 1, None)):
            torch.manual_seed(workers)
            pages = PagePool(8)
            plan = plan_over_steps(pages, rng, 12 * workers, workers)
            layer = LayerSpec(SPECS[name], kv_heads, 32, 16 * workers, window)
            tables, pool = AngleTables([layer], torch.float32, CPU), KVPool([layer], torch.float32, CPU)
            pool.reserve(plan.num_slots)
            written = torch.from_numpy(np.unique(plan.groups[0].column_slots).astype(np.int64))
            pool.keys[0][:] = float("nan")  # what nobody wrote is never read
            pool.keys[0][:, written] = torch.randn(kv_heads, len(written), 32)
            pool.values[0][:, written] = torch.randn(kv_heads, len(written), 16 * workers)
            shapes = [
                (1, count, plan.num_tokens, dim)
                for count, dim in ((heads, 32), (kv_heads, 32), (kv_heads, 16 * workers))
            ]
            q, k, v = map(torch.randn, shapes)
            options = {"scaling": 0.4, "softcap": 3.0 if workers == 2 else None}
            options["s_aux"] = torch.randn(heads) if workers == 3 else None
            module = torch.nn.Module()
            module.layer_idx = 0
            answers = []
            for given in (None, products):
                ready = to_device_plan(plan, heads, 32, tables, by_run=given is not None)
                assert (ready.groups[0].runs is None) == (given is None)
                current = SharedPass(ready, pool, [layer], tables, products=given)
                answers.append(current.attend(module, q, k, v, None, options))
            torch.testing.assert_close(answers[1], answers[0], atol=2e-5, rtol=1e-4)
    finally:
        torch.set_num_threads(before)


def test_where_they_serve() -> None:
    layer = LayerSpec(SPECS["half"], 2, 32, 16)
    assert has_products([layer], torch.float32, CPU, "auto")
    assert not has_products([layer], torch.bfloat16, CPU, "auto")
    assert not has_products([layer], torch.float32, CPU, "int8")
    assert not has_products([LayerSpec(NO_ROTARY, 2, 40, 16)], torch.float32, CPU, "auto")


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(BuildError, match="no C\\+\\+ compiler"):
        Products()
    layer = LayerSpec(SPECS["half"], 2, 32, 16)
    found, why = backend_module._products([layer], torch.zeros(1), LoadOptions(compile=True))
    assert found is None
    assert "no C++ compiler" in why
    broken = tmp_path / "g++"
    broken.write_text("#!/bin/sh\necho 'it cannot' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    monkeypatch.setenv("CXX", str(broken))
    with pytest.raises(BuildError, match="it cannot"):
        Products()
