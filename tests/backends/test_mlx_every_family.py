"""Every causal language model that transformers and mlx-lm both have, with small sizes: as transformers, or refused."""

from __future__ import annotations

import pkgutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("mlx.core")
mlx_models = pytest.importorskip("mlx_lm.models")
torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from mlx_lm.utils import MODEL_REMAPPING  # noqa: E402
from transformers import AutoConfig, AutoModelForCausalLM  # noqa: E402
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES  # noqa: E402

from hogwild.backends import mlx  # noqa: E402
from hogwild.backends.cuda.loading import quiet  # noqa: E402
from hogwild.conformance.coverage import CPU, TOLERANCE  # noqa: E402
from hogwild.conformance.small_models import (  # noqa: E402
    logits_in_blocks,
    plain_logits,
    random_model,
    random_tokens,
    write_folder,
)
from hogwild.errors import ModelRefused  # noqa: E402
from tests.backends.test_cuda_every_family import MAX_PARAMETERS, SMALL  # noqa: E402

FILES = {module.name for module in pkgutil.iter_modules(mlx_models.__path__)} | set(MODEL_REMAPPING)
OWN = ("hidden_act", "sliding_window", "attention_bias", "tie_word_embeddings")  # each family as transformers has it


def complete_config(model_type: str) -> dict[str, Any] | None:
    """All that transformers says of a small model, as it stores it; None if these sizes make none."""
    sizes = {name: value for name, value in SMALL.items() if name not in OWN} | {"num_key_value_heads": 4}
    try:
        with quiet(), torch.device("meta"):
            config = AutoConfig.for_model(model_type, **sizes)
            model = AutoModelForCausalLM.from_config(config)
    except Exception:  # whatever a config's own checks raise
        return None
    return config.to_dict() if model.num_parameters() <= MAX_PARAMETERS else None


@pytest.mark.slow
@pytest.mark.parametrize("model_type", sorted(FILES & set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)))
def test_as_transformers_or_refused(tmp_path: Path, model_type: str) -> None:
    config = complete_config(model_type)
    if config is None:
        pytest.skip("these sizes make no small model of it")
    model: Any = random_model(config)
    try:
        backend = mlx.load(write_folder(model, tmp_path, config), CPU)
    except ModelRefused as error:
        print(error)  # what a person reads who runs this with -rP
        return
    found, expected = logits_in_blocks(backend, random_tokens()), plain_logits(model, random_tokens())
    assert np.abs(found - expected).max() <= TOLERANCE * np.abs(expected).max()
