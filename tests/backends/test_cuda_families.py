"""Every family of the catalogue on the torch backend: exact, or refused at load for the reason that is named."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from hogwild.conformance.coverage import TOLERANCE, Outcome, try_family
from hogwild.conformance.families import FAMILIES, family
from hogwild.conformance.families.entry import entry
from hogwild.conformance.kit.targets import has_native

NAMED = (  # by issue 4, section 1
    "llama", "llama-linear", "llama-llama3", "llama-yarn", "qwen2", "qwen3", "qwen3_moe", "mistral-window",
    "mixtral-window", "phi3", "gemma2", "gemma3_text", "gpt_oss", "glm4", "cohere2", "olmo2", "olmo3", "smollm3",
    "granite", "deepseek_v2", "deepseek_v3",
)  # fmt: skip
EXACT = [known.name for known in FAMILIES if "cuda" not in known.refused]
REFUSED = [known.name for known in FAMILIES if "cuda" in known.refused]


def outcome_of(name: str, attention: str = "") -> Outcome:
    """Auto would take torch's operations if the kernels were wrong."""
    attention = attention or ("kernel" if has_native() else "auto")
    outcome = try_family(family(name), "cuda", attention)
    if not outcome.tried:
        pytest.skip(outcome.reason)
    return outcome


@pytest.mark.parametrize("name", EXACT)
def test_a_view_of_blocks_is_the_plain_model(name: str) -> None:
    outcome = outcome_of(name)
    assert outcome.error is not None, outcome.reason
    assert outcome.error <= TOLERANCE


@pytest.mark.parametrize("name", ["cohere2", "deepseek_v3", "gemma2", "gpt_oss", "llama-yarn"])
def test_torch_operations_too(name: str) -> None:
    """Windows, soft caps, sinks, latent heads, layers that do not turn; the contract has ordinary models."""
    error = outcome_of(name, "plain").error
    assert error is not None
    assert error <= TOLERANCE


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_exact_is_refused_with_layer_and_reason(name: str) -> None:
    outcome = outcome_of(name)
    assert outcome.error is None
    assert outcome.reason.startswith("layer 0: ")
    assert family(name).refused["cuda"] in outcome.reason


@pytest.mark.parametrize(("model_type", "exact"), [("hyperclovax", True), ("jais2", True), ("biogpt", False)])
def test_a_family_that_nobody_has_tried_is_measured(model_type: str, exact: bool) -> None:
    assert model_type not in {known.model_type for known in FAMILIES}
    outcome = try_family(entry(model_type, "none", "none"), "cuda")
    if not outcome.tried:
        pytest.skip(outcome.reason)
    assert (outcome.error is not None and outcome.error <= TOLERANCE) is exact
    assert exact or "the position changes its input" in outcome.reason


def test_the_families_that_were_promised_are_exact() -> None:
    assert set(NAMED) <= set(EXACT)


def test_names_are_unique() -> None:
    assert len({known.name for known in FAMILIES}) == len(FAMILIES)
