"""Which model families each backend computes: every family of the catalogue is made small, loaded and measured.

`scripts/coverage` writes the table to docs/coverage.md; `python -m hogwild.conformance.coverage llama phi3` tries some.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hogwild.backends.options import LoadOptions
from hogwild.backends.registry import find_backend
from hogwild.conformance.families import FAMILIES, Family, family
from hogwild.conformance.small_models import (
    Logits,
    logits_in_blocks,
    plain_logits,
    random_model,
    random_tokens,
    write_folder,
)
from hogwild.errors import BackendUnavailable, HogwildError
from hogwild.models.checkpoint import Checkpoint

BACKENDS = ("cuda", "mlx")
_FRAMEWORKS = {"cuda": "transformers", "mlx": "mlx-lm"}
PACKAGES = ("torch", "transformers", "mlx", "mlx-lm")
CPU = LoadOptions(dtype="float32", device="cpu")
TOLERANCE = 2e-5  # in float32, of the largest logit
_PAGE = """\
# Model coverage

Written by `scripts/coverage`; what is to come out stands in `hogwild/conformance/families`.

Each family is a small random model with the structure of the published one that is named: its rotary rule, windows,
norms, soft caps and scales, with small sizes. transformers writes it as a folder; each backend loads that folder, and a
worker's text lies in five blocks, two of them published; it is longer than the window. *Exact* means that the logits
are those of transformers' own forward of the same tokens, to {tolerance:.0e} of the largest one, in float32; the number
is the largest difference. *Exact to mlx-lm's own forward* means that mlx-lm cannot read what transformers writes, and
that hogwild computes the same as mlx-lm. *Refused* means that loading ends with an error that gives this reason. A
family that is not in the table is treated alike: it is measured when it is loaded, and refused if it is not exact.

Where mlx-lm's code computes something else than a model's config states, hogwild follows the config, so that both
backends compute one model: windows (Mistral, Mixtral, Phi-3, StarCoder2, Gemma 2, MiMo), the tanh approximation of GELU
or the exact one (Gemma, StarCoder2, GPT-NeoX), the share of each head that turns (GLM-4 of 2024), YaRN's options
(gpt-oss). Such a model differs from stock mlx-lm. What cannot be put right is refused.

Versions: {versions}.

{table}
"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one family on one backend.

    Attributes:
        error: the largest difference of a logit, relative to the largest logit; None if there are no logits.
        reason: why the model was refused, or why it was not tried.
        tried: whether the backend is here.
    """

    error: float | None = None
    reason: str = ""
    tried: bool = True

    def as_expected(self, entry: Family, backend: str) -> bool:
        """Whether the catalogue says so too."""
        phrase = entry.refused.get(backend)
        if phrase is None:
            return self.error is not None and self.error <= TOLERANCE
        return self.error is None and phrase in self.reason


def try_family(entry: Family, backend: str, attention: str = "auto") -> Outcome:
    """Make the family's model, load it with the backend, and compare a worker's view with the plain forward.

    attention: as in `LoadOptions`.
    """
    tokens = random_tokens()
    try:
        load = find_backend(backend).loader()
        with tempfile.TemporaryDirectory() as folder:
            checkpoint, expected_logits = _made(entry, backend, Path(folder), tokens)
            loaded = load(checkpoint, dataclasses.replace(CPU, attention=attention))
    except BackendUnavailable as error:
        return Outcome(reason=f"{error.problem}: {error.got}", tried=False)
    except HogwildError as error:
        return Outcome(reason=str(error))
    expected, found = expected_logits(loaded), logits_in_blocks(loaded, tokens)
    loaded.close()
    return Outcome(error=float(np.abs(found - expected).max() / np.abs(expected).max()))


def _made(
    entry: Family, backend: str, folder: Path, tokens: Sequence[int]
) -> tuple[Checkpoint, Callable[[Any], Logits]]:
    """The family's model in a folder, and what gives the logits to be met once the backend has loaded it."""
    if backend in entry.own:
        from hogwild.conformance.small_models_mlx import plain_mlx_logits, write_mlx_folder

        return write_mlx_folder(folder, entry.config), lambda loaded: plain_mlx_logits(loaded.model, tokens)
    find_backend("cuda").loader()  # transformers makes the model
    model = random_model(entry.config)
    return write_folder(model, folder, entry.config), lambda loaded: plain_logits(model, tokens)


def render(rows: Mapping[str, Sequence[str]], versions: str) -> str:
    """The page. rows: for each family's name its cells, one for each backend."""
    lines = ["| family | follows | what is special | torch (`cuda`) | MLX (`mlx`) |", "|---|---|---|---|---|"]
    for name, cells in rows.items():
        entry = family(name)
        lines.append(f"| {' | '.join([f'`{name}`', entry.checkpoint, entry.special, *cells])} |")
    return _PAGE.format(tolerance=TOLERANCE, versions=versions, table="\n".join(lines))


def cell(entry: Family, backend: str, outcome: Outcome) -> str:
    """An outcome in words."""
    if not outcome.tried:
        return f"not tried: {outcome.reason}"
    if outcome.error is None:
        phrase = entry.refused.get(backend, "")
        return f"refused: {phrase if phrase and phrase in outcome.reason else outcome.reason}"
    own = f" to {_FRAMEWORKS[backend]}'s own forward ({entry.own[backend]})" if backend in entry.own else ""
    return f"{'exact' if outcome.error <= TOLERANCE else 'WRONG'}{own}, {outcome.error:.0e}"


def installed_versions() -> str:
    """The packages that decide what comes out."""
    return ", ".join(f"{package} {_version(package)}" for package in PACKAGES)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package).partition("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _surprises(names: Sequence[str], rows: dict[str, list[str]]) -> Iterator[str]:
    """Fill `rows` and tell of each outcome that is not the catalogue's."""
    for entry in map(family, names):
        cells = rows.setdefault(entry.name, [])
        for backend in BACKENDS:
            outcome = try_family(entry, backend)
            cells.append(cell(entry, backend, outcome))
            print(f"{entry.name:24} {backend:5} {cells[-1]}")
            if outcome.tried and not outcome.as_expected(entry, backend):
                expected = entry.refused.get(backend, "exact")
                yield f"{entry.name} on {backend}: {cells[-1]}; the catalogue says: {expected}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the families and write the page; 1 and no page if something is not what the catalogue says."""
    parser = argparse.ArgumentParser(description="Measure what each backend does with each family of the catalogue.")
    parser.add_argument("names", nargs="*", help="families; all by default")
    parser.add_argument("--page", type=Path, help="file to write the table to")
    options = parser.parse_args(arguments)
    rows: dict[str, list[str]] = {}
    surprises = list(_surprises(options.names or [entry.name for entry in FAMILIES], rows))
    for surprise in surprises:
        print(f"not as expected: {surprise}", file=sys.stderr)
    if options.page is not None and not surprises:
        options.page.write_text(render(rows, installed_versions()), encoding="utf-8")
    return 1 if surprises else 0


if __name__ == "__main__":
    sys.exit(main())
