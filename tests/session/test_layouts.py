"""Layouts are data: what is understood, what is refused, and what a file gives."""

from __future__ import annotations

import json

import pytest

from hogwild.core.layout import LAYOUTS, BlockRef, Layout, find_layout, layout_from_dict, layout_to_dict, others
from hogwild.errors import LayoutError

OWN = [BlockRef("own", worker=w) for w in range(4)]


def test_the_combined_layout_expands_in_reading_order():
    refs = LAYOUTS["combined"].expand(1, [0, 1, 2])
    separator = BlockRef("text", "separator")
    assert refs == (
        BlockRef("common"),
        BlockRef("text", "in_progress"),
        OWN[0],
        separator,
        OWN[2],
        separator,
        BlockRef("text", "own_header"),
        OWN[1],
    )


def test_which_limits_the_others():
    group_think = Layout("slots", view=("common", others("author", which="before"), "own"))
    assert group_think.expand(2, [0, 1, 2, 3]) == (BlockRef("common"), OWN[0], OWN[1], OWN[2])
    after = Layout("after", view=("common", others("author", which="after"), "own"))
    assert after.expand(2, [0, 1, 2, 3]) == (BlockRef("common"), OWN[3], OWN[2])


def test_special_views_replace_the_common_one():
    layout = Layout("writer", view=("common", "own"), special_views={1: ("common", "worker:0", "own")})
    assert layout.expand(0, [0, 1]) == (BlockRef("common"), OWN[0])
    assert layout.expand(1, [0, 1]) == (BlockRef("common"), OWN[0], OWN[1])


@pytest.mark.parametrize(
    ("name", "shares"), [("combined", True), ("interleaved", True), ("contiguous", True), ("independent", False)]
)
def test_which_layouts_share(name, shares):
    assert LAYOUTS[name].shares(2) is shares
    assert LAYOUTS[name].shares(1) is False


@pytest.mark.parametrize(
    "view",
    [
        (),
        ("common",),
        ("own", "common"),
        ("own", "own"),
        ("common", "author", "own"),
        ("common", "text:", "own"),
        ("common", "text", "own"),
        ("common", "worker:x", "own"),
        ("common", "own:1", "own"),
        ("common", "nonsense", "own"),
        ("common", others("own"), "own"),
        ("common", others("nonsense"), "own"),
    ],
)
def test_a_view_that_cannot_be_followed_is_refused(view):
    with pytest.raises(LayoutError, match="bad"):
        Layout("bad", view=view)


def test_a_file_gives_the_same_layout(tmp_path):
    data = {
        "name": "mine",
        "view": ["common", {"others": ["label:title", "author"], "which": "before"}, "own"],
        "publish": True,
        "special_views": {"1": ["common", "own"]},
        "texts": {"title": "{name}: ", "note": ["a", "b"]},
    }
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(data))
    layout = find_layout(str(path))
    assert layout == layout_from_dict(data) == layout_from_dict(layout_to_dict(layout))
    assert layout.view == ("common", others("label:title", "author", which="before"), "own")
    assert layout.special_views == {1: ("common", "own")}
    assert layout.texts == {"title": "{name}: ", "note": ("a", "b")}


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        {},
        {"view": "common"},
        {"view": [1, "own"]},
        {"view": [{"others": "author"}, "own"]},
        {"view": [{"others": ["author"], "which": "some"}, "own"]},
        {"view": ["own"], "colour": "red"},
        {"view": ["own"], "texts": []},
        {"view": ["own"], "special_views": {"first": ["own"]}},
    ],
)
def test_data_that_is_no_layout_is_refused(data):
    with pytest.raises(LayoutError):
        layout_from_dict(data)


def test_unknown_names_and_files_are_refused(tmp_path):
    (tmp_path / "broken.json").write_text("{")
    for name in ("diagonal", str(tmp_path / "missing.json"), str(tmp_path / "broken.json")):
        with pytest.raises(LayoutError):
            find_layout(name)
