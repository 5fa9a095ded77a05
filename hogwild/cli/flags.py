"""The flags of `hogwild generate`; their defaults are those of the dataclasses that they fill."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from hogwild.backends.options import ATTENTIONS, DTYPES, KV_DTYPES
from hogwild.backends.registry import BACKENDS
from hogwild.cli.console import remark
from hogwild.core.layout import LAYOUTS
from hogwild.core.options import MAX_WORKERS, SessionOptions
from hogwild.core.pool import PAGE_SIZE
from hogwild.core.sampling import SamplingParams
from hogwild.errors import OptionError, PromptError
from hogwild.prompts import style_names

SESSION = SessionOptions()
CACHE_TOKENS = 1024

_PROBLEM, _WORKERS, _LIMITS = "Problem and prompt", "Workers", "Limits"
_SAMPLING, _MODEL, _OUTPUT = "Sampling", "Model", "Output"


def _flag(panel: str, name: str, text: str, *more: str, **settings: Any) -> Any:
    return typer.Option(name, *more, help=text, rich_help_panel=panel, **settings)


def _own(panel: str, name: str, text: str, **settings: Any) -> Any:
    """A flag whose default is the model's own."""
    return _flag(panel, name, text + r" \[default: the model's own]", show_default=False, **settings)


Problem = Annotated[
    str | None,
    typer.Argument(help="As text; or use -p.", metavar="PROBLEM", show_default=False, rich_help_panel="The problem"),
]
Prompt = Annotated[
    str | None, _flag(_PROBLEM, "--prompt", "The problem; - reads it from standard input.", "-p", show_default=False)
]
Style = Annotated[
    str,
    _flag(_PROBLEM, "--prompt-style", f"What the workers are told: {', '.join(style_names())}, or a file NAME.toml."),
]
CheckEvery = Annotated[
    int,
    _flag(
        _PROBLEM, "--check-every", "After that many tokens in all, ask a worker whether it repeats others; 0: never."
    ),
]

Workers = Annotated[int, _flag(_WORKERS, "--workers", f"How many think at once, 1 to {MAX_WORKERS}.", "-n")]
LayoutName = Annotated[
    str, _flag(_WORKERS, "--layout", f"Who sees what: {', '.join(LAYOUTS)}, or a file NAME.json.", "-l")
]
Finish = Annotated[
    str,
    _flag(
        _WORKERS,
        "--finish",
        "What ends the session: the first answer; all workers' answers, of which the last counts; or a vote of all.",
        metavar="[first|all|vote]",
    ),
]

MaxPasses = Annotated[int, _flag(_LIMITS, "--max-passes", "Decoding passes; in each, every worker writes one token.")]
MaxTokens = Annotated[int, _flag(_LIMITS, "--max-tokens", "Most tokens that one worker writes, headers included.")]
MaxStepTokens = Annotated[
    int, _flag(_LIMITS, "--max-step-tokens", "A step that has not ended by itself after that many tokens is ended.")
]
FinisherTokens = Annotated[
    int, _flag(_LIMITS, "--finisher-tokens", "Most tokens of the answer that is asked for when time is up; 0: none.")
]
Budgets = Annotated[
    str,
    _flag(
        _LIMITS,
        "--budgets",
        "Numbers of passes, as 64,128, after each of which an answer is recorded, asked for if need be.",
        show_default=False,
    ),
]

AttentionEvery = Annotated[
    int,
    _flag(
        _WORKERS,
        "--attention-every",
        "In every so many-th pass, measure whom the workers attend to; 0: never. What they write stays the same.",
    ),
]

Temperature = Annotated[float | None, _own(_SAMPLING, "--temperature", "Divides the logits; 0 is greedy.")]
TopP = Annotated[float | None, _own(_SAMPLING, "--top-p", "Keep the most likely tokens up to this probability.")]
TopK = Annotated[int | None, _own(_SAMPLING, "--top-k", "Keep the k most likely tokens; 0 keeps all.")]
MinP = Annotated[
    float | None, _own(_SAMPLING, "--min-p", "Keep tokens at least so many times as likely as the likeliest.")
]
RepetitionPenalty = Annotated[
    float | None, _own(_SAMPLING, "--repetition-penalty", "Above 1, tokens seen before are less likely.")
]
Greedy = Annotated[bool, _flag(_SAMPLING, "--greedy", "Always take the likeliest token.")]
Seed = Annotated[int, _flag(_SAMPLING, "--seed", "Same seed, same run.")]

ModelName = Annotated[str, _flag(_MODEL, "--model", "A folder, a GGUF file, org/name\\[@revision], or bundled.", "-m")]
BackendName = Annotated[str, _flag(_MODEL, "--backend", f"auto, {', '.join(BACKENDS)}.")]
Dtype = Annotated[str, _flag(_MODEL, "--dtype", f"Of weights and arithmetic: {', '.join(DTYPES)}.")]
KVDtype = Annotated[
    str, _flag(_MODEL, "--kv-dtype", f"Of the cache: {', '.join(KV_DTYPES)}; auto is that of the arithmetic.")
]
Device = Annotated[str, _flag(_MODEL, "--device", "auto, or the backend's own name of one: cpu, cuda:1, gpu.")]
Attention = Annotated[
    str, _flag(_MODEL, "--attention", f"{', '.join(ATTENTIONS)}; auto takes kernels where they run, see hogwild info.")
]
Compile = Annotated[
    bool,
    _flag(_MODEL, "--compile", "Let torch.compile make the model faster; loading takes minutes, cuda backend only."),
]
CacheTokens = Annotated[
    int, _flag(_MODEL, "--cache-tokens", "Tokens that the cache holds at first; it doubles when full.", min=1)
]
MaxCacheTokens = Annotated[
    int | None,
    _flag(
        _MODEL,
        "--max-cache-tokens",
        r"Most tokens that it may grow to. \[default: what the device holds]",
        min=PAGE_SIZE,
        show_default=False,
    ),
]

Trace = Annotated[
    Path | None,
    _flag(_OUTPUT, "--trace", "Record the run in this new file, for hogwild replay.", show_default=False),
]
Json = Annotated[bool, _flag(_OUTPUT, "--json", "Print one JSON object and nothing else.")]
NoLive = Annotated[bool, _flag(_OUTPUT, "--no-live", "No panes: print each step when it is finished.")]


def read_problem(argument: str | None, option: str | None) -> str:
    """The problem from its one place, `-` meaning standard input; `PromptError` when there is none."""
    if argument is not None and option is not None:
        raise PromptError("the problem is given twice", expected="it as an argument or with -p, not both")
    given = option if option is not None else argument
    if given is None:
        raise PromptError("no problem is given", remedy="hogwild generate 'TEXT', or -p - to read it from a pipe")
    text = _standard_input() if given == "-" else given
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise PromptError("the problem is not valid Unicode text", expected="UTF-8")
    if not text.strip():
        raise PromptError("the problem is empty", expected="some text", remedy="pass it with -p, or - to read it")
    return text


def read_budgets(text: str, max_passes: int) -> tuple[int, ...]:
    """`64,128` as numbers; `OptionError` for anything else, and for what lies beyond the last pass."""
    parts = [part.strip() for part in text.split(",")] if text.strip() else []
    if not all(part.isascii() and part.isdigit() and len(part) < 10 for part in parts):
        raise OptionError("budgets are not understood", expected="numbers of passes, as 64,128", got=text)
    budgets = tuple(map(int, parts))
    if budgets and max(budgets) > max_passes:
        raise OptionError(
            "a budget lies beyond the last pass",
            expected=f"at most {max_passes}",
            got=str(max(budgets)),
            remedy="raise --max-passes",
        )
    return budgets


def choose_sampling(own: SamplingParams, given: dict[str, Any], greedy: bool) -> SamplingParams:
    """What the user gives, and the model's own parameters elsewhere; `OptionError` for values out of range."""
    changes = {name: value for name, value in given.items() if value is not None}
    if greedy and changes.get("temperature"):
        raise OptionError("--greedy and --temperature contradict each other", remedy="leave one of them out")
    if greedy:
        changes["temperature"] = 0.0
    return dataclasses.replace(own, **changes)


def _standard_input() -> str:
    if sys.stdin.isatty():
        remark("reading the problem; end it with Ctrl-D on a line of its own")
    try:
        return sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as error:
        raise PromptError("the problem is not valid Unicode text", expected="UTF-8", got=str(error)) from None
