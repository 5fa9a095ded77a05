"""`hogwild demo`: two workers of the bundled model write together, and a small experiment proves that they share."""

from __future__ import annotations

import random

import typer

from hogwild.backends.options import LoadOptions
from hogwild.cli import flags
from hogwild.cli.console import results_console
from hogwild.cli.generate import Task, load_model, run, view_for
from hogwild.cli.printable import printable
from hogwild.core.layout import find_layout
from hogwild.core.options import SessionOptions
from hogwild.engine import Engine
from hogwild.prompts import find_style
from hogwild.proof import SharingProof, prove_sharing

PROBLEM = "Why is it good to drink enough water?"
MAX_PASSES = 72
SAMPLING = {"temperature": 0.3, "top_p": 0.9, "repetition_penalty": 1.1}

HELP = "\n\n".join(
    (
        "Two workers of the bundled model answer one question at the same time. Each sees every token of the other "
        "in the pass after it is written, and writes something else.",
        "At the end an experiment proves it: one worker alone is told a code, and the other one reads it from the "
        "step which the first is still writing. Without that step in its view it does not know the code.",
    )
)
EPILOG = "The same with a question of your own:  hogwild generate 'TEXT' --prompt-style pair"


def command(
    model: flags.ModelName = "bundled",
    backend: flags.BackendName = "auto",
    kv_dtype: flags.KVDtype = "auto",
    layout: flags.LayoutName = flags.SESSION.layout.name,
    max_passes: flags.MaxPasses = MAX_PASSES,
    seed: flags.Seed = flags.SESSION.seed,
    no_live: flags.NoLive = False,
) -> None:
    """Load, run, prove; exit code 1 when the proof fails."""
    options = SessionOptions(
        layout=find_layout(layout), max_passes=max_passes, max_step_tokens=64, finisher_tokens=48, seed=seed
    )
    task = Task(PROBLEM, find_style("pair"), options, SAMPLING, greedy=False)
    engine = Engine(load_model(model, backend, LoadOptions(kv_dtype=kv_dtype)))
    try:
        run(engine, task, view_for(as_json=False, no_live=no_live), None, as_json=False)
        proof = prove_sharing(engine.model, code=str(random.Random(seed).randrange(1000, 10000)))
    finally:
        engine.close()
    results_console().print(proof_text(proof), highlight=False, markup=False)
    if not proof.holds:
        raise typer.Exit(1)


def proof_text(proof: SharingProof) -> str:
    """What the experiment showed, in three lines."""
    seen, alone = (printable(" ".join(text.split())) for text in (proof.with_alice, proof.without_alice))
    verdict = "proved" if proof.holds else "NOT proved"
    return (
        f"sharing {verdict}: only Alice was told the code {proof.code}, in a step that she is still writing.\n"
        f"  Bob, in the same pass and with her step in his view:  The code of the vault is → {seen}\n"
        f"  Bob, the same words without her step in his view:     The code of the vault is → {alone}"
    )
