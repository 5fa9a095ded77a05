"""The end of a run, from its transcript: the answer, a table of the workers, time and cache."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from hogwild.cli.blocks import colour_of
from hogwild.cli.printable import printable
from hogwild.cli.units import bytes_text, ratio_text, seconds_text
from hogwild.core import events as ev
from hogwild.models import ALIASES, BUNDLED
from hogwild.transcript import Transcript, WorkerState

BUNDLED_NOTE = "the bundled model is far too small to reason: it shows the engine, not the method"
WORKER_ENDS = {
    "eos": "end of text",
    "answer": "answered",
    "max_tokens": "token limit",
    "length": "context full",
    "dismissed": "dismissed",
    "nan": "not a number",
    "cancelled": "cancelled",
}
SESSION_ENDS = {
    "answer": "answered",
    "workers_ended": "every worker ended",
    "max_passes": "limit of passes",
    "cancelled": "stopped by the user",
}


def answer_text(transcript: Transcript) -> Text:
    """The final answer and whose it is, or that there is none."""
    if transcript.answer is None:
        return Text("no final answer", style="bold yellow")
    author = _author(transcript, transcript.answer)
    return Text.assemble(("answer: ", "bold"), (printable(transcript.answer), "bold green"), author, overflow="fold")


def summary(transcript: Transcript) -> Iterator[RenderableType]:
    """Tables and lines that sum up a run."""
    yield _workers_table(transcript)
    yield _facts_table(transcript)


def note(transcript: Transcript) -> str | None:
    """What must be said about the model, if anything."""
    name = transcript.started.model if transcript.started else ""
    return BUNDLED_NOTE if ALIASES.get(name, name) == BUNDLED else None


def _author(transcript: Transcript, answer: str) -> str:
    given = [entry for entry in transcript.answers if entry.answer == answer]
    names = dict.fromkeys(_giver(transcript, entry) for entry in given)
    return f" ({', '.join(names)})" if names else ""


def _giver(transcript: Transcript, entry: ev.AnswerGiven) -> str:
    name = printable(transcript.workers[entry.worker].name) if entry.worker >= 0 else ""
    if entry.source == "worker":
        return name
    return f"{name}, asked when time was up" if name else "asked when time was up"


def _workers_table(transcript: Transcript) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("worker", overflow="fold")
    for heading in ("steps", "sampled", "forced", "tokens/s"):
        table.add_column(heading, justify="right", overflow="fold")
    table.add_column("state", overflow="fold")
    for worker in transcript.workers.values():
        rate = transcript.tokens_per_second_of(worker.index)
        name = Text(printable(worker.name), style=colour_of(worker.index))
        steps = worker.num_steps + (worker.step is not None and worker.step.num_sampled > 0)
        table.add_row(name, *_numbers(steps, worker.num_sampled, worker.num_forced, rate), state_text(worker))
    steps = len(transcript.finished) + len(transcript.unfinished)
    total = _numbers(steps, transcript.num_sampled, transcript.num_forced, transcript.tokens_per_second)
    table.add_row("all", *total, SESSION_ENDS.get(transcript.reason or "", "cut off"), style="bold")
    return table


def _numbers(steps: int, sampled: int, forced: int, rate: float) -> tuple[str, ...]:
    return str(steps), str(sampled), str(forced), f"{rate:.1f}"


def state_text(worker: WorkerState) -> str:
    """How a worker ended, if it did before its session."""
    return WORKER_ENDS[worker.ended] if worker.ended else "unfinished"


def _facts_table(transcript: Transcript) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in _facts(transcript):
        table.add_row(name, Text(value, overflow="fold"))
    return table


def _facts(transcript: Transcript) -> Iterator[tuple[str, str]]:
    passes = f"{transcript.num_passes} passes"
    rate = f", {transcript.num_passes / transcript.seconds:.1f} passes/s" if transcript.seconds else ""
    yield "time", f"{seconds_text(transcript.seconds)} of decoding, {passes}{rate}"
    yield "prompt", f"{seconds_text(transcript.prompt_seconds)} for {transcript.num_prefilled} tokens"
    yield "cache", cache_text(transcript)
    if len(transcript.budgets) > 1:
        for reached in transcript.budgets:
            answer = "no answer" if reached.answer is None else f"answer {printable(reached.answer)}"
            yield "budget", f"after {reached.budget} passes: {answer}"
    if transcript.checks:
        yield "checks", f"{len(transcript.checks)} asked"
    for name, shares in _attention_of(transcript).items():
        read = ", ".join(f"{100 * share:.0f} % {printable(column)}" for column, share in shares.items())
        yield "attention", f"{printable(name)}: {read}"
    started = transcript.started
    if started is not None:
        facts = (started.model, f"backend {started.backend}", f"layout {started.layout}")
        seed = started.options.get("seed")
        yield "run", printable(", ".join([*facts, f"prompt style {started.prompt_style}", f"seed {seed}"]))
    honest = note(transcript)
    if honest:
        yield "note", honest


def _attention_of(transcript: Transcript) -> dict[str, dict[str, float]]:
    """For each worker the mean share of each column, over layers and the passes that were measured."""
    found: dict[int, list[dict[str, float]]] = {}
    for measured in transcript.attention:
        for worker, *layers in zip(measured.workers, *measured.shares, strict=True):
            means = (sum(shares) / len(layers) for shares in zip(*layers, strict=True))
            found.setdefault(worker, []).append(dict(zip(measured.columns, means, strict=True)))
    return {
        transcript.workers[worker].name: {
            column: sum(table.get(column, 0.0) for table in tables) / len(tables) for column in tables[-1]
        }
        for worker, tables in sorted(found.items())
    }


def cache_text(transcript: Transcript) -> str:
    """K/V of the last pass: shared, and what separate caches would take."""
    size = transcript.kv_bytes_per_token
    stored, separate = transcript.cache_tokens, transcript.separate_tokens
    return (
        f"{stored} tokens shared ({bytes_text(stored * size)}); separate caches would hold {separate} "
        f"({bytes_text(separate * size)}): {ratio_text(stored, separate)}"
    )
