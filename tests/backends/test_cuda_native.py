"""The C++ kernels: generated cases on several threads, the edge of memory, few rows, and no compiler."""

from __future__ import annotations

import ctypes
import mmap
import platform
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from contract import CASES, CHECKS  # noqa: E402

from hogwild.backends.cuda import TorchBackend, choice  # noqa: E402
from hogwild.backends.cuda.native import attention as native_attention  # noqa: E402
from hogwild.backends.cuda.native.compiler import BuildError, find_compiler  # noqa: E402
from hogwild.backends.cuda.native.library import Library, shared_library  # noqa: E402
from hogwild.backends.cuda.native.linear import MOST, few_rows  # noqa: E402
from hogwild.backends.cuda.native.turns import find_turns  # noqa: E402
from hogwild.backends.cuda.pool import KVPool  # noqa: E402
from hogwild.backends.options import LoadOptions  # noqa: E402
from hogwild.cache import SharedCache  # noqa: E402
from hogwild.conformance import native  # noqa: E402
from hogwild.conformance.cases import AttentionCase, attention_case  # noqa: E402
from hogwild.conformance.kit.schedule import PARTS, rejoined  # noqa: E402
from hogwild.conformance.native import native_answer  # noqa: E402
from hogwild.conformance.torch_pool import case_pool  # noqa: E402
from hogwild.conformance.verdict import judge, typical_ratio  # noqa: E402
from hogwild.core.frame import UNSEEN  # noqa: E402
from hogwild.core.plan import Row  # noqa: E402
from hogwild.core.work import cut_work  # noqa: E402
from hogwild.errors import ModelRefused, OptionError  # noqa: E402
from tests.backends.cuda_models import load_folder  # noqa: E402
from tests.backends.test_cuda_contract import SUBJECT, poisoned  # noqa: E402

AUTO = LoadOptions(device="cpu")
KERNEL, PLAIN = (replace(AUTO, attention=attention) for attention in ("kernel", "plain"))
SOURCES = Path(native_attention.__file__).parent
INSTEAD = "torch operations, not C++ kernels: "


@pytest.fixture(scope="module")
def library() -> Library:
    try:
        return shared_library()
    except BuildError as error:
        pytest.skip(str(error))


@pytest.fixture(params=[1, 2, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_generated_cases(library: Library, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Items cut anywhere, and chunks of few tokens; conformance/plain_checks.py has many more cases on one thread."""
    monkeypatch.setattr(native_attention, "TILE", 1 + 4 * threads)
    monkeypatch.setattr(native_attention, "MAX_ROWS", 8 * threads)
    verdicts = []
    for seed in range(threads, 90, 3):
        kv_dtype = "int8" if seed % 4 == 0 else "auto"
        case = attention_case(seed, max_length=40, max_work=1e5, kv_dtype=kv_dtype)
        verdicts.append(judge(case, native_answer(case), dtype="float32"))
    assert [(verdict.case, verdict.problems) for verdict in verdicts if not verdict.passed] == []
    assert typical_ratio(verdicts) <= 1


def test_the_schedule_changes_no_bit(library: Library, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Statement L0, with chunks of few tokens, and windows that hide whole runs from some of them."""
    monkeypatch.setattr(native_attention, "TILE", 8)
    monkeypatch.setattr(native_attention, "SPAN", (1, 100, 9)[threads - 1])
    for seed in range(threads, 45, 3):
        case = attention_case(seed, max_length=100, max_work=3e4, kv_dtype="int8" if seed % 4 == 0 else "auto")
        case = replace(case, window=(None, 3, 30, 64, 90)[seed % 5])
        monkeypatch.setattr(native_attention, "MAX_ROWS", 64)
        output = native_answer(case)
        monkeypatch.setattr(native_attention, "MAX_ROWS", 8)
        for name, passes in PARTS.items():
            np.testing.assert_array_equal(rejoined(case, passes(case), native_answer), output, name)


def fenced(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The same numbers, the last one just before memory that nobody may read."""
    page = mmap.PAGESIZE
    size = -(-array.nbytes // page) * page
    memory = mmap.mmap(-1, size + page)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(start + size), ctypes.c_size_t(page), 0) == 0
    held = np.frombuffer(memory, array.dtype, array.size, size - array.nbytes).reshape(array.shape)
    held[:] = array
    return held


@pytest.mark.parametrize("dim", [8, 16, 40, 64])
def test_nothing_behind_the_arrays_is_read(library: Library, dim: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read beyond K, V, queries or weights would end this process."""
    rng = np.random.default_rng(dim)
    x, weight = (fenced(rng.standard_normal((n, dim), dtype=np.float32)) for n in (3, 5))
    product = library.linear(torch.from_numpy(x), torch.from_numpy(weight), None)
    torch.testing.assert_close(product, torch.from_numpy(x @ weight.T), atol=1e-5, rtol=1e-5)
    drawn = (attention_case(seed, max_length=30, max_work=1e4) for seed in range(400))
    case = next(case for case in drawn if case.keys.shape[2] == case.values.shape[2] == dim)

    def fenced_pool(case: AttentionCase, device: torch.device) -> KVPool:
        pool = case_pool(case, device)
        for arrays in (pool.keys, pool.values):
            arrays[0] = torch.from_numpy(fenced(arrays[0][:, : pool.num_slots].contiguous().numpy()))
        return pool

    monkeypatch.setattr(native, "case_pool", fenced_pool)
    assert judge(case, native_answer(case), dtype="float32").passed


@pytest.mark.parametrize("bad", [None, float("nan"), float("inf"), float("-inf")])
def test_new_tokens_are_stored(library: Library, bad: float | None) -> None:
    pool, slots = torch.full((2, 8, 5), 9.0), torch.tensor([6, 1, 3])
    x = torch.randn(3, 2, 5).transpose(0, 1)  # strided, as a model hands it over
    if bad is not None:
        x[1, 2, 4] = bad
    expected = pool.clone()
    expected[:, slots] = x
    assert library.write(x, pool, slots) == (bad is None)
    torch.testing.assert_close(pool, expected, rtol=0, atol=0, equal_nan=True)
    by_features = torch.randn(5, 2, 3).permute(1, 2, 0)
    assert library.write(by_features, pool, slots)
    assert torch.equal(pool[:, slots], by_features)


def test_a_token_with_broken_values_gets_broken_keys(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    case = replace(attention_case(1, max_length=40, max_work=1e4), dtype="float32")
    broken, values = int(case.plan.write_slots[0]), case.values.copy()
    values[:, broken, 0] = np.nan
    pools: list[KVPool] = []
    monkeypatch.setattr(native, "case_pool", lambda *given: pools.append(case_pool(*given)) or pools[0])
    native_answer(replace(case, values=values))
    assert pools[0].keys[0][:, broken].isnan().all()
    assert pools[0].values[0][:, broken].isfinite().all()


@pytest.mark.parametrize("rows", [1, 3, 4, 5, 7, MOST])
@pytest.mark.parametrize("shape", [(5, 16), (64, 48), (3, 20)])
def test_products_of_few_rows(library: Library, rows: int, shape: tuple[int, int], threads: int) -> None:
    torch.manual_seed(rows)
    x, weight, bias = torch.randn(2, rows, shape[1]).transpose(0, 1), torch.randn(shape), torch.randn(shape[0])
    for given in (None, bias):
        torch.testing.assert_close(
            library.linear(x, weight, given), torch.nn.functional.linear(x, weight, given), atol=1e-5, rtol=1e-5
        )


def test_a_model_has_them_for_its_passes_alone(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    class Own(torch.nn.Linear):
        pass

    seen: list[int] = []
    true = library.linear
    monkeypatch.setattr(library, "linear", lambda x, *rest: (seen.append(len(x)), true(x, *rest))[1], raising=False)
    model = torch.nn.Sequential(torch.nn.Linear(16, 16), Own(16, 16), torch.nn.Linear(16, 16, dtype=torch.float64))
    layers = few_rows(model, library)
    for rows in (1, 2, 3, MOST, MOST + 1):
        x = torch.randn(rows, 16)
        expected = model[0](x)
        with layers.applied():
            torch.testing.assert_close(model[1](model[0](x)), model[1](expected))
            assert model[2](x.double()).dtype == torch.float64
    assert seen == [1, 2, 3, MOST]
    assert not any("forward" in module.__dict__ for module in model)


def fetches(folder: Path) -> dict[str, int]:
    """How often the machine code of attention fetches to each level of the cache."""
    try:
        find_compiler().build(folder, folder / "attend.s", "-S")
    except BuildError as error:
        pytest.skip(str(error))
    code = (folder / "attend.s").read_text()
    return {level: len(re.findall(rf"\bprefetch{level}\b", code)) for level in ("t0", "t1")}


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="counts instructions of x86-64")
def test_no_compiler_drops_what_fetches(tmp_path: Path) -> None:
    """Functions that only fetch do nothing, in the eyes of GCC, which drops calls that it has not inlined before."""
    for name in ("attend.cpp", "vectors.h"):
        (tmp_path / name).write_text((SOURCES / name).read_text())
    found = fetches(tmp_path)
    assert found["t0"] >= 4, "keys of the next tile and values of this one, in float32 and in 8 bits"
    assert found["t1"] >= 4, "keys and values of the next item"


def test_the_next_item_is_fetched_in_the_order_of_memory() -> None:
    case = next(case for case in map(attention_case, range(100)) if case.plan.groups[0].num_runs > 20)
    work = cut_work(case.plan, tile=native_attention.TILE, query_tile=3, num_items=1, span=2)
    slots = native_attention._in_order_of_memory(work)
    columns = [range(*work.segments[a:b, 1].tolist()[:1], sum(work.segments[b - 1, 1:])) for a, b in work.items[:, 2:4]]
    assert len(set(columns)) > 1
    for item in columns:
        assert slots[item].tolist() == sorted(work.column_slots[item])


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_contract(check: Any, tmp_path: Path, library: Library) -> None:
    def opened(folder: Path) -> TorchBackend:
        backend = load_folder(folder, KERNEL)
        assert backend.info.attention == "C++ kernels"
        return backend

    check(replace(SUBJECT, open=opened, open_poisoned=lambda folder: poisoned(opened(folder))), CASES[0], tmp_path)


def refuse_to_build() -> Library:
    raise AssertionError("nothing is to be built")


def test_auto_takes_them(tmp_path: Path, library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = CASES[0].write(tmp_path)
    assert load_folder(folder, AUTO).info.attention == "C++ kernels"
    monkeypatch.setattr(choice, "shared_library", refuse_to_build)
    assert load_folder(folder, PLAIN).info.attention == "torch operations"


@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_what_they_do_not_serve(dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "shared_library", refuse_to_build)
    folder, reason = CASES[0].write(tmp_path), f"they compute in float32, not in {dtype}"
    with pytest.raises(OptionError, match=f"got: kernel; no C\\+\\+ kernels: {reason}"):
        load_folder(folder, replace(KERNEL, dtype=dtype))
    assert load_folder(folder, replace(AUTO, dtype=dtype)).info.attention == f"{INSTEAD}{reason}"


def broken_compiler(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = folder / "cc"
    compiler.write_text("#!/bin/sh\necho 'it cannot' >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))


def no_compiler(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("CXX", raising=False)


@pytest.mark.parametrize(
    ("compiler", "reason"), [(no_compiler, "no C\\+\\+ compiler"), (broken_compiler, "cc fails: it cannot")]
)
def test_without_a_compiler(compiler: Any, reason: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = CASES[0].write(tmp_path / "model")
    monkeypatch.setattr(choice, "shared_library", shared_library.__wrapped__)  # this process may have one
    compiler(tmp_path, monkeypatch)
    with pytest.raises(OptionError, match=f"no C\\+\\+ kernels: .*{reason}"):
        load_folder(folder, KERNEL)
    backend = load_folder(folder, AUTO)
    assert re.fullmatch(f"{re.escape(INSTEAD)}.*{reason}.*", backend.info.attention)
    assert not len(backend._forwards)


@pytest.mark.parametrize("name", ["attend", "linear"])
def test_wrong_numbers_are_seen_when_a_model_is_loaded(
    name: str, library: Library, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Then auto takes torch's operations, for the products too."""
    folder, true = CASES[0].write(tmp_path), library.linear
    wrong: Any = {"attend": lambda arguments: None, "linear": lambda *given: 1.1 * true(*given)}[name]
    monkeypatch.setattr(library, name, wrong, raising=False)
    with pytest.raises(ModelRefused, match="gives other logits than its own plain forward"):
        load_folder(folder, KERNEL)
    caches = [SharedCache(load_folder(folder, options)) for options in (AUTO, PLAIN)]
    assert caches[0].backend.info.attention.startswith(f"{INSTEAD}over shared blocks the model gives other logits")
    logits = [cache.to_numpy(cache.forward([Row((cache.new_block(),), (3, 4, 5, 6))])) for cache in caches]
    np.testing.assert_array_equal(*logits)


def test_codes_are_checked_when_a_model_is_loaded(
    library: Library, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Rounding would hide such a fault from a comparison with the model's own forward."""
    folder, true = CASES[0].write(tmp_path), library.attend
    in_8_bits = replace(AUTO, kv_dtype="int8")
    assert load_folder(folder, in_8_bits).info.attention == "C++ kernels"

    def without_scales(arguments: Any) -> None:
        if arguments.key_scales:
            arguments.key_scales = arguments.value_scales
        true(arguments)

    monkeypatch.setattr(library, "attend", without_scales, raising=False)
    assert load_folder(folder, AUTO).info.attention == "C++ kernels"
    backend = load_folder(folder, in_8_bits)
    assert backend.info.attention.startswith(f"{INSTEAD}over K/V in 8 bits the kernels give other logits")
    assert backend.info.kv_dtype == "int8"


@pytest.mark.parametrize("seed", range(40))
def test_turns_of_block_and_segment_are_those_of_the_run(seed: int) -> None:
    plan = attention_case(seed, max_length=100).plan
    work = cut_work(plan, tile=8, query_tile=3, num_items=1, span=2)
    made = find_turns(plan, work)
    assert made.tokens[:, [0, 2, 3, 4]].tolist() == work.tokens[:, [0, 2, 3, 4]].tolist()
    for (_, first_of_block, *_), (_, first_of_run, _, begin, end) in zip(made.tokens, work.tokens, strict=True):
        for _, _, first_segment, end_segment, block in work.items[work.order[begin:end]]:
            segments = np.arange(first_segment, end_segment)
            run = first_of_run + work.segments[segments, 0]
            assert set(work.turns[run]) == {made.turns[first_of_block + block]}
            if made.turns[first_of_block + block] != UNSEEN:
                offsets = made.offsets[first_of_block + block] + made.shifts[segments]
                assert offsets.tolist() == work.offsets[run].tolist()
