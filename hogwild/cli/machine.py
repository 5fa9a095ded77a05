"""What a machine has for this project: backends, their devices, memory."""

from __future__ import annotations

import os
from dataclasses import dataclass

from hogwild.backends.registry import BACKENDS, BackendEntry, find_backend
from hogwild.errors import HogwildError


@dataclass(frozen=True, slots=True)
class BackendState:
    """A backend as found here: the device that it would use, or why it cannot be used and what helps."""

    name: str
    device: str | None
    problem: str | None
    remedy: str | None
    is_auto: bool


def backend_states() -> list[BackendState]:
    """Every backend; packages that are installed are imported, so that broken ones are found."""
    best = find_backend("auto").name
    return [_state(entry, entry.name == best) for entry in BACKENDS.values()]


def memory_bytes() -> dict[str, int | None]:
    """Memory of the machine, and what is free now where the system says it."""
    return {"total": _pages("SC_PHYS_PAGES"), "free": _pages("SC_AVPHYS_PAGES")}


def _state(entry: BackendEntry, is_auto: bool) -> BackendState:
    missing = entry.missing()
    if missing:
        return BackendState(entry.name, None, f"not installed: {', '.join(missing)}", entry.remedy, is_auto)
    try:
        entry.loader()
        return BackendState(entry.name, _device(entry.name), None, None, is_auto)
    except (HogwildError, ImportError, OSError, RuntimeError, AttributeError) as error:
        problem = f"{type(error).__name__}: {error}"[:200]
        return BackendState(entry.name, None, f"does not load: {problem}", "reinstall its packages", is_auto)


def _device(backend: str) -> str:
    """What device "auto" means for a backend whose packages are here."""
    return {"cuda": _torch_device, "mlx": _mlx_device}.get(backend, lambda: "cpu")()


def _torch_device() -> str:
    import torch

    if not torch.cuda.is_available():
        return "cpu"
    properties = torch.cuda.get_device_properties(0)
    return f"cuda:0, {properties.name}, {properties.total_memory / 2**30:.0f} GiB"


def _mlx_device() -> str:
    import mlx.core as mx

    return "gpu" if mx.default_device() == mx.Device(mx.gpu) else "cpu"


def _pages(name: str) -> int | None:
    try:
        return os.sysconf(name) * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None
