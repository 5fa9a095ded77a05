"""Where compiled kernels are kept, and whether kernels run on this CPU."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("mlx.core", reason="needs mlx")

if TYPE_CHECKING:
    from metal_cpu import CpuStarter


@pytest.fixture(scope="session")
def cpu(pytestconfig: pytest.Config) -> CpuStarter:
    """Runs kernels on the CPU; skips where there is no compiler for them."""
    return _starter(pytestconfig, optimise=True)


@pytest.fixture(scope="session")
def seldom(pytestconfig: pytest.Config) -> CpuStarter:
    """The same for kernels that are started a few times only."""
    return _starter(pytestconfig, optimise=False)


def _starter(pytestconfig: pytest.Config, *, optimise: bool) -> CpuStarter:
    import metal_cpu

    reason = metal_cpu.why_not_here()
    if reason is not None:
        pytest.skip(f"Metal kernels do not run on this CPU: {reason}")
    return metal_cpu.CpuStarter(Path(pytestconfig.cache.mkdir("metal")), optimise=optimise)
