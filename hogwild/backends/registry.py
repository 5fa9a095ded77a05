"""Which backends there are, and which one a machine gets.  Nothing is imported before it is asked for."""

from __future__ import annotations

import importlib
import importlib.util
import platform
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hogwild.errors import BackendUnavailable

if TYPE_CHECKING:
    from hogwild.backends.base import Backend
    from hogwild.backends.options import LoadOptions
    from hogwild.models.checkpoint import Checkpoint


@dataclass(frozen=True, slots=True)
class BackendEntry:
    """A backend that may be here: the packages it needs, and the module whose `load` makes it."""

    name: str
    module: str
    packages: tuple[str, ...]
    remedy: str

    def missing(self) -> tuple[str, ...]:
        """The packages that are not installed."""
        return tuple(package for package in self.packages if importlib.util.find_spec(package) is None)

    def loader(self) -> Callable[[Checkpoint, LoadOptions], Backend]:
        """The backend's `load`; raises `BackendUnavailable` when a package is missing."""
        missing = self.missing()
        if missing:
            raise BackendUnavailable(
                f"the {self.name} backend needs packages that are not installed",
                expected=", ".join(self.packages),
                got=f"no {', '.join(missing)}",
                remedy=self.remedy,
            )
        load: Callable[[Checkpoint, LoadOptions], Backend] = importlib.import_module(self.module).load
        return load


BACKENDS = {
    entry.name: entry
    for entry in (
        BackendEntry("reference", "hogwild.backends.reference", ("numpy",), "pip install hogwild"),
        BackendEntry("mlx", "hogwild.backends.mlx", ("mlx", "mlx_lm"), "pip install 'hogwild[mlx]'"),
        BackendEntry("cuda", "hogwild.backends.cuda", ("torch", "transformers"), "pip install 'hogwild[cuda]'"),
    )
}


def find_backend(name: str = "auto") -> BackendEntry:
    """The backend of that name; "auto": MLX on an Apple GPU, torch on an NVIDIA GPU, else torch or NumPy on the CPU."""
    if name == "auto":
        return BACKENDS[_best()]
    if name not in BACKENDS:
        raise BackendUnavailable(f"there is no backend {name!r}", expected=f"auto, {', '.join(BACKENDS)}", got=name)
    return BACKENDS[name]


def _best() -> str:
    if platform.system() == "Darwin" and platform.machine() == "arm64" and not BACKENDS["mlx"].missing():
        return "mlx"
    return "cuda" if not BACKENDS["cuda"].missing() else "reference"
