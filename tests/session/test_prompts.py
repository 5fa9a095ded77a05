"""Prompt styles: every one that comes with hogwild is complete; placeholders and braces are safe."""

from __future__ import annotations

import pytest
from fakes import FakeTokenizer

from hogwild.core.layout import LAYOUTS
from hogwild.errors import PromptError
from hogwild.prompts import PromptScript, PromptStyle, find_style, style_names
from hogwild.prompts.style import fill


class ChatTokenizer(FakeTokenizer):
    has_chat_template = True

    def encode_chat(self, messages, *, add_generation_prompt=True, **options):
        return self.encode("".join(f"[{m['role']}]{m['content']}" for m in messages) + "[assistant]")


def script(style, problem="P", workers=2, layout="combined"):
    return PromptScript(find_style(style), ChatTokenizer(), problem, LAYOUTS[layout], workers)


@pytest.mark.parametrize("name", style_names())
def test_every_style_serves_every_layout(name):
    style = find_style(name)
    assert (style.name, style.version >= 1, bool(style.description)) == (name, True, True)
    for layout in LAYOUTS.values():
        made = PromptScript(style, ChatTokenizer(), "What is 1+1?", layout, 3)
        layout.check(3, made.text_names)
        prompt = "".join(map(chr, made.prompt_ids()))
        assert "What is 1+1?" in prompt
        assert "{name" not in prompt
        assert "{problem}" not in prompt


def test_braces_in_problems_and_templates_stay():
    assert fill(r"\boxed{x} {problem} {unknown}", {"problem": "{name} {}"}) == r"\boxed{x} {name} {} {unknown}"


def test_names_and_headers():
    made = script("hogwild", workers=3)
    assert "".join(map(chr, made.header_ids(1, 1))).startswith("**Bob [1]:** Hi")
    assert "".join(map(chr, made.header_ids(1, 4))) == "**Bob [4]:**"
    assert made.name_of(40) == "Worker 41"
    assert "Alice, Bob and Carol" in "".join(map(chr, made.prompt_ids()))


def test_forced_answers():
    made = script("hogwild")
    assert made.forced_answer("4", False) is None
    assert made.forced_answer("4} and more", False) == "4"
    assert made.forced_answer(r"\frac{1}{2}}.", False) == r"\frac{1}{2}"
    assert made.forced_answer("4 and", True) == "4 and"
    assert made.forced_answer(" ", True) is None


def test_a_chat_style_needs_a_template():
    with pytest.raises(PromptError, match="chat template"):
        PromptScript(find_style("hogwild"), FakeTokenizer(), "P", LAYOUTS["combined"], 2)


def test_a_style_file_is_checked(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('name = "mine"\nversion = 1\nuser = "{problem}"\nnames = ["X"]\n')
    assert find_style(str(path)) == PromptStyle(name="mine", version=1, user="{problem}", names=("X",))
    for text in ("name = 1", 'name = "x"', 'name = "x"\nversion = 1\nuser = "u"\ncolour = "red"', "= ="):
        path.write_text(text)
        with pytest.raises(PromptError):
            find_style(str(path))
    for name in ("no such style", str(tmp_path / "missing.toml")):
        with pytest.raises(PromptError):
            find_style(name)
