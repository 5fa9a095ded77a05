"""What can be checked on this machine: each backend with each of its attention paths."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from hogwild.backends.registry import BACKENDS, find_backend
from hogwild.conformance import plain
from hogwild.conformance.cases import Array, AttentionCase, DType
from hogwild.conformance.kit.schedule import PARTS
from hogwild.errors import BackendUnavailable

INTERPRETED = "triton-interpreted"


@dataclass(frozen=True, slots=True)
class Target:
    """A backend, one of its attention paths, and a device.

    Attributes:
        backend: as the registry names it.
        path: "plain", "triton", "metal" or "c++".
        device: as `LoadOptions` takes it.
        answer: the attention that the backend's decoding uses, `[T, H, Dv]` for a case.
        fit: a case without the features that the path has not, so that every case is compared.
        arithmetic: the dtype that every case is computed in; None: the case's own.
        promises: parts of L0 that hold bit for bit, see `schedule`; the others are measured and reported.
        most_work: tokens times columns times heads of a case, beyond which it is left out: an interpreter is slow.
    """

    backend: str
    path: str
    device: str
    answer: plain.Answer
    fit: Callable[[AttentionCase], AttentionCase] = lambda case: case
    arithmetic: DType | None = None
    promises: frozenset[str] = frozenset({"repeat"})
    most_work: float = np.inf

    @property
    def name(self) -> str:
        """For people."""
        if self.path == "triton" and self.most_work < np.inf:
            return f"{self.backend} {self.path} interpreted"
        place = "" if self.device in ("auto", "cpu") else f" {self.device}"
        return f"{self.backend} {self.path}{place}"

    def affords(self, case: AttentionCase) -> bool:
        """Whether the case is small enough."""
        return work(case) <= self.most_work


def find_targets(backend: str = "auto") -> tuple[list[Target], list[str]]:
    """The targets of a backend ("auto": of all that are here), and for each that is not here why.

    `BackendUnavailable` for a backend that was named and is not here.
    """
    if backend != "auto":
        find_backend(backend).loader()
        return list(_FINDERS[backend]()), []
    found: list[Target] = []
    missing: list[str] = []
    for name, entry in BACKENDS.items():
        try:
            entry.loader()
            found += _FINDERS[name]()
        except (BackendUnavailable, ImportError, OSError) as error:
            missing.append(f"{name}: {error}")
    return found, missing


def choose_target(name: str) -> list[Target]:
    """The target of that name; "triton-interpreted" runs the Triton kernels on the CPU, in this process.

    `BackendUnavailable` if it is not here.
    """
    if name == INTERPRETED:
        if "triton" in sys.modules and os.environ.get("TRITON_INTERPRET") != "1":
            raise BackendUnavailable("triton was imported before", remedy="start with TRITON_INTERPRET=1")
        if not _has_triton():
            raise BackendUnavailable("triton is not installed", remedy="pip install triton")
        os.environ["TRITON_INTERPRET"] = "1"
        return [target for target in _cuda() if target.path == "triton"]
    found, missing = find_targets()
    chosen = [target for target in found if target.name == name]
    if not chosen:
        here = ", ".join([*(target.name for target in found), INTERPRETED])
        raise BackendUnavailable(f"there is no target {name!r} here", expected=here, got="; ".join(missing) or name)
    return chosen


def work(case: AttentionCase) -> int:
    """Tokens times columns times query heads."""
    pairs: int = sum(group.num_tokens * group.num_columns for group in case.plan.groups)
    return pairs * int(case.queries.shape[1])


def _reference() -> Iterator[Target]:
    yield Target(
        *("reference", "plain", "cpu", plain.reference_answer),
        fit=plain.reference_case,
        arithmetic="float32",
        promises=frozenset(PARTS),
    )


def _mlx() -> Iterator[Target]:
    import mlx.core as mx

    on_gpu = mx.default_device() == mx.Device(mx.gpu)
    device = "gpu" if on_gpu else "cpu"
    yield Target("mlx", "plain", device, plain.mlx_answer)
    if on_gpu and mx.metal.is_available():  # MLX has GPUs of others too
        yield Target("mlx", "metal", device, _metal_answer)


def _metal_answer(case: AttentionCase) -> Array:
    """The Metal kernels on the GPU."""
    import mlx.core as mx

    from hogwild.backends.mlx.kernels.attention import KernelAttention
    from hogwild.conformance.mlx_pool import case_arrays

    reader = KernelAttention().reader(case.plan)
    attended = reader.attend_all(
        mx.array(case.queries).astype(getattr(mx, case.dtype)),
        *case_arrays(case),
        rotary=case.rotary,
        window=case.window,
        scale=case.scale,
        sinks=None if case.sinks is None else mx.array(case.sinks),
        softcap=case.softcap,
    )
    return np.array(attended.output.astype(mx.float32))


def _cuda() -> Iterator[Target]:
    import torch

    from hogwild.conformance.native import native_answer

    device = "cuda" if torch.cuda.is_available() else "cpu"
    yield Target("cuda", "plain", device, lambda case: plain.torch_answer(case, device))
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if _has_triton() and (device == "cuda" or interpreted):
        device = "cpu" if interpreted else device
        most_work = 4000.0 if interpreted else np.inf
        yield Target("cuda", "triton", device, lambda case: _triton_answer(case, device), most_work=most_work)
    if device == "cpu" and not interpreted and has_native():
        yield Target("cuda", "c++", device, native_answer, arithmetic="float32", promises=frozenset(PARTS))


def _has_triton() -> bool:
    import importlib.util

    return importlib.util.find_spec("triton") is not None


def has_native() -> bool:
    """Whether the C++ kernels of the cuda backend are here, or can be built."""
    from hogwild.backends.cuda.native.compiler import BuildError
    from hogwild.backends.cuda.native.library import shared_library

    try:
        return bool(shared_library())
    except BuildError:
        return False


def _triton_answer(case: AttentionCase, device: str) -> Array:
    """The Triton kernels, the new tokens' K/V written by them too."""
    import torch

    from hogwild.backends.cuda.kernels.attention import KernelAttention
    from hogwild.conformance.torch_pool import case_pool

    place, dtype, slots = torch.device(device), getattr(torch, case.dtype), case.plan.write_slots
    pool = case_pool(case, place)
    kernels = KernelAttention(pool, pool.layers, case.queries.shape[1])
    kernels.load(case.plan)
    module = torch.nn.Module()
    module.layer_idx = 0  # type: ignore[assignment]
    q, k, v = (
        torch.from_numpy(np.ascontiguousarray(x)).to(place, dtype)[None]
        for x in (case.queries.transpose(1, 0, 2), case.keys[:, slots], case.values[:, slots])
    )
    sinks = None if case.sinks is None else torch.from_numpy(case.sinks).to(place)
    options = {"scaling": case.scale, "softcap": case.softcap, "s_aux": sinks}
    output = kernels.start().attend(module, q, k, v, None, options)
    return np.asarray(output[0].float().cpu().numpy())


_FINDERS = {"reference": _reference, "mlx": _mlx, "cuda": _cuda}
