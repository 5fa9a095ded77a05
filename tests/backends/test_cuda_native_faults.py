"""Faults seeded into the source of the C++ kernels, one at a time: generated cases see each."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from hogwild.backends.cuda import native as package  # noqa: E402
from hogwild.backends.cuda.native import attention as native_attention  # noqa: E402
from hogwild.backends.cuda.native.compiler import BuildError  # noqa: E402
from hogwild.backends.cuda.native.library import Library  # noqa: E402
from hogwild.conformance import native  # noqa: E402
from hogwild.conformance.cases import attention_case  # noqa: E402
from hogwild.conformance.verdict import judge  # noqa: E402

FAULTS = {
    "a token sees one key too few": ("layer_.turns[place];", "layer_.turns[place] - 1;"),
    "a token sees the next one": ("distance >= 0 &&", "distance >= -1 &&"),
    "the window is one short": ("distance < layer_.window)", "distance + 1 < layer_.window)"),
    "keys out of sight are left in": ("if (high <= reach_[t] &&", "if (low <= reach_[t] &&"),
    "tiles in sight are left out": ("if (low > farthest_ ||", "if (low > nearest_ ||"),
    "queries of the first kv head": ("head = own_.head * group_ + r % group_;", "head = r % group_;"),
    "turned backwards": ("+ load(swapped + at) * s", "- load(&swapped_[at]) * s"),
    "turned for the first segment": ("turned_for_ != segment_)", "turned_for_ < 0)"),
    "the index of the tile's first key": ("layer_.column_index[tile_ + c];", "layer_.column_index[tile_] + c;"),
    "turned for the tile's last segment": ("<= tile_ + from)", "<= tile_ + filled_ - 1)"),
    "scale of a key left out": ("*= key_scales_[slot(c)]", "*= 1"),
    "scale of the first value": ("*= value_scales_[slot(c)]", "*= value_scales_[slot(0)]"),
    "values of the tile's first key": ("at[c] = values_ + slot(c)", "at[c] = values_ + slot(0)"),
    "sums not lowered": ("sums[d] *= shrink", "sums[d] *= 1"),
    "the end of a tile not hidden": ("store(scores + filled_, all(NOTHING))", "store(scores + filled_, all(0))"),
    "no soft cap": ("if (layer_.softcap > 0) cap();", ""),
    "items added up unweighted": ("part[row * dim + d] * weight", "part[row * dim + d]"),
    "no weight for the sink": ("layer.sinks ? 1.0f : 0.0f", "0.0f"),
    "one feature left out": ("[n = dim - d]", "[n = dim - d - 1]"),
}


def answers_wrongly(library: Library, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setattr(native, "shared_library", lambda: library)
    monkeypatch.setattr(native_attention, "TILE", 8)
    monkeypatch.setattr(native_attention, "MAX_ROWS", 8)
    for seed in range(60):
        kv_dtype = "int8" if seed % 3 == 0 else "auto"
        monkeypatch.setattr(native_attention, "SPAN", 1 if seed % 2 else 100)  # many items, or items of many tiles
        case = attention_case(seed, max_length=100, max_work=4e4, kv_dtype=kv_dtype)
        if not judge(case, native.native_answer(case), dtype="float32", against_ordinary=False).passed:
            return True
    return False


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_seen(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = shutil.copytree(Path(package.__file__).parent, tmp_path / "native")
    right, wrong = FAULTS[name]
    found = [path for path in (*folder.glob("*.cpp"), *folder.glob("*.h")) if right in path.read_text()]
    assert len(found) == 1, f"{right!r} is in {found}"
    found[0].write_text(found[0].read_text().replace(right, wrong))
    try:
        library = Library(folder, ["-O0"])
    except BuildError as error:
        pytest.skip(str(error))
    assert answers_wrongly(library, monkeypatch)
