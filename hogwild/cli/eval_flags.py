"""The flags of `hogwild eval`, where they are not those of `hogwild generate`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from hogwild.cli.console import remark
from hogwild.errors import OptionError
from hogwild.eval.options import Shard

_WORK, _LIMITS, _RUN = "What is compared", "Limits", "The run"
_SEEDS = re.compile(r"(\d{1,9})(?:-(\d{1,9}))?", re.ASCII)
_SHARD = re.compile(r"(\d{1,6})/(\d{1,6})", re.ASCII)


def _flag(panel: str, name: str, text: str, *more: str, **settings: Any) -> Any:
    return typer.Option(name, *more, help=text, rich_help_panel=panel, **settings)


Out = Annotated[
    Path, typer.Option("--out", "-o", help="Folder of the run; one that is there is continued.", show_default=False)
]
Task = Annotated[str, _flag(_WORK, "--task", "One of the tasks above; some take an argument, as parallel:3.", "-t")]
Data = Annotated[
    str | None,
    _flag(
        _WORK,
        "--data",
        r"Problems to use: a file of lines with problem and answer, NAME.jsonl, or org/name\[@revision]\[:files] on "
        r"the hub. \[default: the task's own]",
        show_default=False,
    ),
]
Count = Annotated[
    int | None,
    _flag(_WORK, "--count", r"How many problems, from the first on. \[default: all]", show_default=False, min=1),
]
TaskSeed = Annotated[int, _flag(_WORK, "--task-seed", "Of tasks that make their problems.", min=0)]
Methods = Annotated[str, _flag(_WORK, "--methods", "Methods as a list, one,vote,combined; see above.")]
Workers = Annotated[str, _flag(_WORK, "--workers", "Numbers of workers, as 2,4; one always has one.", "-n")]
Budgets = Annotated[str, _flag(_WORK, "--budgets", "Passes after which answers are recorded, as 256,512 or 1k,2k,4k.")]
Seeds = Annotated[str, _flag(_WORK, "--seeds", "Seeds, as 0,1,2 or 0-4: each problem once with each.")]
CheckEvery = Annotated[
    int, _flag(_WORK, "--check-every", "Tokens in all between two checks, in methods with +check.", min=1)
]
MaxStepTokens = Annotated[
    int | None,
    _flag(
        _LIMITS,
        "--max-step-tokens",
        r"A step that has not ended by itself after that many tokens is ended. \[default: 256; where answers are "
        "programs, 1024]",
        show_default=False,
        min=1,
    ),
]
AttentionEvery = Annotated[
    int,
    _flag(
        _WORK,
        "--attention-every",
        "In every so many-th pass, as 16, measure whom the workers attend to, for the report; 0: never. The answers "
        "stay the same, the time does not.",
        min=0,
    ),
]
FinisherTokens = Annotated[
    int | None,
    _flag(
        _LIMITS,
        "--finisher-tokens",
        r"Most tokens of an answer that is asked for; 0: none. \[default: the task's own]",
        show_default=False,
        min=0,
    ),
]
MaxTokens = Annotated[
    int | None,
    _flag(
        _LIMITS,
        "--max-tokens",
        r"Most tokens that one worker writes, headers included. \[default: twice the last budget]",
        show_default=False,
        min=1,
    ),
]
Concurrent = Annotated[
    int,
    _flag(
        _RUN,
        "--concurrent",
        "Sessions that share a pass. More is faster; but only with 1 are a row's seconds its own.",
        "-c",
        min=1,
    ),
]
On = Annotated[
    str,
    _flag(
        _RUN,
        "--on",
        "local: in this process. ray: one engine for each GPU of the Ray cluster (of RAY_ADDRESS, or one that is "
        "started here), or for each node if it has none.",
        metavar="[local|ray]",
    ),
]
GpusPerEngine = Annotated[
    int | None,
    _flag(
        _RUN,
        "--gpus-per-engine",
        r"With --on ray: GPUs of one node that hold a model together, cut by its heads. \[default: one, if any]",
        show_default=False,
        min=1,
    ),
]
ShardText = Annotated[
    str | None,
    _flag(
        _RUN,
        "--shard",
        r"Work on part i of n of the problems, as 2/8, in a folder of its own in OUT. \[default: the task of a Slurm "
        "array, if there is one]",
        show_default=False,
        metavar="I/N",
    ),
]
Resume = Annotated[
    bool, _flag(_RUN, "--resume/--no-resume", "Whether a folder that holds rows is continued, or refused.")
]
Traces = Annotated[bool, _flag(_RUN, "--traces", "Keep every session, compressed, for hogwild replay.")]


def read_seeds(text: str) -> tuple[int, ...]:
    """`0,1,2` or `0-4`, or both, each once; `OptionError` for anything else."""
    seeds: list[int] = []
    for part in text.split(","):
        match = _SEEDS.fullmatch(part.strip())
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if not first <= last < first + 100_000:
            raise OptionError("--seeds is not understood", expected="whole numbers, as 0,1,2 or 0-4", got=repr(text))
        seeds += range(first, last + 1)
    return tuple(dict.fromkeys(seeds))


def check_place(on: str, gpus_per_engine: int | None, backend: str) -> str:
    """The backend, where the place fits together with it; `OptionError` where it does not."""
    if on not in ("local", "ray"):
        raise OptionError("--on is not understood", expected="local or ray", got=on)
    if gpus_per_engine is not None and on == "local":
        remedy = f"torchrun --standalone --nproc-per-node {gpus_per_engine} -m hogwild eval ..."
        raise OptionError("--gpus-per-engine goes with --on ray", remedy=remedy)
    if gpus_per_engine is None or gpus_per_engine == 1:
        return backend
    if backend not in ("auto", "cuda"):
        raise OptionError("a model on several GPUs needs the cuda backend", expected="--backend cuda", got=backend)
    return "cuda"


def read_shard(text: str | None, environment: Mapping[str, str]) -> Shard:
    """`2/8`; without it the task of a Slurm array; without that everything. `OptionError` for anything else."""
    if text is None:
        return slurm_shard(environment)
    match = _SHARD.fullmatch(text.strip())
    if match is None:
        raise OptionError("--shard is not understood", expected="part and number of parts, as 2/8", got=repr(text))
    return Shard(int(match[1]), int(match[2]))


def slurm_shard(environment: Mapping[str, str]) -> Shard:
    """From `SLURM_ARRAY_TASK_ID`, `_COUNT`, `_MIN` and `_STEP`, which Slurm gives every task of a job array."""
    names = ("ID", "COUNT", "MIN", "STEP")
    given = {name: environment.get(f"SLURM_ARRAY_TASK_{name}", "") for name in names}
    if not given["ID"]:
        return Shard()
    if not all(value.isascii() and value.isdigit() for value in given.values() if value) or not given["COUNT"]:
        raise OptionError(
            "the variables of the Slurm array are not understood",
            expected="numbers in SLURM_ARRAY_TASK_ID, _COUNT, _MIN and _STEP",
            got=str(given),
            remedy="give --shard I/N",
        )
    index = (int(given["ID"]) - int(given["MIN"] or 0)) // max(int(given["STEP"] or 1), 1)
    shard = Shard(index + 1, int(given["COUNT"]))
    remark(f"task {given['ID']} of a Slurm array: shard {shard}")
    return shard
