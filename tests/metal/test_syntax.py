"""Every kernel, in every shape class, through clang's type checker with Metal's address spaces."""

from __future__ import annotations

import functools
import importlib.util
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("mlx.core", reason="needs mlx")

import mlx.core as mx
from made_case import made_case
from metal_cpu import generated_source
from run_case import attend

from hogwild.backends.mlx.kernels.launch import CAPACITIES
from hogwild.backends.mlx.kernels.source import KERNELS, Call, Kernel

HEADER = Path(__file__).parent / "shim" / "address_spaces.h"
FLAGS = (
    "-Qunused-arguments",
    "-std=c++14",  # what Metal is based on before version 4
    "-x",
    "c++",
    "-fsyntax-only",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-Wno-unused",
    "-Wno-sign-compare",
)

FAULTS = {
    "wrong address space": ("const device int* row", "const threadgroup int* row"),
    "no address space": ("const device int* row", "const int* row"),
    "store to a constant array": ("partial_lse[row", "queries[row"),
    "double": ("float score[ROWS]", "double score[ROWS]"),
    "newer than C++14": ("if (num_rows <= 0) {", "if constexpr (ROWS == 0) {"),
    "undeclared": ("slot_at(tables", "slot_of(tables"),
    "threadgroup array as device array": (
        "threadgroup float all_sum",
        "thread float* all_sum = all_best; threadgroup float x",
    ),
}


class Recorder:
    """Starts no kernel, but remembers the calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[Kernel, Call]] = []

    def __call__(self, kernel: Kernel, call: Call) -> list[mx.array]:
        self.calls.append((kernel, call))
        return [mx.zeros(shape, dtype) for shape, dtype in call.outputs]


@pytest.fixture(scope="session")
def clang() -> list[str]:
    """The command that starts a clang which has all types of the header: older ones do not convert `__bf16`."""
    commands = [[path] for path in [shutil.which("clang++")] if path is not None]
    if importlib.util.find_spec("ziglang") is not None:
        commands.append([sys.executable, "-m", "ziglang", "clang"])
    for command in commands:
        if problems(command, []) == "":
            return command
    pytest.skip("no clang was found that is new enough (clang++, or the package ziglang)")


@functools.cache
def calls() -> tuple[tuple[Kernel, Call], ...]:
    """A call of each kernel in each shape class."""
    recorder = Recorder()
    for dtype in ("float32", "float16", "bfloat16"):
        for dim in CAPACITIES:
            for new_tokens, group_size in (((1,), 1), ((1, 1), 2), ((1,), 8), ((4,), 4), ((9,), 4)):
                sizes = {"key_dim": dim, "value_dim": dim, "group_size": group_size, "new_tokens": new_tokens}
                for kv_dtype in ("auto", "int8"):
                    attend(made_case(dtype=dtype, kv_dtype=kv_dtype, **sizes), recorder, by_block=True)
    by_class = {}
    for kernel, call in recorder.calls:
        by_class[(kernel.name, *call.template, *(x.dtype for x in call.inputs[:2]))] = kernel, call
    return tuple(by_class.values())


def problems(clang: list[str], sources: list[str]) -> str:
    """What clang says; each source stands in a namespace of its own."""
    parts = [f'#include "{HEADER}"']
    for i, metal in enumerate(sources):
        name, instance = re.search(r"void (\w+)\(", metal).group(1), re.search(r"decltype\((\w+<.*?>)\) ", metal)
        metal = re.sub(r"\ntemplate \[\[host_name.*", "", metal, flags=re.DOTALL)
        metal = re.sub(r"\[\[[^\]]*\]\]|#include <metal\w*>", "", metal)
        metal = re.sub(r"\bthreadgroup (\w+) (\w+)\[([^\]]+)\];", r"static threadgroup \1 \2[\3];", metal)
        used = f"template decltype({instance.group(1)}) {instance.group(1)};" if instance else f"auto* use = {name};"
        parts.append(f"namespace class_{i} {{\n{metal}\n{used}\n}}")
    command = [*clang, *FLAGS, "-"]
    return subprocess.run(command, input="\n".join(parts), capture_output=True, text=True, check=False).stderr


def test_every_class_is_well_formed(clang: list[str]) -> None:
    classes = calls()
    assert {kernel.name for kernel, _ in classes} == {kernel.name for kernel in KERNELS}
    assert problems(clang, [generated_source(kernel, call) for kernel, call in classes]) == ""


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_found(clang: list[str], name: str) -> None:
    old, new = FAULTS[name]
    kernel, call = next((kernel, call) for kernel, call in calls() if kernel.name == "hogwild_attend_vector")
    broken = replace(kernel, header=kernel.header.replace(old, new), source=kernel.source.replace(old, new))
    assert broken != kernel
    assert "error" in problems(clang, [generated_source(broken, call)])
