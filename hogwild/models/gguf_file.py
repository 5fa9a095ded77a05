"""A GGUF file of the Llama family as a checkpoint."""

from __future__ import annotations

import math
import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hogwild.errors import CheckpointError, ModelRefused
from hogwild.models.checkpoint import Checkpoint
from hogwild.models.expected import check_tensors
from hogwild.models.gguf_config import GgufMetadata, config_from_metadata
from hogwild.models.gguf_names import transformers_name
from hogwild.models.gguf_reader import GgufHeader, GgufTensor, open_gguf
from hogwild.models.gguf_tokenizer import tokenizer_from_metadata

ROPE_FACTORS = "rope_freqs.weight"
_SAMPLING = {"temp": "temperature", "top_k": "top_k", "top_p": "top_p", "min_p": "min_p"}


class GgufWeights:
    """Tensors of one GGUF file under their transformers names, dequantised when they are read.

    Arguments:
        interleaved_heads: (query heads, K/V heads) where the rows of q and k stand in the order of interleaved
            rotary pairs (architecture llama); they are put back into half-split order.
    """

    def __init__(
        self, path: Path, data: mmap.mmap, header: GgufHeader, interleaved_heads: tuple[int, int] | None
    ) -> None:
        self._path, self._data, self._header, self._interleaved_heads = path, data, header, interleaved_heads
        self._by_name = _named_tensors(header.tensors)

    def names(self) -> tuple[str, ...]:
        """Every tensor's transformers name."""
        return tuple(self._by_name)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, without reading it."""
        return self._tensor(name).shape

    def read(self, name: str) -> NDArray[Any]:
        """One tensor: float16, float32 and float64 as stored, others dequantised to float32."""
        tensor = self._tensor(name)
        values = read_tensor(self._data, self._header, tensor, self._path)
        if self._interleaved_heads is not None:
            for part, num_heads in zip(("q_proj", "k_proj"), self._interleaved_heads, strict=True):
                if f".self_attn.{part}." in name:
                    return _half_split_rows(values, num_heads)
        return values

    def _tensor(self, name: str) -> GgufTensor:
        try:
            return self._by_name[name]
        except KeyError:
            raise CheckpointError(f"{self._path} has no tensor {name!r}") from None


def load_gguf(name: str, path: Path) -> Checkpoint:
    """Read a GGUF file's header and tokenizer; weights are read later, one at a time.

    Raises `CheckpointError` for a broken file, `ModelRefused` for another architecture or quantisation.
    """
    data, header = open_gguf(path)
    metadata = GgufMetadata(header.metadata)
    config = _config(metadata, data, header, path)
    heads = (config["num_attention_heads"], config["num_key_value_heads"])
    weights = GgufWeights(path, data, header, heads if metadata.architecture == "llama" else None)
    for tensor in header.tensors.values():
        _span(data, header, tensor, path)
    check_tensors(config, {name: weights.shape(name) for name in weights.names()}, str(path))
    tokenizer = tokenizer_from_metadata(header.metadata, vocab_size=config["vocab_size"])
    generation_config = _generation_config(header.metadata)
    return Checkpoint(name, path, "gguf", config | _token_ids(header.metadata), generation_config, weights, tokenizer)


def _config(metadata: GgufMetadata, data: mmap.mmap, header: GgufHeader, path: Path) -> dict[str, Any]:
    embedding = header.tensors.get("token_embd.weight")
    factors = header.tensors.get(ROPE_FACTORS)
    config = config_from_metadata(
        metadata,
        vocab_size=embedding.shape[0] if embedding is not None and len(embedding.shape) == 2 else 1,
        tied="output.weight" not in header.tensors,
        has_bias="blk.0.attn_q.bias" in header.tensors,
        rope_factors=None if factors is None else read_tensor(data, header, factors, path).astype(np.float32),
    )
    if embedding is None:
        raise CheckpointError(f"{path} has no tensor 'token_embd.weight'")
    return config | {"torch_dtype": _stored_dtype(header)}


def _stored_dtype(header: GgufHeader) -> str:
    from gguf import GGMLQuantizationType

    kinds = {tensor.ggml_type for tensor in header.tensors.values() if len(tensor.shape) == 2}
    if kinds == {GGMLQuantizationType.F32}:
        return "float32"
    return "float16" if kinds == {GGMLQuantizationType.F16} else "bfloat16"


def read_tensor(data: mmap.mmap, header: GgufHeader, tensor: GgufTensor, path: Path) -> NDArray[Any]:
    """The values of one tensor, dequantised; a view into the file where it is stored as plain numbers."""
    from gguf import GGMLQuantizationType, quants

    start, num_bytes = _span(data, header, tensor, path)
    raw = np.frombuffer(data, np.uint8, num_bytes, start)
    plain = {"F16": np.float16, "F32": np.float32, "F64": np.float64}.get(GGMLQuantizationType(tensor.ggml_type).name)
    if plain is not None:
        return raw.view(plain).reshape(tensor.shape)
    row_bytes = num_bytes // max(1, math.prod(tensor.shape[:-1]))
    try:
        with np.errstate(all="ignore"):
            values = quants.dequantize(
                raw.reshape(*tensor.shape[:-1], row_bytes), GGMLQuantizationType(tensor.ggml_type)
            )
    except NotImplementedError as error:
        raise ModelRefused(
            f"tensor {tensor.name!r} of {path} has a quantisation that is not read here", got=str(error)
        ) from error
    return np.asarray(values, np.float32).reshape(tensor.shape)


def _span(data: mmap.mmap, header: GgufHeader, tensor: GgufTensor, path: Path) -> tuple[int, int]:
    """First byte and number of bytes of a tensor, checked against the file."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    try:
        block_size, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(tensor.ggml_type)]
    except (ValueError, KeyError):
        raise CheckpointError(f"tensor {tensor.name!r} of {path} has the unknown type {tensor.ggml_type}") from None
    if not tensor.shape or 0 in tensor.shape or tensor.shape[-1] % block_size:
        raise CheckpointError(
            f"tensor {tensor.name!r} of {path} has a bad shape",
            expected=f"rows of blocks of {block_size}",
            got=str(tensor.shape),
        )
    start, num_bytes = header.data_start + tensor.offset, math.prod(tensor.shape) // block_size * block_bytes
    if tensor.offset % 8 or start + num_bytes > len(data):
        raise CheckpointError(
            f"tensor {tensor.name!r} of {path} lies outside the file",
            expected=f"at least {start + num_bytes} bytes",
            got=f"{len(data)} bytes",
            remedy="fetch the file again",
        )
    return start, num_bytes


def _named_tensors(tensors: Mapping[str, GgufTensor]) -> dict[str, GgufTensor]:
    named = {}
    for tensor in tensors.values():
        if tensor.name == ROPE_FACTORS:
            continue
        name = transformers_name(tensor.name)
        if name is None:
            raise ModelRefused("a tensor that a model of the Llama family does not have", got=repr(tensor.name))
        named[name] = tensor
    return named


def _half_split_rows(values: NDArray[Any], num_heads: int) -> NDArray[Any]:
    """Rows of each head from pairs (0, 1), (2, 3), ... to halves: first members, then second members."""
    pairs = values.reshape(num_heads, values.shape[0] // num_heads // 2, 2, *values.shape[1:])
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(values.shape)


def _token_ids(metadata: Mapping[str, Any]) -> dict[str, int]:
    ids = {}
    for role, key in (("bos", "bos"), ("eos", "eos"), ("pad", "padding")):
        value = metadata.get(f"tokenizer.ggml.{key}_token_id")
        if isinstance(value, int):
            ids[f"{role}_token_id"] = value
    return ids


def _generation_config(metadata: Mapping[str, Any]) -> dict[str, Any]:
    given = {ours: metadata.get(f"general.sampling.{theirs}") for theirs, ours in _SAMPLING.items()}
    sampling = {key: value for key, value in given.items() if isinstance(value, (int, float))}
    return _token_ids(metadata) | sampling
