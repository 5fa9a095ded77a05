"""GGUF files: translated exactly, or refused with one clear error."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file
from write_gguf import write_gguf

from hogwild.errors import CheckpointError, HogwildError, ModelRefused
from hogwild.models import Checkpoint, find_checkpoint
from tests.tiny_models import write_tiny_model

FAMILIES = ("llama", "qwen2", "qwen3")
SAME = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "rope_theta",
    "rms_norm_eps",
    "tie_word_embeddings",
    "max_position_embeddings",
    "vocab_size",
    "hidden_act",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("gguf") / "tiny", num_hidden_layers=1, intermediate_size=96)


@pytest.fixture(scope="module")
def sound(folder: Path) -> bytes:
    return write_gguf(folder, folder.parent / "sound.gguf").read_bytes()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tied", [True, False])
def test_a_file_says_what_its_folder_said(tmp_path: Path, family: str, tied: bool) -> None:
    folder = write_tiny_model(tmp_path / "tiny", family, tie_word_embeddings=tied)
    config = json.loads((folder / "config.json").read_text())
    found = find_checkpoint(str(write_gguf(folder, tmp_path / "tiny.gguf")))
    assert found.format == "gguf"
    assert {key: found.config[key] for key in SAME} == {key: config[key] for key in SAME}
    assert found.config["model_type"] == family
    assert found.config["head_dim"] == config.get("head_dim", config["hidden_size"] // config["num_attention_heads"])
    expected = load_file(folder / "model.safetensors")
    assert sorted(found.weights.names()) == sorted(expected)
    for name, values in expected.items():
        np.testing.assert_array_equal(found.weights.read(name), values, name)


def test_quantised_weights_are_dequantised(folder: Path, tmp_path: Path) -> None:
    path = write_gguf(folder, tmp_path / "q.gguf", quantisation=gguf.GGMLQuantizationType.Q8_0, extra={})
    weights, expected = find_checkpoint(str(path)).weights, load_file(folder / "model.safetensors")
    name = "model.layers.0.self_attn.q_proj.weight"
    assert weights.read(name).dtype == np.float32
    np.testing.assert_allclose(weights.read(name), expected[name], atol=np.abs(expected[name]).max() / 250)
    assert not np.array_equal(weights.read(name), expected[name])


def test_tokenizer_and_end_tokens(folder: Path, tmp_path: Path) -> None:
    path = write_gguf(
        folder, tmp_path / "t.gguf", extra={"tokenizer.ggml.eot_token_id": 284, "tokenizer.ggml.add_bos_token": True}
    )
    tokenizer = find_checkpoint(str(path)).tokenizer
    assert tokenizer.eos_ids == {282, 284}
    assert tokenizer.control_ids == {281, 282, 283, 284, 285}
    assert tokenizer.encode_document("the") == [281, *tokenizer.encode("the")]
    assert tokenizer.encode_chat([{"role": "user", "content": "x"}])[:2] == [281, 283]


@pytest.mark.parametrize(
    ("extra", "scaling"),
    [
        (
            {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 2.5},
            {"rope_type": "linear", "factor": 2.5},
        ),
        (
            {
                "llama.rope.scaling.type": "yarn",
                "llama.rope.scaling.factor": 4.0,
                "llama.rope.scaling.original_context_length": 128,
            },
            {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128},
        ),
        ({"llama.rope.scaling.type": "none"}, None),
    ],
)
def test_rope_scaling(
    folder: Path, tmp_path: Path, extra: dict[str, object], scaling: dict[str, object] | None
) -> None:
    assert find_checkpoint(str(write_gguf(folder, tmp_path / "r.gguf", extra=extra))).config["rope_scaling"] == scaling


def test_llama3_scaling_is_found_in_the_table_of_factors(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "tiny", num_hidden_layers=1, rope_theta=500000.0)
    factors = _llama3_factors(theta=500000.0, head_dim=16, factor=32.0)
    path = write_gguf(folder, tmp_path / "l3.gguf", tensors={"rope_freqs.weight": factors})
    scaling = find_checkpoint(str(path)).config["rope_scaling"]
    assert scaling == {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                       "original_max_position_embeddings": 8192}  # fmt: skip
    path = write_gguf(folder, tmp_path / "odd.gguf", tensors={"rope_freqs.weight": factors * 1.01})
    with pytest.raises(ModelRefused, match="rope_freqs"):
        find_checkpoint(str(path))


def _llama3_factors(theta: float, head_dim: int, factor: float) -> np.ndarray:
    """Divisors by the rule as published, one frequency at a time."""
    low, high = 8192 / 1.0, 8192 / 4.0
    factors = []
    for i in range(0, head_dim, 2):
        wavelength = 2 * np.pi * theta ** (i / head_dim)
        if wavelength < high:
            factors.append(1.0)
        elif wavelength > low:
            factors.append(factor)
        else:
            smooth = (8192 / wavelength - 1.0) / (4.0 - 1.0)
            factors.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(factors, np.float32)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"architecture": "gemma2"}, "gemma2"),
        ({"extra": {"llama.expert_count": 8}}, "expert_count"),
        ({"extra": {"llama.rope.scaling.type": "longrope", "llama.rope.scaling.factor": 2.0}}, "longrope"),
        ({"extra": {"llama.rope.dimension_count": 8}}, "dimension_count"),
        ({"extra": {"llama.attention.sliding_window": 8}}, "sliding window"),
        ({"tensors": {"blk.0.attn_sub_norm.weight": np.ones(64, np.float32)}}, "attn_sub_norm"),
        ({"tensors": {"blk.0.attn_q_norm.weight": np.ones(16, np.float32)}}, "q_norm"),
    ],
)
def test_foreign_arithmetic_is_refused_by_name(
    folder: Path, tmp_path: Path, changes: dict[str, object], words: str
) -> None:
    with pytest.raises(ModelRefused, match=words):
        find_checkpoint(str(write_gguf(folder, tmp_path / "f.gguf", **changes)))  # type: ignore[arg-type]


@pytest.mark.parametrize("pre", ["falcon", "no-such-rule"])
def test_unknown_tokenizers_are_refused(folder: Path, sound: bytes, tmp_path: Path, pre: str) -> None:
    from hogwild.models.gguf_reader import open_gguf
    from hogwild.models.gguf_tokenizer import tokenizer_from_metadata

    (tmp_path / "s.gguf").write_bytes(sound)
    metadata = open_gguf(tmp_path / "s.gguf")[1].metadata
    with pytest.raises(ModelRefused, match=pre):
        tokenizer_from_metadata(metadata | {"tokenizer.ggml.pre": pre}, vocab_size=286)
    with pytest.raises(ModelRefused, match="t5"):
        tokenizer_from_metadata(metadata | {"tokenizer.ggml.model": "t5"}, vocab_size=286)


def _read_all(path: Path) -> Checkpoint:
    found = find_checkpoint(str(path))
    for name in found.weights.names():
        found.weights.read(name)
    found.tokenizer.decode(found.tokenizer.encode("Hello, world 12"))
    return found


def _header_size(data: bytes) -> int:
    return len(data) - sum(t.n_bytes for t in _tensors(data))


def _tensors(data: bytes) -> list[gguf.ReaderTensor]:
    import tempfile

    with tempfile.NamedTemporaryFile(suffix=".gguf") as file:
        file.write(data)
        file.flush()
        return list(gguf.GGUFReader(file.name).tensors)


def test_every_truncation_is_one_clear_error(sound: bytes, tmp_path: Path) -> None:
    header = _header_size(sound)
    rng = np.random.default_rng(0)
    sizes = [
        0,
        1,
        3,
        4,
        8,
        23,
        24,
        header - 1,
        header,
        header + 1,
        len(sound) - 1,
        *rng.integers(0, header, 60).tolist(),
    ]
    for size in sizes:
        path = tmp_path / "cut.gguf"
        path.write_bytes(sound[:size])
        with pytest.raises(CheckpointError):
            _read_all(path)


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_flipped_bytes_load_or_give_a_declared_error(
    sound: bytes, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    forged = bytearray(sound)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, _HEADER_BYTES) | st.integers(0, 400))
        forged[place] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "forged.gguf"
    path.write_bytes(forged)
    with contextlib.suppress(HogwildError):
        _read_all(path)


_HEADER_BYTES = 6_000


def test_the_fuzz_covers_the_header(sound: bytes) -> None:
    assert abs(_header_size(sound) - _HEADER_BYTES) < 500


def test_not_a_gguf_file(tmp_path: Path) -> None:
    for content in (b"", b"hello", b"GGUF", b"FUGG" + bytes(100), b"GGUF\x00\x00\x00\x03" + bytes(40)):
        path = tmp_path / "x.gguf"
        path.write_bytes(content)
        with pytest.raises(CheckpointError):
            find_checkpoint(str(path))
