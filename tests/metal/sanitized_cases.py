"""Run by `test_sanitizer.py` in a process of its own: a folder, the first seed and the end of the seeds.

After the cases, the first one is done again by kernels that read a head past the end of K.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
from metal_cpu import CpuStarter
from run_case import verdict

from hogwild.backends.mlx.kernels.source import Call, Kernel
from hogwild.conformance.cases import attention_case


def main(folder: str, first: str, last: str) -> None:
    cpu = CpuStarter(Path(folder), optimise=False)

    def start_faulty(kernel: Kernel, call: Call) -> list[mx.array]:
        source = kernel.source.replace("ulong(kv_head) * num_slots", "ulong(kv_heads) * num_slots")
        return cpu(replace(kernel, source=source), call)

    for seed in range(int(first), int(last)):
        cpu.order = seed % 4
        found = verdict(attention_case(seed, max_length=16, dtype="float16"), cpu)
        print(found.case, *found.problems)
    print("done", flush=True)
    verdict(attention_case(int(first), max_length=16, dtype="float16"), start_faulty)
    print("the fault went unseen")


main(*sys.argv[1:])
