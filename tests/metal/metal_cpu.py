"""Runs Metal kernels on the CPU: MLX's complete generated source, compiled as C++ behind `shim/metal.h`."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from hogwild.backends.mlx.kernels.source import Call, Kernel

SHIM = Path(__file__).parent / "shim" / "metal.h"
FLAGS = (
    "-std=c++17",
    "-O1",
    "-fPIC",
    "-shared",
    "-fno-exceptions",
    "-fno-threadsafe-statics",
    "-nodefaultlibs",
    "-fno-strict-aliasing",
    "-fvisibility=hidden",
    "-ffp-contract=off",
    "-w",
)
LIBRARIES = ("-lm", "-lgcc", "-lc")  # that of C++ would take half as long to link as a kernel to compile
SANITIZED = "HOGWILD_METAL_SANITIZE"  # set in the process that runs under AddressSanitizer

# Metal's names of a thread's place, and where the shim keeps them.
BUILTINS = {
    "thread_position_in_grid": "shim::current->in_grid",
    "thread_position_in_threadgroup": "shim::current->in_group",
    "thread_index_in_threadgroup": "shim::current->index",
    "thread_index_in_simdgroup": "shim::current->index % 32",
    "simdgroup_index_in_threadgroup": "shim::current->index / 32",
    "threadgroup_position_in_grid": "shim::group",
    "threadgroups_per_grid": "shim::num_groups",
    "threads_per_grid": "shim::grid_size",
    "threads_per_threadgroup": "shim::group_size",
}
NUMPY = {mx.float32: np.float32, mx.float16: np.float16, mx.bfloat16: np.uint16, mx.int32: np.int32, mx.int8: np.int8}


class MetalError(Exception):
    """A kernel did something that no GPU may be asked to do."""


@functools.cache
def compiler() -> str | None:
    """A C++ compiler of this machine."""
    return next((found for name in ("g++", "clang++", "c++") if (found := shutil.which(name))), None)


@functools.cache
def why_not_here() -> str | None:
    """Why kernels cannot run on this CPU, or None."""
    if compiler() is None:
        return "no C++ compiler was found (g++ or clang++)"
    probe = subprocess.run(
        [compiler(), *FLAGS, "-x", "c++", "-o", os.devnull, "-", *LIBRARIES],
        input=f'#include "{SHIM}"\n',
        capture_output=True,
        text=True,
        check=False,
    )
    return None if probe.returncode == 0 else f"{compiler()} does not compile the shim: {probe.stderr[:200]}"


def generated_source(kernel: Kernel, call: Call) -> str:
    """The complete source that MLX would hand to Apple's compiler, signature and all.

    MLX prints it when a call is traced; tracing for the GPU needs no GPU.
    """

    def traced(*arrays: mx.array) -> list[mx.array]:
        return kernel.compiled(**{**call.arguments, "inputs": list(arrays)}, verbose=True, stream=mx.gpu)

    with tempfile.TemporaryDirectory() as folder:
        printed = Path(folder) / "printed"
        with _stdout_to(printed):
            mx.export_function(str(Path(folder) / "traced"), traced, *call.inputs)
        text = printed.read_text(encoding="utf-8")
    return text.split("```\n", 1)[1].rsplit("\n```", 1)[0]


@contextlib.contextmanager
def _stdout_to(path: Path) -> Any:
    """What MLX's C++ code prints goes to a file."""
    sys.stdout.flush()
    kept = os.dup(1)
    with path.open("wb") as file:
        os.dup2(file.fileno(), 1)
        try:
            yield
        finally:
            os.dup2(kept, 1)
            os.close(kept)


def as_cpp(metal: str) -> str:
    """The same source as C++, with an entry that runs the whole grid."""
    found = re.search(r"\[\[kernel\]\] void (\w+)\(\n(.*?)\) \{\n", metal, re.DOTALL)
    assert found, "MLX's generated source has no kernel where one is expected"
    name, parameters = found.groups()
    instance = re.search(r"decltype\((\w+<.*?>)\) ", metal)
    metal = re.sub(r"\ntemplate \[\[host_name.*", "", metal, flags=re.DOTALL)
    arguments = []
    for parameter in parameters.split(",\n"):
        declared, attribute, number = re.match(r"\s*(.*?)\s*\[\[(\w+)(?:\((\d+)\))?\]\]", parameter).groups()
        if attribute == "buffer":
            kind = re.sub(r"\b(device|constant)\b", "", declared.rsplit(" ", 1)[0])
            arguments.append(f"({kind})shim_buffers[{number}]")
        else:
            arguments.append(BUILTINS[attribute])
    metal = re.sub(r"#include <metal\w*>", "", metal)
    metal = re.sub(r"\[\[[^\]]*\]\]", "", metal)
    metal = re.sub(r"\bthreadgroup (\w+) (\w+)\[([^\]]+)\];", r"THREADGROUP_ARRAY(\1, \2, (\3));", metal)
    metal = re.sub(r"\bthreadgroup\b ", "", metal)
    called = instance.group(1) if instance else name
    return f"""#include "{SHIM}"
namespace metal {{}}
using namespace metal;
{metal}
static void** shim_buffers;
static void shim_body() {{ {called}({", ".join(arguments)}); }}
extern "C" __attribute__((visibility("default"))) const char* run(void** buffers, const uint* grid,
                                                                  const uint* threads, int order) {{
  shim_buffers = buffers;
  return shim::run_grid(shim_body, grid, threads, order);
}}
"""


class CpuStarter:
    """Starts kernels on the CPU; compiled ones are kept in `folder`.

    order: bit 0 runs simdgroups and lanes backwards, bit 1 spreads matrices over the lanes in another way, and gives
    NaN as the larger and the smaller one of NaN and a number.
    optimise: False for kernels that run seldom: they compile in half the time, and run three times slower.
    """

    def __init__(self, folder: Path, order: int = 0, *, optimise: bool = True) -> None:
        self.folder, self.order = folder, order
        self.flags = [*FLAGS, *(() if optimise else ("-O0",))]
        if os.environ.get(SANITIZED):
            self.flags += ["-g1", "-fsanitize=address"]
        self._libraries: dict[Any, tuple[Any, list[str]]] = {}

    @property
    def num_compiled(self) -> int:
        """How many different kernels were called for."""
        return len(self._libraries)

    def __call__(self, kernel: Kernel, call: Call) -> list[mx.array]:
        """Run one kernel; `MetalError` if its threads do not keep together."""
        library, buffers = self._library(kernel, call)
        arrays = _buffers(buffers, kernel, call)
        pointers = (ctypes.c_void_p * len(arrays))(*(array.ctypes.data for array in arrays.values()))
        triple = ctypes.c_uint * 3
        failure = library.run(pointers, triple(*call.grid), triple(call.threads, 1, 1), self.order)
        if failure:
            raise MetalError(f"{kernel.name}: {failure.decode()}")
        return [_to_mlx(arrays[name], dtype) for name, (_, dtype) in zip(kernel.outputs, call.outputs, strict=True)]

    def _library(self, kernel: Kernel, call: Call) -> tuple[Any, list[str]]:
        arrays = tuple((x.dtype, x.ndim == 0, x.size < 8) for x in call.inputs)
        key = (kernel, tuple(call.template), arrays, tuple(dtype for _, dtype in call.outputs))
        if key not in self._libraries:
            metal = generated_source(kernel, call)
            library = ctypes.CDLL(str(self._compiled(as_cpp(metal))))
            library.run.restype = ctypes.c_char_p
            self._libraries[key] = library, re.findall(r"(\w+) \[\[buffer\(\d+\)\]\]", metal)
        return self._libraries[key]

    def _compiled(self, cpp: str) -> Path:
        name = hashlib.sha256("\0".join([cpp, SHIM.read_text(), compiler(), *self.flags]).encode()).hexdigest()[:24]
        path = self.folder / f"{name}.so"
        if not path.exists():
            with tempfile.TemporaryDirectory(dir=self.folder) as folder:
                source, built = Path(folder) / "kernel.cpp", Path(folder) / "kernel.so"
                source.write_text(cpp)
                command = [compiler(), *self.flags, str(source), "-o", str(built), *LIBRARIES]
                plain = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
                done = subprocess.run(command, env=plain, capture_output=True, text=True, check=False)
                if done.returncode:
                    raise MetalError(f"the kernel does not compile:\n{done.stderr[:4000]}")
                built.replace(path)
        return path


def _buffers(names: list[str], kernel: Kernel, call: Call) -> dict[str, np.ndarray]:
    """An array for each parameter of the signature; results are filled with NaN."""
    given = dict(zip(kernel.inputs, call.inputs, strict=True))
    results = dict(zip(kernel.outputs, call.outputs, strict=True))
    arrays = {}
    for name in names:
        if name in given:
            arrays[name] = _to_numpy(given[name])
        elif name in results:
            shape, dtype = results[name]
            arrays[name] = np.full(shape, -1, dtype=f"i{dtype.size}").view(NUMPY[dtype])
        else:
            assert name.endswith("_shape"), f"no array for {name}"
            arrays[name] = np.array(given[name.removesuffix("_shape")].shape, dtype=np.int32)
    return arrays


def _to_numpy(x: mx.array) -> np.ndarray:
    return np.array(x.view(mx.uint16) if x.dtype == mx.bfloat16 else x)


def _to_mlx(x: np.ndarray, dtype: Any) -> mx.array:
    return mx.array(x).view(mx.bfloat16) if dtype == mx.bfloat16 else mx.array(x)
