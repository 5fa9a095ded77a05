"""What every backend must do, as checks that any backend's tests can call.

    SUBJECT = Subject(open=..., from_numpy=..., tolerance=1e-4)

    @pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
    @pytest.mark.parametrize("case", CASES, ids=str)
    def test_contract(check, case, tmp_path):
        check(SUBJECT, case, tmp_path)

Logits are held against a plain forward of one flat sequence by the float64 reference. That is exact where K/V were
written in the order in which they are read. With one layer it is exact for any view, since K/V then depend on nothing
but the token: those checks make models of one layer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tiny_models import ROPE_SCALING, write_tiny_model

from hogwild.backends import reference
from hogwild.backends.base import Backend
from hogwild.backends.options import LoadOptions
from hogwild.cache import SharedCache
from hogwild.core.blocks import Block
from hogwild.core.plan import Row
from hogwild.models import find_checkpoint

Array = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Subject:
    """A backend under test.

    Attributes:
        open: loads a model folder.
        from_numpy: float32 logits `[n, V]` as the backend's own `Logits`.
        tolerance: how far logits may be from the float64 reference, absolute and relative.
        open_poisoned: loads it with NaN in every slot that nobody wrote; None where that cannot be had.
        placement_changes_bits: whether logits may change, within the tolerance, with the place of the pages.
    """

    open: Callable[[Path], Backend]
    from_numpy: Callable[[NDArray[np.float32]], Any]
    tolerance: float = 1e-4
    open_poisoned: Callable[[Path], Backend] | None = None
    placement_changes_bits: bool = False


@dataclass(frozen=True)
class ModelCase:
    """A tiny model."""

    name: str
    family: str = "llama"
    overrides: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name

    def write(self, folder: Path, **overrides: Any) -> Path:
        """Write it, with more overrides, to a folder of its own."""
        name = "-".join([self.name, *(f"{key}={value}" for key, value in overrides.items())])
        return write_tiny_model(folder / name, self.family, **{**self.overrides, **overrides})


_QWEN_WINDOW = {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1}
CASES = (
    ModelCase("llama"),
    ModelCase("llama-bias", overrides={"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 4}),
    ModelCase("llama-tied", overrides={"tie_word_embeddings": True, "num_key_value_heads": 1}),
    *(ModelCase(f"llama-{kind}", overrides={"rope_scaling": scaling}) for kind, scaling in ROPE_SCALING.items()),
    ModelCase("mistral", "mistral"),
    ModelCase("mistral-window", "mistral", {"sliding_window": 9}),
    ModelCase("qwen2", "qwen2"),
    ModelCase("qwen2-window", "qwen2", _QWEN_WINDOW),
    ModelCase("qwen3", "qwen3"),
)


def flat_logits(folder: Path, *parts: Sequence[int]) -> Array:
    """Logits `[n, V]` of every token of the parts as one sequence, by the float64 reference in one block."""
    files = [(folder / name).read_bytes() for name in ("config.json", "model.safetensors")]
    return _flat_logits(_Folder(folder, hashlib.sha256(b"".join(files)).hexdigest()), _join(*parts))


@dataclass(frozen=True)
class _Folder:
    """A model folder; those with the same files are equal, wherever they lie."""

    path: Path = field(compare=False)
    digest: str


@lru_cache(maxsize=512)  # backends, dtypes and memory that is poisoned are asked for the same
def _flat_logits(folder: _Folder, token_ids: tuple[int, ...]) -> Array:
    oracle = reference.load(find_checkpoint(str(folder.path)), LoadOptions(dtype="float64"))
    cache = SharedCache(oracle)
    result = cache.forward([Row((cache.new_block(),), token_ids, "all")])
    logits = np.asarray(result.logits)
    logits.flags.writeable = False
    return logits


def _join(*parts: Sequence[int]) -> tuple[int, ...]:
    return tuple(token for part in parts for token in part)


class _World:
    """A cache over the subject's model, and random tokens."""

    def __init__(self, subject: Subject, folder: Path, seed: int = 0, **pool: Any) -> None:
        self.subject, self.folder = subject, folder
        self.cache = SharedCache(subject.open(folder), **pool)
        self.rng = np.random.default_rng(seed)

    def ids(self, count: int) -> tuple[int, ...]:
        return tuple(self.rng.integers(0, self.cache.backend.spec.vocab_size, count).tolist())

    def logits(self, *rows: Row) -> Array:
        return self.cache.to_numpy(self.cache.forward(rows))

    def append(self, view: Sequence[Block], token_ids: Sequence[int]) -> Array:
        """All logits of a pass of one row."""
        return self.logits(Row(tuple(view), tuple(token_ids), "all"))

    def check(self, logits: Array, *parts: Sequence[int]) -> None:
        """`logits` are those of the last tokens of the parts laid out flat."""
        self.close_to(logits, flat_logits(self.folder, *parts)[-len(logits) :])

    def close_to(self, logits: Array, expected: Array) -> None:
        np.testing.assert_allclose(logits, expected, rtol=self.subject.tolerance, atol=self.subject.tolerance)


def check_own_view_is_the_plain_forward(subject: Subject, case: ModelCase, folder: Path) -> None:
    """A block in one piece, in chunks or token by token; blocks in the order in which they were written."""
    world = _World(subject, case.write(folder))
    prompt_ids, b_ids, a_ids = world.ids(33), world.ids(17), world.ids(11)
    prompt, b, a = (world.cache.new_block(name) for name in ("prompt", "b", "a"))
    world.check(world.append([prompt], prompt_ids), prompt_ids)
    chunks = [world.append([prompt, b], chunk) for chunk in (b_ids[:9], b_ids[9:10], b_ids[10:])]
    world.check(np.concatenate(chunks), prompt_ids, b_ids)
    tokens = [world.append([prompt, b, a], [token]) for token in a_ids]
    world.check(np.concatenate(tokens), prompt_ids, b_ids, a_ids)


def check_long_context(subject: Subject, case: ModelCase, folder: Path) -> None:
    """Enough columns for several long runs, read in place, next to short ones."""
    world = _World(subject, case.write(folder))
    parts = [world.ids(count) for count in (150, 300, 20, 140, 1, 137, 3)]
    blocks = [world.cache.new_block() for _ in parts]
    for i, ids in enumerate(parts):
        logits = world.append(blocks[: i + 1], ids)
    world.check(logits, *parts)


def check_rows_and_groups_do_not_mix(subject: Subject, case: ModelCase, folder: Path) -> None:
    """A ragged pass of several rows and of two groups gives what each row gives alone."""
    world = _World(subject, case.write(folder))
    rows, expected = [], []
    for num_prompt, counts in ((21, (1, 6, 2)), (5, (3, 1))):
        prompt_ids = world.ids(num_prompt)
        prompt = world.cache.block(prompt_ids)
        new = [world.ids(count) for count in counts]
        rows.append([Row((prompt, world.cache.new_block()), ids, "all") for ids in new])
        expected += [flat_logits(world.folder, prompt_ids, ids)[num_prompt:] for ids in new]
    result = world.cache.forward_groups(rows)
    world.close_to(world.cache.to_numpy(result), np.concatenate(expected))


def check_logits_wanted(subject: Subject, case: ModelCase, folder: Path) -> None:
    """`last`, `all` and `none`, rows without tokens, and a pass that wants no logits."""
    world = _World(subject, case.write(folder))
    blocks = [world.cache.new_block() for _ in range(4)]
    ids = [world.ids(4), world.ids(3), world.ids(2)]
    logits = world.logits(
        Row((blocks[0],), ids[0]),
        Row((blocks[1],), ids[1], "none"),
        Row((blocks[3],), ()),
        Row((blocks[2],), ids[2], "all"),
    )
    assert logits.shape == (3, world.cache.backend.spec.vocab_size)
    world.check(logits[:1], ids[0])
    world.check(logits[1:], ids[2])
    assert world.logits(Row((blocks[1],), world.ids(2), "none")).shape[0] == 0


def check_tokens_of_one_pass_see_each_other(subject: Subject, case: ModelCase, folder: Path) -> None:
    """One row reads what another writes in the same pass, in every layer."""
    world = _World(subject, case.write(folder))
    prompt_ids, first_ids, a_ids, b_ids = world.ids(19), world.ids(4), world.ids(5), world.ids(3)
    prompt = world.cache.block(prompt_ids)
    b = world.cache.block(first_ids, [prompt])
    a = world.cache.new_block()
    logits = world.logits(Row((prompt, b, a), a_ids, "all"), Row((prompt, b), b_ids, "all"))
    world.check(logits[: len(a_ids)], prompt_ids, first_ids, b_ids, a_ids)
    world.check(logits[len(a_ids) :], prompt_ids, first_ids, b_ids)


def check_workers_read_each_other(subject: Subject, case: ModelCase, folder: Path) -> None:
    """Two rows read each other's unfinished blocks, ragged, pass by pass (one layer)."""
    world = _World(subject, case.write(folder, **_one_layer(case)))
    prompt_ids = world.ids(23)
    prompt, a, b = world.cache.block(prompt_ids), world.cache.new_block(), world.cache.new_block()
    a_ids: tuple[int, ...] = ()
    b_ids: tuple[int, ...] = ()
    for num_a, num_b in ((3, 1), (1, 1), (1, 7), (2, 0), (1, 1)):
        new_a, new_b = world.ids(num_a), world.ids(num_b)
        a_ids, b_ids = a_ids + new_a, b_ids + new_b
        logits = world.logits(Row((prompt, b, a), new_a, "all"), Row((prompt, a, b), new_b, "all"))
        world.check(logits[:num_a], prompt_ids, b_ids, a_ids)
        if num_b:
            world.check(logits[num_a:], prompt_ids, a_ids, b_ids)


def check_a_block_twice_in_a_view(subject: Subject, case: ModelCase, folder: Path) -> None:
    """A separator that stands after each other's block is read at each of its places (one layer)."""
    world = _World(subject, case.write(folder, **_one_layer(case)))
    prompt_ids, sep_ids, a_ids, b_ids, c_ids = (world.ids(count) for count in (9, 2, 6, 13, 4))
    prompt, sep, a, b = (world.cache.block(ids) for ids in (prompt_ids, sep_ids, a_ids, b_ids))
    own, empty = world.cache.new_block(), world.cache.new_block()
    logits = world.append([prompt, a, sep, empty, b, sep, own], c_ids)
    world.check(logits, prompt_ids, a_ids, sep_ids, b_ids, sep_ids, c_ids)


def check_publishing_is_exact(subject: Subject, case: ModelCase, folder: Path) -> None:
    """Many published steps of two workers, read as one history (one layer); no bit of K or V changes."""
    world = _World(subject, case.write(folder, **_one_layer(case)))
    history = world.ids(14)
    common, own = world.cache.block(history), [world.cache.new_block(), world.cache.new_block()]
    for step in range(24):
        worker = own[step % 2]
        ids = world.ids(int(world.rng.integers(1, 40)))
        world.append([common, worker], ids)
        before = _bits(world, worker)
        common.link(worker)
        after = [array[-len(ids) :] for array in _bits(world, common)]
        assert all(np.array_equal(x, y) for x, y in zip(before, after, strict=True)), "publishing changed K/V"
        history += ids
    new = [world.ids(3), world.ids(1)]
    logits = world.logits(*(Row((common, block), ids, "all") for block, ids in zip(own, new, strict=True)))
    world.check(logits[:3], history, new[0])
    world.check(logits[3:], history, new[1])


def check_publishing_changes_no_logits(subject: Subject, case: ModelCase, folder: Path) -> None:
    """A reader gets the same from a step before and after it is published, in every layer."""
    world = _World(subject, case.write(folder))
    prompt_ids, step_ids, a_ids = world.ids(20), world.ids(18), world.ids(6)
    common = world.cache.block(prompt_ids)
    step = world.cache.block(step_ids, [common])
    before = world.append([common, step, world.cache.new_block()], a_ids)
    common.link(step)
    after = world.append([common, world.cache.new_block()], a_ids)
    world.close_to(before, after)
    world.check(after, prompt_ids, step_ids, a_ids)


def check_fork_leaves_the_other_side(subject: Subject, case: ModelCase, folder: Path) -> None:
    """Who writes after a fork changes no bit of what the other side holds or computes."""
    world = _World(subject, case.write(folder))
    ids, left_ids, right_ids = world.ids(21), world.ids(5), world.ids(8)
    block = world.cache.block(ids)
    twin = block.fork()
    bits = _bits(world, block)
    right = world.append([twin], right_ids)
    assert all(np.array_equal(x, y) for x, y in zip(bits, _bits(world, block), strict=True))
    world.check(world.append([block], left_ids), ids, left_ids)
    world.check(right, ids, right_ids)
    twin.truncate(len(ids) - 3)
    world.check(world.append([twin], left_ids), ids[:-3], left_ids)


def check_page_placement(subject: Subject, case: ModelCase, folder: Path) -> None:
    """Where pages lie changes no bit, neither of K/V nor of logits; and a second run gives the same bits."""
    model = case.write(folder)
    tidy, again, scattered = (_placement_run(subject, model, scatter) for scatter in (False, False, True))
    assert all(np.array_equal(x, y) for x, y in zip(tidy, again, strict=True)), "a second run gives other bits"
    if subject.placement_changes_bits:
        for x, y in zip(tidy, scattered, strict=True):
            np.testing.assert_allclose(x, y, rtol=subject.tolerance, atol=subject.tolerance)
    else:
        assert all(np.array_equal(x, y) for x, y in zip(tidy, scattered, strict=True)), "page placement changed bits"


def _placement_run(subject: Subject, model: Path, scatter: bool) -> list[Array]:
    world = _World(subject, model, num_tokens=2048)
    if scatter:
        pages = world.cache.pool.allocate(world.cache.pool.capacity)
        np.random.default_rng(5).shuffle(pages)
        world.cache.pool.release(pages[: len(pages) * 2 // 3])
    common = world.cache.block(world.ids(170))
    own = [world.cache.new_block(), world.cache.new_block()]
    for count in (150, 1, 30):
        for block in own:
            world.append([common, block], world.ids(count))
    common.link(own[0])
    logits = world.logits(
        Row((common, own[1], own[0]), world.ids(3), "all"), Row((common, own[1]), world.ids(1), "all")
    )
    return [logits, *_bits(world, common), *_bits(world, own[1])]


def check_growth_keeps_bits(subject: Subject, case: ModelCase, folder: Path) -> None:
    """The pool doubles several times under a block whose K/V must not change."""
    world = _World(subject, case.write(folder), num_tokens=16)
    ids = world.ids(13)
    block = world.cache.block(ids)
    bits, slots = _bits(world, block), world.cache.pool.num_slots
    world.cache.block(world.ids(200))
    assert world.cache.pool.num_slots >= 8 * slots
    assert all(np.array_equal(x, y) for x, y in zip(bits, _bits(world, block), strict=True))
    more = world.ids(4)
    world.check(world.append([block], more), ids, more)


def check_dead_slots_are_never_read(subject: Subject, case: ModelCase, folder: Path) -> None:
    """With NaN in every slot that nobody wrote, nothing changes."""
    if subject.open_poisoned is None:
        return
    poisoned = Subject(subject.open_poisoned, subject.from_numpy, subject.tolerance)
    for check in (
        check_workers_read_each_other,
        check_publishing_is_exact,
        check_long_context,
        check_growth_keeps_bits,
    ):
        check(poisoned, case, folder)


def check_hidden_states(subject: Subject, case: ModelCase, folder: Path) -> None:
    """One `[T, hidden_size]` for each layer, as the float64 reference has them for the flat sequence."""
    world = _World(subject, case.write(folder))
    spec = world.cache.backend.spec
    prompt_ids, ids = world.ids(12), world.ids(7)
    prompt = world.cache.block(prompt_ids)
    states = world.cache.forward([Row((prompt, world.cache.new_block()), ids)], hidden_states=True).hidden_states
    oracle = SharedCache(reference.load(find_checkpoint(str(world.folder)), LoadOptions(dtype="float64")))
    flat = oracle.forward([Row((oracle.new_block(),), prompt_ids + ids)], hidden_states=True).hidden_states
    assert states is not None
    assert flat is not None
    assert [x.shape for x in states] == [(len(ids), spec.hidden_size)] * spec.num_layers
    for x, y in zip(states, flat, strict=True):
        np.testing.assert_allclose(x, y[len(prompt_ids) :], rtol=subject.tolerance, atol=subject.tolerance)
    assert world.cache.forward([Row((prompt,), ids)]).hidden_states is None


def check_spec(subject: Subject, case: ModelCase, folder: Path) -> None:
    """The facts of the model are those of the reference."""
    path = case.write(folder)
    spec, expected = subject.open(path).spec, reference.load(find_checkpoint(str(path)), LoadOptions()).spec
    same = ("family", "num_layers", "num_heads", "hidden_size", "vocab_size", "context_size", "num_parameters")
    assert {name: getattr(spec, name) for name in same} == {name: getattr(expected, name) for name in same}
    for mine, theirs in zip(spec.layers, expected.layers, strict=True):
        assert (mine.num_kv_heads, mine.key_dim, mine.value_dim) == (
            theirs.num_kv_heads,
            theirs.key_dim,
            theirs.value_dim,
        )
        assert mine.window == theirs.window


def _one_layer(case: ModelCase) -> dict[str, Any]:
    """Overrides for a model of one layer; of Qwen's window rule that leaves the windowed one."""
    return {"num_hidden_layers": 1, **({"max_window_layers": 0} if "max_window_layers" in case.overrides else {})}


def _bits(world: _World, block: Block) -> list[Array]:
    """K and V of all layers."""
    layers = range(world.cache.backend.spec.num_layers)
    return [array for layer in layers for array in world.cache.read_kv(block, layer)]


CHECKS = (
    check_own_view_is_the_plain_forward,
    check_long_context,
    check_rows_and_groups_do_not_mix,
    check_logits_wanted,
    check_tokens_of_one_pass_see_each_other,
    check_workers_read_each_other,
    check_a_block_twice_in_a_view,
    check_publishing_is_exact,
    check_publishing_changes_no_logits,
    check_fork_leaves_the_other_side,
    check_page_placement,
    check_growth_keeps_bits,
    check_dead_slots_are_never_read,
    check_hidden_states,
    check_spec,
)
