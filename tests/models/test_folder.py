"""Safetensors folders: read as stored; torn and forged files give one clear error."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from hogwild.errors import CheckpointError, HogwildError, ModelRefused
from hogwild.models import find_checkpoint
from tests.tiny_models import CHAT_TEMPLATE, write_tiny_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("folder") / "tiny", num_hidden_layers=1)


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def edit(path: Path, **changes: Any) -> None:
    value = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: item for key, item in value.items() if item is not None}))


def test_a_folder_is_read_as_stored(folder: Path) -> None:
    found = find_checkpoint(str(folder))
    assert (found.name, found.path, found.format) == (str(folder), folder, "safetensors")
    assert found.config == json.loads((folder / "config.json").read_text())
    assert found.generation_config["temperature"] == 0.8
    expected = load_file(folder / "model.safetensors")
    assert sorted(found.weights.names()) == sorted(expected)
    for name, values in expected.items():
        np.testing.assert_array_equal(found.weights.read(name), values)


def test_shards_and_dtypes(copy: Path) -> None:
    tensors = load_file(copy / "model.safetensors")
    first, *rest = tensors
    bfloat16 = {name: (tensors[name].view(np.uint32) >> 16).astype(np.uint16) for name in rest}
    save_file({first: tensors[first].astype(np.float16)}, copy / "a.safetensors")
    save_file(bfloat16, copy / "b.safetensors")
    data = (copy / "b.safetensors").read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + size].replace(b'"U16"', b'"BF16"')
    (copy / "b.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + data[8 + size :])
    (copy / "model.safetensors").unlink()
    shards = {name: "a.safetensors" if name == first else "b.safetensors" for name in tensors}
    (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    weights = find_checkpoint(str(copy)).weights
    assert weights.read(first).dtype == np.float16
    for name in rest:
        assert weights.read(name).dtype == np.float32
        np.testing.assert_array_equal(weights.read(name).view(np.uint32) >> 16, bfloat16[name])
        np.testing.assert_allclose(weights.read(name), tensors[name], rtol=2**-7)
    with pytest.raises(CheckpointError, match="nowhere"):
        weights.read("nowhere")
    for broken in ({"x": "missing.safetensors"}, {"x": "a.safetensors"}, {"x": "../a.safetensors"}, {"x": 1}, []):
        (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": broken}))
        with pytest.raises(CheckpointError):
            find_checkpoint(str(copy))


def test_eight_bit_floats_are_refused_when_read(copy: Path) -> None:
    header = json.dumps({"w": {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]}}).encode()
    (copy / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(ModelRefused, match="F8_E4M3"):
        find_checkpoint(str(copy)).weights.read("w")


def test_every_truncation_is_one_clear_error(copy: Path) -> None:
    path = copy / "model.safetensors"
    sound = path.read_bytes()
    for size in (0, 1, 7, 8, 100, len(sound) // 2, len(sound) - 1):
        path.write_bytes(sound[:size])
        with pytest.raises(CheckpointError):
            find_checkpoint(str(copy))
    path.write_bytes(sound + b"x")
    with pytest.raises(CheckpointError, match="longer"):
        find_checkpoint(str(copy))


_NUMBER = st.integers(-1, 70) | st.sampled_from([2**31, 2**63, 2**64, 10**30])
_ENTRY = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "BF16", "F16", "I8", "F4", "", "\ud800"]) | st.none(),
        "shape": st.lists(_NUMBER, max_size=5) | st.text(max_size=2) | st.lists(st.just([]), max_size=1),
        "data_offsets": st.lists(_NUMBER, max_size=3) | st.just([0, 64]) | st.none(),
    }
)


@given(
    header=st.dictionaries(st.text(max_size=3), _ENTRY | st.none() | st.integers(), max_size=3),
    extra=st.integers(0, 70),
)
def test_forged_headers_load_or_give_a_declared_error(
    tmp_path_factory: pytest.TempPathFactory, header: Any, extra: int
) -> None:
    from hogwild.models.safetensors_file import SafetensorsFile

    path = tmp_path_factory.getbasetemp() / "forged.safetensors"
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(extra))
    with contextlib.suppress(HogwildError):
        file = SafetensorsFile(path)
        for name, tensor in file.tensors.items():
            assert file.read(name).shape == tensor.shape


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", "{"),
        ("config.json", "[]"),
        ("config.json", "{}"),
        ("config.json", '{"model_type": "llama", "vocab_size": "x"}'),
        ("config.json", "[" * 100_000),
        ("generation_config.json", "\xff"),
        ("tokenizer.json", "{}"),
        ("tokenizer.json", '{"added_tokens": [1]}'),
        ("tokenizer_config.json", "nope"),
        ("model.safetensors", "x" * 100),
    ],
)
def test_broken_files_name_themselves(copy: Path, name: str, content: str) -> None:
    (copy / name).write_text(content, "latin-1")
    with pytest.raises(CheckpointError, match=name.split(".")[0]):
        find_checkpoint(str(copy))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_missing_files_are_named(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(CheckpointError, match=name.split(".")[0]):
        find_checkpoint(str(copy))


def test_pickles_are_never_read(copy: Path) -> None:
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="safetensors"):
        find_checkpoint(str(copy))


def test_end_tokens_come_from_all_three_files(copy: Path) -> None:
    edit(copy / "generation_config.json", eos_token_id=[284])
    edit(copy / "config.json", eos_token_id=285)
    assert find_checkpoint(str(copy)).tokenizer.eos_ids == {282, 284, 285}


def test_bos_comes_from_the_post_processor_or_the_settings(copy: Path) -> None:
    def bos() -> tuple[int, ...]:
        return find_checkpoint(str(copy)).tokenizer.bos_ids

    assert bos() == ()
    edit(copy / "tokenizer_config.json", add_bos_token=True)
    assert bos() == (281,)
    edit(copy / "tokenizer_config.json", add_bos_token=None)
    bos_first = [{"SpecialToken": {"id": "<|bos|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    token = {"<|bos|>": {"id": "<|bos|>", "ids": [281], "tokens": ["<|bos|>"]}}
    edit(
        copy / "tokenizer.json",
        post_processor={"type": "TemplateProcessing", "single": bos_first, "pair": bos_first, "special_tokens": token},
    )
    assert bos() == (281,)
    edit(copy / "tokenizer_config.json", add_bos_token=False)
    assert bos() == ()


def test_steering_tokens_are_control_tokens_whatever_the_file_says(copy: Path) -> None:
    state = json.loads((copy / "tokenizer.json").read_text())
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    state["added_tokens"] += [{"id": 286, "content": "</think>", **plain}, {"id": 287, "content": "<table>", **plain}]
    (copy / "tokenizer.json").write_text(json.dumps(state))
    edit(copy / "config.json", vocab_size=300)
    tokenizer = find_checkpoint(str(copy)).tokenizer
    assert 286 in tokenizer.control_ids
    assert 287 not in tokenizer.control_ids
    assert 286 not in tokenizer.encode("a</think>")
    assert tokenizer.encode("a<table>")[-1] == 287
    assert tokenizer.token_id("</think>") == 286


def test_where_the_chat_template_may_stand(copy: Path) -> None:
    def begin() -> list[int]:
        return find_checkpoint(str(copy)).tokenizer.encode_chat([{"role": "user", "content": "x"}])[:2]

    settings = copy / "tokenizer_config.json"
    edit(
        settings, chat_template=[{"name": "tool_use", "template": "x"}, {"name": "default", "template": CHAT_TEMPLATE}]
    )
    assert begin() == [281, 283]
    edit(settings, chat_template=None)
    assert not find_checkpoint(str(copy)).tokenizer.has_chat_template
    (copy / "chat_template.jinja").write_text("{{ bos_token }}" * 2)
    edit(settings, bos_token="<|bos|>")
    assert begin() == [281, 281]


def test_ids_equal_those_of_transformers(folder: Path) -> None:
    transformers = pytest.importorskip("transformers")
    theirs, ours = transformers.AutoTokenizer.from_pretrained(folder), find_checkpoint(str(folder)).tokenizer
    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "What is 1 < 2?\n\nSay."}]
    for prompted in (True, False):
        expected = theirs.apply_chat_template(messages, add_generation_prompt=prompted, return_dict=False)
        assert ours.encode_chat(messages, add_generation_prompt=prompted) == expected
    assert ours.encode("on the <|end|>") == theirs("on the <|end|>", split_special_tokens=True).input_ids
