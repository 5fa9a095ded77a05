"""Chat templates, rendered apart from this process so that no template can stop, fill or read it.

A template is a program by a stranger. Jinja's sandbox keeps it from Python's objects, but not from endless loops or
from strings that fill the memory; only another process can be stopped at any moment. It costs a tenth of a second.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hogwild.errors import PromptError

MAX_TEMPLATE_CHARS = 1_000_000
MAX_RENDERED_CHARS = 8_000_000
MAX_MEMORY_BYTES = 1 << 30
SECONDS = 20.0
_PROGRAM = Path(__file__).with_name("template_program.py")


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """A template and its limits.

    Attributes:
        source: Jinja text, as in `tokenizer_config.json` or `chat_template.jinja`.
        tokens: variables that every rendering gets: `bos_token`, `eos_token` and their like.
        seconds: wall-clock limit of one call of `render`.
        max_chars: most characters in one rendering.
    """

    source: str
    tokens: Mapping[str, str] = field(default_factory=dict)
    seconds: float = SECONDS
    max_chars: int = MAX_RENDERED_CHARS

    def render(self, renderings: Sequence[Mapping[str, Any]]) -> list[str]:
        """The text for each set of variables.

        Raises `PromptError` when the template refuses them, is broken, or exceeds a limit of size or time.
        """
        if len(self.source) > MAX_TEMPLATE_CHARS:
            raise PromptError(
                "the chat template is too long",
                expected=f"at most {MAX_TEMPLATE_CHARS} characters",
                got=str(len(self.source)),
            )
        try:
            request = json.dumps(
                {
                    "template": self.source,
                    "renderings": [{**self.tokens, **variables} for variables in renderings],
                    "max_chars": self.max_chars,
                    "max_memory_bytes": MAX_MEMORY_BYTES,
                    "module_paths": sys.path,
                }
            )
        except (TypeError, ValueError, RecursionError) as error:
            raise PromptError("messages and template options must be plain data", got=str(error)) from error
        return self._answer(self._run(request))

    def _run(self, request: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-I", "-S", str(_PROGRAM)]
        try:
            return subprocess.run(
                command, input=request, capture_output=True, encoding="utf-8", timeout=self.seconds, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise PromptError(f"the chat template did not end within {self.seconds:g} seconds") from error
        except OSError as error:
            raise PromptError("the process that renders chat templates cannot start", got=str(error)) from error

    @staticmethod
    def _answer(process: subprocess.CompletedProcess[str]) -> list[str]:
        try:
            answer = json.loads(process.stdout)
        except json.JSONDecodeError as error:
            raise PromptError(
                "the chat template used too much memory or stopped its process", got=f"exit code {process.returncode}"
            ) from error
        if "error" in answer:
            raise PromptError("the chat template refused the messages", got=answer["error"])
        return [str(text) for text in answer["rendered"]]
