"""The bytes of a pass and its views, against counts by hand and against the arrays themselves."""

from __future__ import annotations

import dataclasses

import pytest

from hogwild.backends.options import LoadOptions
from hogwild.backends.registry import BACKENDS
from hogwild.bench import BenchOptions
from hogwild.bench.floor import distinct_tokens, pass_bytes
from hogwild.bench.room import check_lengths, check_shape
from hogwild.bench.workload import build_views, find_lengths, pages_held, pool_tokens, rows_of
from hogwild.cache import SharedCache
from hogwild.core.layout import LAYOUTS, Layout, others
from hogwild.core.plan import Row, view_lengths
from hogwild.errors import LayoutError, OptionError, PoolExhausted
from hogwild.models.shapes import SHAPES, num_parameters, shape_checkpoint

NAMES = [name for name, entry in BACKENDS.items() if not entry.missing()]
PUBLISHED = {  # as the models' own pages and files have them
    "smollm2-135m": 134_515_008,
    "qwen3-0.6b": 596_049_920,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.1-8b": 8_030_261_248,
    "qwen3-8b": 8_190_735_360,
    "qwen2.5-32b": 32_763_876_352,
}


@pytest.fixture(scope="module")
def tiny():
    return BACKENDS["reference"].loader()(shape_checkpoint("tiny"), LoadOptions())


@pytest.fixture
def cache(tiny):
    return SharedCache(tiny, 512)


# Weights ------------------------------------------------------------------------------------------------------------


def test_shapes_have_as_many_parameters_as_the_models():
    assert {name: num_parameters(name) for name in PUBLISHED} == PUBLISHED
    assert set(SHAPES) == {"tiny", *PUBLISHED}


def arrays_of(backend) -> list[int]:
    """Bytes of every distinct array of a model, found without the code under test."""
    if backend.info.name == "cuda":
        return [
            t.untyped_storage().nbytes()
            for t in {t.data_ptr(): t for t in backend.model.state_dict().values()}.values()
        ]
    if backend.info.name == "mlx":
        from mlx.utils import tree_flatten

        return [array.nbytes for _, array in tree_flatten(backend.model.parameters())]
    return [4 * num_parameters("tiny")]


@pytest.mark.parametrize("name", NAMES)
def test_weight_bytes_are_those_of_the_arrays(name):
    for tied in (False, True):
        checkpoint = shape_checkpoint("tiny")
        config = {**checkpoint.config, "tie_word_embeddings": tied}
        weights = type(checkpoint.weights)(config)
        backend = BACKENDS[name].loader()(
            dataclasses.replace(checkpoint, config=config, weights=weights), LoadOptions(dtype="float32", device="cpu")
        )
        table = 384 * 64 * 4
        assert backend.spec.weight_bytes == 4 * num_parameters("tiny") - tied * table
        assert backend.spec.lookup_bytes == (0 if tied else table)
        if not tied:
            assert backend.spec.weight_bytes == sum(arrays_of(backend))
        backend.close()


@pytest.mark.parametrize("name", [name for name in NAMES if name != "reference"])
def test_half_precision_takes_half_the_bytes(name):
    backend = BACKENDS[name].loader()(shape_checkpoint("tiny"), LoadOptions(dtype="bfloat16", device="cpu"))
    assert backend.spec.weight_bytes == 2 * num_parameters("tiny") == sum(arrays_of(backend))
    assert backend.spec.kv_bytes_per_token == 2 * 2 * 2 * 16 * 2


@pytest.mark.parametrize("name", NAMES)
def test_a_seed_gives_the_same_weights_again(name):
    def logits(seed: int):
        backend = BACKENDS[name].loader()(shape_checkpoint("tiny", seed), LoadOptions(dtype="float32", device="cpu"))
        cache = SharedCache(backend, 16)
        return cache.to_numpy(cache.forward([Row((cache.new_block(),), (1, 2, 3))])).tolist()

    assert logits(0) == logits(0) != logits(1)


# Bytes of a pass ----------------------------------------------------------------------------------------------------


def test_bytes_of_a_pass_by_hand(cache):
    common = cache.block(range(100))
    separator = cache.block(range(3), (common,))
    owns = [cache.block(range(10), (common,)) for _ in range(3)]
    views = [
        (common, *(block for other in owns if other is not own for block in (other, separator)), own) for own in owns
    ]
    moved = pass_bytes(cache.backend.spec, rows_of(views, [1, 2, 3]))
    token = 2 * 2 * 2 * 16 * 4  # layers, K and V, heads, features, float32
    assert moved.kv_read == (100 + 3 + 30) * token  # the separator stands twice in each view, but is stored once
    assert moved.kv_written == 3 * token
    matrices = 2 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 64 * 128)
    assert moved.weights == 4 * (matrices + 5 * 64 + 384 * 64 + 3 * 64)  # norms, the head, three rows of the embedding
    assert moved.total == moved.weights + moved.kv_read + moved.kv_written


def test_a_window_limits_what_is_read(cache, tiny):
    common, far = cache.block(range(100)), cache.block(range(40))
    owns = [cache.block(range(10)) for _ in range(2)]
    rows = rows_of([(common, owns[1], owns[0]), (common, far, owns[1])], [1, 2])
    assert distinct_tokens(rows) == 100 + 40 + 2 * 11
    assert distinct_tokens(rows, 15) == 11 + 11 + 4  # second row: 4 of `far`; first: 4 of the second's own, seen anyway
    assert distinct_tokens(rows, 30) == 11 + 11 + 8 + 19  # first row: 8 of common; second: 19 of `far`
    assert distinct_tokens(rows, 10_000) == distinct_tokens(rows)
    layers = (dataclasses.replace(tiny.spec.layers[0], window=15), tiny.spec.layers[1])
    mixed = pass_bytes(dataclasses.replace(tiny.spec, layers=layers), rows)
    assert mixed.kv_read == (24 + 160) * tiny.spec.kv_bytes_per_token // 2


@pytest.mark.parametrize("name", NAMES)
def test_bytes_in_8_bits_are_those_of_codes_and_scales(name):
    options = LoadOptions(dtype="float32", device="cpu", kv_dtype="int8")
    backend = BACKENDS[name].loader()(shape_checkpoint("tiny"), options)
    cache = SharedCache(backend, 256)
    common = cache.block(range(100))
    rows = rows_of([(common, cache.block(range(10), (common,))) for _ in range(2)], [1, 2])
    moved = pass_bytes(backend.spec, rows, backend.info.kv_dtype)
    token = 2 * 2 * 2 * (16 + 4)  # layers, K and V, heads, a byte for each feature and four for the scale
    assert (moved.kv_read, moved.kv_written) == ((100 + 20) * token, 2 * token)
    backend.close()


# Views --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=lambda layout: layout.name)
@pytest.mark.parametrize("workers", [1, 2, 5])
def test_every_view_is_as_long_as_the_context(tiny, layout, workers):
    options = BenchOptions(workers=(workers,), contexts=(300,), layout=layout)
    cache = SharedCache(tiny, pool_tokens(options))
    lengths = find_lengths(layout, workers, 300)
    room = cache.pool.num_slots
    history = cache.block([1] * 300)
    common = history.fork()
    common.truncate(lengths.common)
    views = build_views(cache, layout, workers, common, lengths.own)
    rows = rows_of(views, [0] * workers)
    assert view_lengths(rows) == [300] * workers
    assert len({row.own for row in rows}) == workers
    held = pages_held(views)
    cache.forward(rows)
    assert {row.num_visible for row in rows} == {300}
    assert cache.pool.num_slots == room  # nothing had to grow
    distinct = {block for view in views for block in view}
    assert held == sum(-(-len(block) // 16) for block in distinct)


def test_contexts_that_do_not_fit_are_refused():
    with pytest.raises(OptionError, match="too short for 8 workers"):
        find_lengths(LAYOUTS["combined"], 8, 88)
    assert find_lengths(LAYOUTS["combined"], 8, 89).common == 1  # 8 steps of 2 tokens, 9 texts of 8
    with pytest.raises(OptionError, match="longer than the model's"):
        check_lengths(BenchOptions(contexts=(4097,)), 4096)
    check_lengths(BenchOptions(contexts=(4096,)), 4096)


def test_a_view_without_a_common_block_is_refused():
    with pytest.raises(LayoutError, match="cannot be benchmarked"):
        find_lengths(Layout("odd", view=(others("author"), "own")), 2, 100)


def test_memory_is_counted_before_it_is_taken():
    options = BenchOptions(workers=(1,), contexts=(64,))
    needed = 4 * num_parameters("tiny") + pool_tokens(options) * 2 * 2 * 2 * 16 * 4
    check_shape("tiny", options, "float32", "auto", needed)
    with pytest.raises(PoolExhausted, match="no room"):
        check_shape("tiny", options, "float32", "auto", needed - 1)
    check_shape("tiny", options, "bfloat16", "auto", needed // 2)
    in_8_bits = 4 * num_parameters("tiny") + pool_tokens(options) * 2 * 2 * 2 * (16 + 4)
    check_shape("tiny", options, "float32", "int8", in_8_bits)
    with pytest.raises(PoolExhausted, match="no room"):
        check_shape("tiny", options, "float32", "int8", in_8_bits - 1)
    check_shape("tiny", options, "float32", "auto", None)
