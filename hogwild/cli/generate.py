"""`hogwild generate`: work on one problem and show it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import typer

from hogwild.backends.options import LoadOptions
from hogwild.backends.registry import find_backend
from hogwild.cli import flags
from hogwild.cli.app import INTERRUPTED
from hogwild.cli.console import can_show_live, remark, results_console
from hogwild.cli.environment import model_facts, versions
from hogwild.cli.report import report
from hogwild.cli.run import Interrupt, passes
from hogwild.cli.summary import note
from hogwild.cli.units import seconds_text
from hogwild.cli.views import LiveView, SilentView, StreamView, View
from hogwild.core.layout import find_layout
from hogwild.core.options import FinishPolicy, SessionOptions
from hogwild.core.sampling import SamplingParams
from hogwild.engine import Engine
from hogwild.errors import OptionError
from hogwild.model import Model, load
from hogwild.prompts import DEFAULT_STYLE, PromptStyle, find_style
from hogwild.trace import TraceWriter
from hogwild.transcript import Transcript

HELP = "\n\n".join(
    (
        "All workers write at once: in each pass every one of them adds a token, and reads what the others have "
        "written so far, from one shared cache. A finished paragraph (a step) is published to the "
        "history that all read.",
        "[bold]Layouts[/bold] say who sees what.",
        "[cyan]combined[/cyan]: published steps, and the others' unfinished ones, token by token.",
        "[cyan]interleaved[/cyan]: the others' steps once they are published.",
        "[cyan]contiguous[/cyan]: one growing text for each worker; all see all of them.",
        "[cyan]independent[/cyan]: nobody sees anybody.",
        "A file NAME.json is a layout of your own.",
    )
)
EPILOG = """[bold]Examples[/bold]

hogwild generate 'How much is 17 times 23?' --workers 3

cat problem.txt | hogwild generate -p - --layout independent --finish vote --json

hogwild generate -p 'Prove it.' --model Qwen/Qwen3-8B --trace run.jsonl
"""


@dataclass(frozen=True, slots=True)
class Task:
    """A checked request: everything that can be known without the model."""

    problem: str
    style: PromptStyle
    options: SessionOptions
    sampling: Mapping[str, Any]
    greedy: bool


def command(
    problem: flags.Problem = None,
    prompt: flags.Prompt = None,
    prompt_style: flags.Style = DEFAULT_STYLE,
    check_every: flags.CheckEvery = flags.SESSION.check_every,
    workers: flags.Workers = flags.SESSION.num_workers,
    layout: flags.LayoutName = flags.SESSION.layout.name,
    finish: flags.Finish = flags.SESSION.finish,
    max_passes: flags.MaxPasses = flags.SESSION.max_passes,
    max_tokens: flags.MaxTokens = flags.SESSION.max_tokens,
    max_step_tokens: flags.MaxStepTokens = flags.SESSION.max_step_tokens,
    finisher_tokens: flags.FinisherTokens = flags.SESSION.finisher_tokens,
    budgets: flags.Budgets = "",
    attention_every: flags.AttentionEvery = flags.SESSION.attention_every,
    temperature: flags.Temperature = None,
    top_p: flags.TopP = None,
    top_k: flags.TopK = None,
    min_p: flags.MinP = None,
    repetition_penalty: flags.RepetitionPenalty = None,
    greedy: flags.Greedy = False,
    seed: flags.Seed = flags.SESSION.seed,
    model: flags.ModelName = "bundled",
    backend: flags.BackendName = "auto",
    dtype: flags.Dtype = "auto",
    device: flags.Device = "auto",
    attention: flags.Attention = "auto",
    kv_dtype: flags.KVDtype = "auto",
    compile_model: flags.Compile = False,
    cache_tokens: flags.CacheTokens = flags.CACHE_TOKENS,
    max_cache_tokens: flags.MaxCacheTokens = None,
    trace: flags.Trace = None,
    as_json: flags.Json = False,
    no_live: flags.NoLive = False,
) -> None:
    """Check everything that can be checked without the model, load it, run, and show the result."""
    sampling = {
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "min_p": min_p,
        "repetition_penalty": repetition_penalty,
    }
    options = SessionOptions(
        num_workers=workers,
        layout=find_layout(layout),
        max_passes=max_passes,
        max_tokens=max_tokens,
        max_step_tokens=max_step_tokens,
        finisher_tokens=finisher_tokens,
        check_every=check_every,
        finish=cast(FinishPolicy, finish),  # checked by SessionOptions
        budgets=flags.read_budgets(budgets, max_passes),
        attention_every=attention_every,
        seed=seed,
        sampling=flags.choose_sampling(SamplingParams(), sampling, greedy),
    )
    task = Task(flags.read_problem(problem, prompt), find_style(prompt_style), options, sampling, greedy)
    options.layout.check(workers, (*task.style.texts, *options.layout.texts))
    if max_cache_tokens is not None and max_cache_tokens < cache_tokens:
        raise OptionError(
            "the cache starts larger than it may grow",
            expected=f"--cache-tokens at most {max_cache_tokens}",
            got=str(cache_tokens),
        )
    load_options = LoadOptions(dtype, device, attention, kv_dtype, compile_model)
    find_backend(backend)
    with TraceWriter(trace) if trace is not None else contextlib.nullcontext() as writer:
        loaded = load_model(model, backend, load_options)
        engine = Engine(loaded, cache_tokens, max_cache_tokens)
        try:
            run(engine, task, view_for(as_json, no_live), writer, as_json)
        finally:
            engine.close()


def run(engine: Engine, task: Task, view: View, writer: TraceWriter | None, as_json: bool) -> None:
    """Work on the task, show and record it; `typer.Exit` with 130 when the user stopped it."""
    sampling = flags.choose_sampling(engine.model.default_sampling(), dict(task.sampling), task.greedy)
    session = engine.submit(task.problem, dataclasses.replace(task.options, sampling=sampling), task.style)
    facts = {"versions": versions(), "model": model_facts(engine.model)}
    if writer is not None:
        writer.write_header(facts)
    transcript = Transcript()
    with Interrupt() as interrupt:
        try:
            with view:
                for events in passes(engine, session, interrupt):
                    for event in events:
                        transcript.apply(event)
                    if writer is not None:
                        writer.write(events)
                    view.update(transcript)
        except KeyboardInterrupt:
            interrupt.requested = True
        finally:
            show_end(transcript, facts, view, as_json)
    if interrupt.requested:
        raise typer.Exit(INTERRUPTED)


def show_end(transcript: Transcript, facts: Mapping[str, Any], view: View, as_json: bool) -> None:
    """The result: one JSON object, or the rest of the text and the summary."""
    if not as_json:
        view.finish(transcript)
        return
    print(json.dumps(report(transcript, facts)))
    honest = note(transcript)
    if honest:
        remark(f"note: {honest}")


def load_model(name: str, backend: str, options: LoadOptions) -> Model:
    """Load a model and say so on stderr."""
    started = time.perf_counter()
    remark(f"loading {name} ...")
    model = load(name, backend=backend, **dataclasses.asdict(options))
    info = model.backend.info
    seconds = seconds_text(time.perf_counter() - started)
    remark(f"{name} is loaded: {info.name} backend, {info.dtype} on {info.device}, {seconds}")
    return model


def view_for(as_json: bool, no_live: bool) -> View:
    """Panes on a terminal, text elsewhere, nothing for JSON."""
    if as_json:
        return SilentView()
    console = results_console()
    return LiveView(console) if can_show_live() and not no_live else StreamView(console)
