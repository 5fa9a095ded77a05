"""What is said to the workers: styles as data files, and the script that a session follows."""

from hogwild.prompts.script import PromptScript
from hogwild.prompts.style import DEFAULT_STYLE, PromptStyle, find_style, style_names

__all__ = ["DEFAULT_STYLE", "PromptScript", "PromptStyle", "find_style", "style_names"]
