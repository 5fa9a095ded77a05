"""A prompt style, a problem and a tokenizer together: what a session feeds to its workers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hogwild.core.answer import boxed_answer, final_program, until_closing_brace, until_closing_fence
from hogwild.core.layout import Layout
from hogwild.errors import PromptError
from hogwild.prompts.family import ChatFamily, find_family
from hogwild.prompts.style import PromptStyle, fill

if TYPE_CHECKING:
    from hogwild.models.tokenizer import Tokenizer


class PromptScript:
    """The `Script` of a session (see `hogwild.core.script`); raises `PromptError` for an empty problem."""

    def __init__(
        self, style: PromptStyle, tokenizer: Tokenizer, problem: str, layout: Layout, num_workers: int
    ) -> None:
        if not problem.strip():
            raise PromptError("the problem is empty", expected="some text", remedy="pass it with -p, or - to read it")
        if style.chat and not tokenizer.has_chat_template:
            raise PromptError(
                f"prompt style {style.name!r} needs a chat template and the model has none",
                remedy="choose a style for base models: --prompt-style pair",
            )
        self._style, self._tokenizer, self._problem = style, tokenizer, problem
        self._num_workers = num_workers
        self._texts = {**style.texts, **layout.texts}
        self._family = find_family(tokenizer) if style.chat else ChatFamily()

    @property
    def problem(self) -> str:
        """The user's text."""
        return self._problem

    @property
    def style(self) -> str:
        """Name and version of the prompt style."""
        return f"{self._style.name}/{self._style.version}"

    @property
    def text_names(self) -> tuple[str, ...]:
        """Texts and labels that a layout may name."""
        return tuple(self._texts)

    @property
    def banned_ids(self) -> tuple[int, ...]:
        """Tokens that the style forbids, where the vocabulary has them, and those that open or close thinking."""
        texts = (*self._style.banned, *self._family.banned(self._style.reasoning))
        ids = (self._tokenizer.token_id(text) for text in texts)
        return tuple(token for token in ids if token is not None)

    def prompt_ids(self) -> list[int]:
        """The user turn in the model's template, then the opener of the shared history."""
        tokenizer, style = self._tokenizer, self._style
        user = self._fill(style.user)
        if not style.chat:
            return tokenizer.encode_document(user + style.opener)
        ids = tokenizer.encode_chat(self._messages(user), **self._family.variables(style.reasoning))
        ids += self._family.opening_ids(tokenizer, ids, style.reasoning)
        return ids + tokenizer.encode(self._fill(style.opener))

    def _messages(self, user: str) -> list[dict[str, str]]:
        system = self._fill(self._style.system)
        if system and not self._family.system:
            system, user = "", f"{system}\n\n{user}"
        turns = [("system", system), ("user", user)]
        return [{"role": role, "content": content} for role, content in turns if content]

    def text_ids(self, name: str) -> list[int]:
        """A text that all workers share."""
        text = self._texts[name]
        return self._tokenizer.encode(self._fill(text if isinstance(text, str) else "".join(text)))

    def label_ids(self, name: str, worker: int) -> list[int]:
        """A worker's own copy of a text."""
        text = self._texts[name]
        own = text if isinstance(text, str) else text[min(worker, len(text) - 1)]
        return self._tokenizer.encode(self._fill(own, worker))

    def name_of(self, worker: int) -> str:
        """A worker's name; beyond the style's names they are numbered."""
        names = self._style.names
        return names[worker] if worker < len(names) else f"Worker {worker + 1}"

    def header_ids(self, worker: int, step: int) -> list[int]:
        """What a step begins with."""
        greetings = self._style.greetings
        greeting = greetings[worker % len(greetings)] if step == 1 and greetings else ""
        return self._tokenizer.encode(self._fill(self._style.header + greeting, worker, step))

    def check_ids(self) -> list[int]:
        """The question of the collaboration check."""
        return self._tokenizer.encode(self._style.check)

    def step_end_ids(self) -> list[int]:
        """A blank line."""
        return self._tokenizer.encode("\n\n")

    def finish_ids(self) -> list[int]:
        """What asks for the final answer."""
        return self._tokenizer.encode(self._style.finish)

    def forced_answer(self, text: str, is_last: bool) -> str | None:
        """The answer after `finish_ids`: up to the closing brace or fence, or the first line, as the style has it."""
        if self._style.program:
            answer = until_closing_fence(text)
        elif self._style.boxed:
            answer = until_closing_brace(text)
        else:
            line, newline, _ = text.lstrip().partition("\n")
            answer = line if newline else None
        if answer is None and is_last:
            answer = text
        return answer.strip() or None if answer is not None else None

    def find_answer(self, text: str) -> str | None:
        r"""The last `\boxed{...}` of a worker's own text, or its final program."""
        if self._style.program:
            return final_program(text)
        return boxed_answer(text) if self._style.boxed else None

    def _fill(self, template: str, worker: int | None = None, step: int = 1) -> str:
        names = [self.name_of(i) for i in range(self._num_workers)]
        values = {
            "names": _listing(names),
            "num_workers": str(self._num_workers),
            "problem": self._problem,
            "step": str(step),
        }
        if worker is not None:
            values["name"] = self.name_of(worker)
            values["others"] = _listing([name for i, name in enumerate(names) if i != worker])
        return fill(template, values)


def _listing(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else "nobody"
