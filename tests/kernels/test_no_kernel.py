"""Where the Triton kernels are not taken, with the reason; `kernels.why_no_kernel`."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton", reason="triton is not installed: it exists for Linux only")

from hogwild.backends.base import LayerSpec  # noqa: E402
from hogwild.backends.cuda.kernels import why_no_kernel  # noqa: E402
from hogwild.core.rotary import NO_ROTARY  # noqa: E402


@pytest.mark.parametrize(
    ("capability", "reason"),
    [((7, 5), "they need compute capability 8.0, this GPU has 7.5"), ((8, 0), None), ((9, 0), None), ((10, 0), None)],
)
def test_on_gpus_of_all_ages(capability: tuple[int, int], reason: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    layers = [LayerSpec(NO_ROTARY, 1, 64, 64)]
    assert why_no_kernel(layers, torch.bfloat16, torch.device("cuda", 0)) == reason
