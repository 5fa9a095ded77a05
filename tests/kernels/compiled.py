"""Compile the Triton kernels for NVIDIA GPUs without one, as the launcher would, and look at the machine code.

    python -m tests.kernels.compiled        prints one line for each kernel

In a process of its own: nothing may have been interpreted before. The driver is replaced by one that names a target and
launches nothing; Triton brings the assembler and the disassembler.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from hogwild.backends.base import LayerSpec
from hogwild.backends.cuda.kernels.attention import KernelAttention
from hogwild.backends.cuda.pool import KVPool
from hogwild.core.blocks import Block
from hogwild.core.plan import Row, build_plan
from hogwild.core.pool import PagePool
from hogwild.core.rotary import RotarySpec

SHARED_LIMIT = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}


@dataclass(frozen=True)
class Shape:
    """A model's attention and the workers of a pass."""

    workers: int
    group_size: int  # query heads of a kv head
    dim: int
    dtype: torch.dtype
    kv_dtype: str = "auto"
    window: int | None = None
    softcap: float | None = None
    by_block: bool = False

    def __str__(self) -> str:
        extras = [name for name in ("window", "softcap", "by_block") if getattr(self, name)]
        stored = [] if self.kv_dtype == "auto" else [self.kv_dtype]
        dtype = str(self.dtype).removeprefix("torch.")
        return " ".join([f"W={self.workers} G={self.group_size} D={self.dim}", dtype, *stored, *extras])


# Each on the architectures where it proves something that the others do not: every kind of tensor cores with the most
# rows, and Ampere, which has the least shared memory, with the widest heads.
BF16 = torch.bfloat16
SHAPES = [
    (Shape(8, 8, 128, BF16), (80, 90, 100)),
    (Shape(8, 8, 128, BF16, "int8"), (80, 90, 100)),
    (Shape(4, 5, 128, torch.float16, window=512, softcap=30.0), (80,)),
    (Shape(4, 4, 256, BF16), (80,)),
    (Shape(1, 8, 128, BF16), (90,)),
    (Shape(8, 4, 64, BF16, by_block=True), (90,)),
    (Shape(4, 4, 128, torch.float32), (90,)),
    (Shape(2, 3, 64, torch.float32, "int8"), (90,)),
]
_TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


@dataclass(frozen=True)
class Compiled:
    """One kernel for one architecture: what the assembler says of it, and what stands in its code."""

    kernel: str
    shape: str
    arch: int
    registers: int
    stack_bytes: int  # of local memory; without any there are no spills
    shared_bytes: int
    spills: int  # stores to and loads from local memory
    copies: int  # asynchronous copies from global to shared memory
    wide_copies: int  # those of 16 bytes
    narrow_copies: int  # those of 4 bytes
    tensor_products: int

    def problems(self) -> list[str]:
        """What must not be."""
        found = []
        if self.spills or self.stack_bytes:
            found.append(f"{self.spills} spills, {self.stack_bytes} bytes of stack")
        if self.shared_bytes > SHARED_LIMIT[self.arch]:
            found.append(f"{self.shared_bytes} bytes of shared memory")
        if self.kernel == "attend" and "float32" not in self.shape:
            # In 8 bits scales and slots are copied too, by 4 bytes, and Ampere copies the codes of V by 8.
            in_8_bits = "int8" in self.shape and 2 * self.narrow_copies <= self.copies
            if not self.wide_copies or not (in_8_bits or self.wide_copies == self.copies):
                found.append(f"{self.wide_copies} of {self.copies} copies of K and V take 16 bytes")
            if not self.tensor_products:
                found.append("no tensor cores")
        return found


class NoDevice:
    """A driver that names a target."""

    def __init__(self, arch: int) -> None:
        self._target = GPUTarget("cuda", arch, 32)

    def get_current_target(self) -> GPUTarget:
        return self._target

    def get_current_device(self) -> int:
        return int(self._target.arch)

    def get_current_stream(self, device: Any = None) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")


def compile_all() -> Iterator[Compiled]:
    """Every kernel of every shape for each architecture."""
    run, launched = JITFunction.run, []

    def compile_only(self: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        launched.append((self.__name__, made := run(self, *args, grid=grid, warmup=True, **options)))
        return made

    JITFunction.run = compile_only
    try:
        for arch in SHARED_LIMIT:
            driver.set_active(NoDevice(arch))
            for shape, archs in SHAPES:
                if arch not in archs:
                    continue
                launched.clear()
                launch_a_pass(shape)
                yield from (inspect(name, str(shape), arch, made) for name, made in launched)
    finally:
        JITFunction.run = run


def launch_a_pass(shape: Shape) -> None:
    """One layer of a decoding pass over a prompt of 300 tokens."""
    kv_heads, dim, device = 2, shape.dim, torch.device("cpu")
    rotary = RotarySpec(tuple(1e4 ** -(i / (dim // 2)) for i in range(dim // 2)))
    layers = [LayerSpec(rotary, kv_heads, dim, dim, shape.window)]
    pages = PagePool(64)
    common = Block(pages)
    common.append([1] * 300)
    rows = [Row((common, Block(pages)), (1,)) for _ in range(shape.workers)]
    plan = build_plan([rows], pages.num_slots, [[row.own.append(row.token_ids) for row in rows]])
    pool = KVPool(layers, shape.dtype, device, shape.kv_dtype)
    pool.reserve(pages.num_slots)
    num_heads = kv_heads * shape.group_size
    kernels = KernelAttention(pool, layers, num_heads)
    kernels.load(plan, by_block=shape.by_block)
    # As a projection gives them: token by token, heads side by side.
    q, k = (
        torch.zeros(1, shape.workers, heads, dim, dtype=shape.dtype).transpose(1, 2) for heads in (num_heads, kv_heads)
    )
    options = {"scaling": 0.1, "softcap": shape.softcap}
    if shape.by_block:
        kernels.start().attend_by_block(0, q, k, k.clone(), options)
        return
    module = torch.nn.Module()
    module.layer_idx = 0  # type: ignore[assignment]
    kernels.start().attend(module, q, k, k.clone(), None, options)


def inspect(name: str, shape: str, arch: int, made: Any) -> Compiled:
    """Disassemble one kernel, if it copies keys and values or uses local memory: the disassembler starts slowly."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(made.asm["cubin"])
        file.flush()
        usage = _output("cuobjdump", "--dump-resource-usage", file.name)
        numbers = re.search(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", usage)
        assert numbers is not None, usage
        registers, *local_bytes = map(int, numbers.groups())
        code = _output("nvdisasm", "-c", file.name) if name == "attend" or any(local_bytes) else ""
    return Compiled(
        kernel=name,
        shape=shape,
        arch=arch,
        registers=registers,
        stack_bytes=sum(local_bytes),
        shared_bytes=int(made.metadata.shared),
        spills=len(re.findall(r"\b(?:STL|LDL)\b", code)),
        copies=(copies := len(re.findall(r"\bLDGSTS", code))),
        wide_copies=len(re.findall(r"\bLDGSTS\.E\.(?:\w+\.)*128", code)),
        narrow_copies=copies - len(re.findall(r"\bLDGSTS\.E\.(?:\w+\.)*(?:64|128)", code)),
        tensor_products=len(re.findall(r"\bHG?MMA|UTC\w*MMA", code)),
    )


def _output(tool: str, *arguments: str) -> str:
    return subprocess.run([_TOOLS / tool, *arguments], capture_output=True, text=True, check=True).stdout


def main() -> int:
    """Print what was compiled; 1 if something must not be so."""
    bad = 0
    for made in compile_all():
        problems = made.problems()
        bad += bool(problems)
        print(
            f"sm_{made.arch} {made.shape} {made.kernel}: {made.registers} registers, {made.shared_bytes} bytes shared, "
            f"{made.wide_copies}/{made.copies} wide copies, {made.tensor_products} tensor products "
            + ("; ".join(["REFUSED", *problems]) if problems else "ok"),
            flush=True,
        )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
