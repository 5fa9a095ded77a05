"""`hogwild eval`: compare methods on a task, in a run that survives being killed."""

from __future__ import annotations

import dataclasses
import functools
import os

import typer

from hogwild.backends.options import LoadOptions
from hogwild.backends.registry import find_backend
from hogwild.bench.options import read_sizes
from hogwild.cli import eval_flags, flags
from hogwild.cli.eval_run import How, new_engine, run, run_on_ray
from hogwild.core.sampling import SamplingParams
from hogwild.errors import OptionError
from hogwild.eval.evaluation import Study
from hogwild.eval.methods import METHODS, find_methods
from hogwild.eval.options import CHECK_EVERY, EvalOptions
from hogwild.eval.tasks import TASKS, answer_tokens, find_task, load_problems
from hogwild.prompts import DEFAULT_STYLE, find_style

HELP = "\n\n".join(
    (
        "Every method works on every problem with every seed: the same model, sampling and budgets. One session gives "
        "the answer at each budget of passes; where there is none yet, it is asked for.",
        "[bold]Methods[/bold]  (add +check to ask the workers now and then whether they repeat others)",
        *(f"[cyan]{name}[/cyan]: {text}." for name, text in METHODS.items()),
        "[bold]Tasks[/bold]",
        *(f"[cyan]{task.name}[/cyan]: {task.summary}." for task in TASKS.values()),
        "Each session is one line of OUT/rows.jsonl, on the disk before the next one is begun. Give the same command "
        "again after a kill, and it goes on; with other settings it refuses and says what differs.",
        "Exit codes: 0 all sessions are done; 1 some failed (each is a row with its reason), or the disk did not take "
        "a row; 2 misuse; 130 stopped with Ctrl-C.",
    )
)
EPILOG = """[bold]Examples[/bold]

hogwild eval --out runs/try --task parallel --count 10 --methods one,vote,combined --budgets 64,128,256

hogwild eval --out runs/gsm8k --model Qwen/Qwen3-8B --task gsm8k --methods one,combined,combined+check --workers 2,4

hogwild report runs/gsm8k
"""


def command(
    out: eval_flags.Out,
    task: eval_flags.Task = "parallel",
    data: eval_flags.Data = None,
    count: eval_flags.Count = None,
    task_seed: eval_flags.TaskSeed = 0,
    methods: eval_flags.Methods = "one,vote,combined",
    workers: eval_flags.Workers = "2",
    budgets: eval_flags.Budgets = "256,512,1024",
    seeds: eval_flags.Seeds = "0",
    prompt_style: flags.Style = DEFAULT_STYLE,
    check_every: eval_flags.CheckEvery = CHECK_EVERY,
    attention_every: eval_flags.AttentionEvery = 0,
    max_tokens: eval_flags.MaxTokens = None,
    max_step_tokens: eval_flags.MaxStepTokens = None,
    finisher_tokens: eval_flags.FinisherTokens = None,
    temperature: flags.Temperature = None,
    top_p: flags.TopP = None,
    top_k: flags.TopK = None,
    min_p: flags.MinP = None,
    repetition_penalty: flags.RepetitionPenalty = None,
    greedy: flags.Greedy = False,
    model: flags.ModelName = "bundled",
    backend: flags.BackendName = "auto",
    dtype: flags.Dtype = "auto",
    kv_dtype: flags.KVDtype = "auto",
    device: flags.Device = "auto",
    attention: flags.Attention = "auto",
    compile_model: flags.Compile = False,
    cache_tokens: flags.CacheTokens = flags.CACHE_TOKENS,
    max_cache_tokens: flags.MaxCacheTokens = None,
    concurrent: eval_flags.Concurrent = 1,
    on: eval_flags.On = "local",
    gpus_per_engine: eval_flags.GpusPerEngine = None,
    shard: eval_flags.ShardText = None,
    resume: eval_flags.Resume = True,
    traces: eval_flags.Traces = False,
) -> None:
    """Check everything that can be checked without the model, load it, and work until every row is there."""
    given = {
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "min_p": min_p,
        "repetition_penalty": repetition_penalty,
    }
    part = eval_flags.read_shard(shard, os.environ)
    kind = find_task(task)
    style = find_style(prompt_style)
    kinds = find_methods(_names(methods), read_sizes(workers, "workers"), style, programs=kind.grading == "code")
    options = EvalOptions(
        budgets=tuple(sorted(read_sizes(budgets, "budgets"))),
        sampling=flags.choose_sampling(SamplingParams(), given, greedy),
        max_tokens=max_tokens,
        max_step_tokens=max_step_tokens or max(flags.SESSION.max_step_tokens, kind.finisher_tokens),
        check_every=check_every,
        attention_every=attention_every,
        finisher_tokens=kind.finisher_tokens if finisher_tokens is None else finisher_tokens,
    )
    seed_list = eval_flags.read_seeds(seeds)
    if not resume and any(out.rglob("rows.jsonl")):
        raise OptionError(f"{out} holds a run", remedy="give another --out, or leave out --no-resume")
    asked = {"task": task, "data": data, "seed": task_seed}
    problems = load_problems(task, data=data, count=count, seed=task_seed)
    if finisher_tokens is None:
        options = dataclasses.replace(options, finisher_tokens=answer_tokens(task, problems))
    load_options = LoadOptions(dtype, device, attention, kv_dtype, compile_model)
    backend = eval_flags.check_place(on, gpus_per_engine, backend)
    find_backend(backend)
    make_engine = functools.partial(new_engine, model, backend, load_options, cache_tokens, max_cache_tokens)

    def study_with(own: SamplingParams) -> Study:
        sampling = flags.choose_sampling(own, given, greedy)
        return Study(problems, asked, kinds, seed_list, dataclasses.replace(options, sampling=sampling))

    how = How(out, part, concurrent, traces)
    go = run if on == "local" else functools.partial(run_on_ray, gpus_per_engine=gpus_per_engine)
    code = go(make_engine, study_with, how)
    if code:
        raise typer.Exit(code)


def _names(text: str) -> list[str]:
    names = [part.strip() for part in text.split(",") if part.strip()]
    if not names:
        raise OptionError("no method is given", expected=", ".join(METHODS))
    return names
