"""A model on another GPU than the current one: `torch.cuda` must be told wherever it asks for the current device."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton", reason="triton is not installed: it exists for Linux only")
pytest.importorskip("transformers")

from hogwild.backends.base import LayerSpec  # noqa: E402
from hogwild.backends.cuda.kernels.attention import KernelAttention  # noqa: E402
from hogwild.backends.cuda.kernels.rotation import Angles  # noqa: E402
from hogwild.backends.cuda.kernels.tables import PassTables  # noqa: E402
from hogwild.backends.cuda.pool import KVPool  # noqa: E402
from hogwild.core.blocks import Block  # noqa: E402
from hogwild.core.plan import Row, build_plan  # noqa: E402
from hogwild.core.pool import PagePool  # noqa: E402
from hogwild.core.rotary import RotarySpec  # noqa: E402


def test_numbers_are_kept_until_the_stream_that_sends_them_has_done_so(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = []

    class Event:
        def record(self, stream: object = "of the current device") -> None:
            recorded.append(stream)

    tables = PassTables(["numbers"], torch.device("cpu"))
    tables.reserve({"numbers": 8})
    tables._device = torch.device("cuda", 1)  # whose memory is that of the CPU here
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: device)
    tables.load({"numbers": np.arange(3)})
    assert recorded == [torch.device("cuda", 1)]


def test_angles_are_made_where_the_model_is(monkeypatch: pytest.MonkeyPatch) -> None:
    current, made_on = ["another one"], []

    @contextlib.contextmanager
    def device_of(tensor: torch.Tensor) -> Iterator[None]:
        current.append(str(tensor.device))
        yield
        current.pop()

    layers, pages = [LayerSpec(RotarySpec((1.0, 0.1)), 1, 16, 16)], PagePool(2)
    pool = KVPool(layers, torch.float32, torch.device("cpu"))
    pool.reserve(pages.num_slots)
    kernels, row = KernelAttention(pool, layers, 1), Row((Block(pages),), (1,))
    kernels.load(build_plan([[row]], pages.num_slots, [[row.own.append(row.token_ids)]]))
    monkeypatch.setattr(Angles, "compose", lambda *_: made_on.append(current[-1]))
    monkeypatch.setattr(torch.cuda, "device_of", device_of)
    kernels.start()
    assert made_on == ["cpu"]
