"""Three backends, one method: the same tokens in fp32, and hidden states within 1e-4, in every layout.

The oracle is the reference backend. A greedy choice can differ only where two logits are closer than the arithmetic of
fp32; the smallest margin of the run is checked to be above that, so that equality means something.
"""

from __future__ import annotations

import numpy as np
import pytest
from conftest import load_bundled, need

from hogwild.cache import SharedCache
from hogwild.core import events as ev
from hogwild.core.layout import LAYOUTS
from hogwild.core.options import SessionOptions
from hogwild.core.plan import Row
from hogwild.core.sampling import GREEDY
from hogwild.engine import Engine
from hogwild.model import Model

PROBLEM = "What is the largest planet of the solar system, and why is it so large?"
NUM_PASSES = 104


def transcript(model: Model, layout: str, num_workers: int) -> tuple[list[tuple[int, int]], int]:
    """Every sampled token of a session as (worker, id), and how many steps were published."""
    engine = Engine(model)
    options = SessionOptions(
        num_workers=num_workers,
        layout=LAYOUTS[layout],
        max_passes=NUM_PASSES,
        max_step_tokens=16,
        check_every=150,
        finish="all",
        sampling=GREEDY,
    )
    session = engine.submit(PROBLEM, options, "hogwild")
    events = list(engine.events())
    assert session.pass_index == NUM_PASSES
    tokens = [(e.worker, e.token_id) for e in events if isinstance(e, ev.TokenWritten) and not e.forced]
    return tokens, sum(isinstance(e, ev.StepPublished) for e in events)


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
@pytest.mark.parametrize("num_workers", [2, 3])
def test_the_same_tokens_on_every_backend(layout: str, num_workers: int):
    for backend in ("cuda", "mlx"):
        need(backend)
    expected, num_published = transcript(load_bundled("reference"), layout, num_workers)
    assert len(expected) >= NUM_PASSES * num_workers * 0.9
    assert (num_published >= 4 * num_workers) == LAYOUTS[layout].publish
    for backend in ("cuda", "mlx"):
        tokens, _ = transcript(load_bundled(backend), layout, num_workers)
        first = next((i for i, pair in enumerate(zip(tokens, expected, strict=False)) if pair[0] != pair[1]), None)
        assert tokens == expected, f"{backend} differs from the reference at token {first}"


@pytest.mark.parametrize("backend", ["cuda", "mlx"])
def test_hidden_states_agree_layer_by_layer(backend: str):
    need(backend)
    expected, got = (_hidden_states(load_bundled(name)) for name in ("reference", backend))
    assert len(expected) == len(got) == load_bundled("reference").spec.num_layers
    for layer, (a, b) in enumerate(zip(expected, got, strict=True)):
        error = np.abs(a - b).max() / np.abs(a).max()
        assert error < 1e-4, f"layer {layer} differs by {error:.1e}"


def _hidden_states(model: Model) -> list[np.ndarray]:
    """A ragged pass over shared, published and repeated blocks."""
    cache = SharedCache(model.backend)
    encode = model.tokenizer.encode
    common = cache.block(encode("The solar system has eight planets. " * 12))
    separator = cache.block(encode("\n---\n"), [common])
    for step in range(5):
        common.link(cache.block(encode(f"Step {step}: planets are round.\n\n"), [common]))
    a, b, c = (cache.new_block(name) for name in "abc")
    rows = [
        Row((common, b, separator, c, separator, a), tuple(encode("Jupiter is the largest one, and")), logits="all"),
        Row((common, a, separator, c, separator, b), tuple(encode("Mars")), logits="all"),
        Row((common, a, separator, b, separator, c), tuple(encode("Saturn has rings")), logits="all"),
    ]
    result = cache.forward(rows, hidden_states=True)
    assert result.hidden_states is not None
    return [np.asarray(state, dtype=np.float64) for state in result.hidden_states]
