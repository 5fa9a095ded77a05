"""`hogwild bench`: how fast passes are, against the physical floor and against an independent batch."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from hogwild.backends.options import LoadOptions
from hogwild.backends.registry import find_backend
from hogwild.bench import BenchOptions, Report, read_sizes, run_bench
from hogwild.bench.machine import commit, machine_facts
from hogwild.bench.render import to_csv, to_json, to_tables
from hogwild.bench.room import check_model, check_shape, check_views
from hogwild.bench.yardstick import free_bytes, runs_on_cpu
from hogwild.cli import flags
from hogwild.cli.app import INTERRUPTED, MISUSE
from hogwild.cli.console import print_all, remark, results_console
from hogwild.cli.environment import model_facts, versions
from hogwild.cli.generate import load_model
from hogwild.cli.machine import memory_bytes
from hogwild.cli.run import Interrupt
from hogwild.core.layout import find_layout
from hogwild.errors import OptionError
from hogwild.model import Model
from hogwild.models.shapes import SHAPES, shape_checkpoint

HELP = "\n\n".join(
    (
        "A pass is the engine's: plan, forward, greedy choice, tokens back on the host. It is compared with the bytes "
        "that it must move at the bandwidth of a large copy (the floor), with one worker, and with an "
        "independent batch of the same size and lengths in the same framework, which takes turns with it.",
        "docs/benchmark.md explains every number.",
    )
)
EPILOG = """[bold]Examples[/bold]

hogwild bench --workers 1,2,4 --context 1k,4k

hogwild bench --shape qwen3-8b --dtype bf16 --workers 1,2,4,8 --context 1k,4k,16k --output h200.json
"""
DEFAULTS = BenchOptions()
FORMATS: Mapping[str, Callable[[Report], str] | None] = {"table": None, "json": to_json, "csv": to_csv}
FILE_FORMATS = {".json": to_json, ".csv": to_csv}
SHORT_DTYPES = {"fp64": "float64", "fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}

_WHAT, _MODEL, _HOW, _OUTPUT = "What is measured", "Model", "How", "Output"


def _flag(panel: str, name: str, text: str, *more: str, **settings: Any) -> Any:
    return typer.Option(name, *more, help=text, rich_help_panel=panel, **settings)


Workers = Annotated[str, _flag(_WHAT, "--workers", "Numbers of workers.", "-n")]
Contexts = Annotated[str, _flag(_WHAT, "--context", "Tokens in each worker's view; 4k is 4096.", "-c")]
LayoutName = Annotated[str, _flag(_WHAT, "--layout", "Who sees what: a name, or a file NAME.json.", "-l")]
StepTokens = Annotated[
    int, _flag(_WHAT, "--step-tokens", "Mean length of published steps in the shared history; 0: one long prompt.")
]
Shape = Annotated[
    str | None,
    _flag(_MODEL, "--shape", f"Random weights in the shape of {', '.join(SHAPES)}.", show_default=False),
]
Dtype = Annotated[str, _flag(_MODEL, "--dtype", f"auto, or {', '.join(SHORT_DTYPES)}.")]
ModelName = Annotated[
    str | None,
    _flag(
        _MODEL,
        "--model",
        r"A folder, a GGUF file, org/name\[@revision], or bundled. \[default: bundled]",
        "-m",
        show_default=False,
    ),
]
Passes = Annotated[int, _flag(_HOW, "--passes", "Timed passes for each case.")]
Warmup = Annotated[int, _flag(_HOW, "--warmup", "Passes before them that are not timed.")]
Batch = Annotated[bool, _flag(_HOW, "--batch/--no-batch", "Measure an independent batch, too.")]
Seed = Annotated[int, _flag(_HOW, "--seed", "Of tokens and random weights.")]
Format = Annotated[str, _flag(_OUTPUT, "--format", f"What is printed: {', '.join(FORMATS)}.", "-o")]
Output = Annotated[
    Path | None,
    _flag(_OUTPUT, "--output", "Write the results to this new file, too: NAME.json or NAME.csv.", show_default=False),
]


def command(
    workers: Workers = "1,2,4",
    context: Contexts = "1k,4k",
    layout: LayoutName = DEFAULTS.layout.name,
    step_tokens: StepTokens = DEFAULTS.step_tokens,
    model: ModelName = None,
    shape: Shape = None,
    backend: flags.BackendName = "auto",
    dtype: Dtype = "auto",
    device: flags.Device = "auto",
    attention: flags.Attention = "auto",
    kv_dtype: flags.KVDtype = "auto",
    compile_model: flags.Compile = False,
    passes: Passes = DEFAULTS.passes,
    warmup: Warmup = DEFAULTS.warmup,
    batch: Batch = DEFAULTS.batch,
    seed: Seed = DEFAULTS.seed,
    output_format: Format = "table",
    output: Output = None,
) -> None:
    """Check everything that can be checked without the model, load it, measure, and show the result."""
    options = BenchOptions(
        workers=read_sizes(workers, "workers"),
        contexts=read_sizes(context, "context"),
        layout=find_layout(layout),
        passes=passes,
        warmup=warmup,
        step_tokens=step_tokens,
        batch=batch,
        seed=seed,
    )
    load_options = LoadOptions(SHORT_DTYPES.get(dtype, dtype), device, attention, kv_dtype, compile_model)
    check_views(options)
    check_output(output_format, output)
    loaded = load(model, shape, backend, load_options, options)
    try:
        report = new_report(loaded, shape, options)
        with Interrupt() as interrupt, _kept(report, output_format, output):
            run_bench(loaded.backend, options, report, remark, lambda: interrupt.requested)
    finally:
        loaded.close()
    show(report, output_format, output)
    if report.problem:
        remark(f"{'stopped' if interrupt.requested else 'error'}: {_how_far(report, options)}")
        raise typer.Exit(INTERRUPTED if interrupt.requested else MISUSE)


def check_output(output_format: str, output: Path | None) -> None:
    """`OptionError` for a format that is not known, and for a file that could not be written at the end."""
    if output_format not in FORMATS:
        raise OptionError(f"unknown format {output_format!r}", expected=", ".join(FORMATS), got=output_format)
    if output is None:
        return
    if output.suffix not in FILE_FORMATS:
        raise OptionError(
            f"cannot tell what to write to {output}", expected=" or ".join(FILE_FORMATS), got=output.suffix or "nothing"
        )
    if not output.parent.is_dir():
        raise OptionError(f"there is no folder {output.parent}", expected="an existing folder", got=str(output))
    try:
        output.open("x").close()
    except FileExistsError:
        raise OptionError(f"the file {output} exists already", remedy="choose another name") from None
    except OSError as error:
        raise OptionError(f"cannot write {output}", got=error.strerror or str(error)) from None
    output.unlink()


def load(model: str | None, shape: str | None, backend: str, load_options: LoadOptions, options: BenchOptions) -> Model:
    """The model, or random weights in a shape, if context and memory suffice."""
    entry = find_backend(backend)
    if shape is None:
        loaded = load_model(model or "bundled", backend, load_options)
        info = loaded.backend.info
        check_model(loaded.spec, options, free_bytes(info.name, info.device == "cpu"))
        return loaded
    if model is not None:
        raise OptionError("--model and --shape contradict each other", remedy="leave one of them out")
    checkpoint = shape_checkpoint(shape, options.seed)
    loader, on_cpu = entry.loader(), runs_on_cpu(entry.name, load_options.device)
    dtype = load_options.dtype if load_options.dtype != "auto" else "float32" if on_cpu else "bfloat16"
    check_shape(shape, options, dtype, load_options.kv_dtype, free_bytes(entry.name, on_cpu))
    remark(f"making random weights in the shape of {shape} ...")
    resolved = dataclasses.replace(load_options, dtype=dtype)
    return Model(shape, loader(checkpoint, resolved), checkpoint.tokenizer, checkpoint.generation_config)


def new_report(model: Model, shape: str | None, options: BenchOptions) -> Report:
    """A report without results."""
    settings = {field.name: getattr(options, field.name) for field in dataclasses.fields(options)}
    settings |= {"workers": list(options.workers), "contexts": list(options.contexts), "layout": options.layout.name}
    return Report(
        command=shlex.join(["hogwild", *sys.argv[1:]]),
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        commit=commit(),
        machine={**machine_facts(), "memory_bytes": memory_bytes()["total"]},
        versions=versions(),
        model={**model_facts(model), "random_weights": shape is not None},
        settings=settings,
    )


def show(report: Report, output_format: str, output: Path | None) -> None:
    """Print the results, and write them where they are asked for."""
    if output is not None:
        text = FILE_FORMATS[output.suffix](report)
        try:
            output.write_text(text, encoding="utf-8")
            remark(f"results are in {output}")
        except OSError as error:
            remark(f"error: cannot write {output}: {error.strerror or error}")
    render: Any = FORMATS[output_format]
    if render is None:
        print_all(results_console(), to_tables(report))
    else:
        sys.stdout.write(render(report))


@contextlib.contextmanager
def _kept(report: Report, output_format: str, output: Path | None) -> Iterator[None]:
    """Show what is measured when something else goes wrong, which is then raised."""
    try:
        yield
    except Exception as error:
        if report.decode:
            report.problem = f"{type(error).__name__}: {error}"
            show(report, output_format, output)
        raise


def _how_far(report: Report, options: BenchOptions) -> str:
    return (
        f"{len(report.decode)} of {len(options.workers) * len(options.contexts)} cases are measured; {report.problem}"
    )
