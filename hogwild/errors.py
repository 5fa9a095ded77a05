"""What can go wrong, in one tree.

HogwildError                 every error that a user can cause; the command line turns it into one line and exit code 2
├── ModelNotFound            no model, file or revision of that name
├── CheckpointError          a model file that is broken, cut off or of an unknown format
├── ModelRefused             a model that a backend cannot compute exactly (names the layer and the reason)
├── BackendUnavailable       a backend whose packages or device are missing
├── LayoutError              a layout that cannot be followed
├── PromptError              an empty or over-long prompt, an unknown prompt style
├── OptionError              an option out of its range
├── TokenError               a token id outside the vocabulary
├── TraceError               a trace file that is not one
└── PoolExhausted            no room left in the K/V pool
"""

from __future__ import annotations


class HogwildError(Exception):
    """A problem that a user can cause and mend: what happened, then what was expected, what came, and the remedy."""

    def __init__(
        self, problem: str, *, expected: str | None = None, got: str | None = None, remedy: str | None = None
    ) -> None:
        parts = [("expected", expected), ("got", got), ("remedy", remedy)]
        super().__init__("; ".join([problem, *(f"{name}: {text}" for name, text in parts if text is not None)]))
        self.problem, self.expected, self.got, self.remedy = problem, expected, got, remedy


class ModelNotFound(HogwildError):
    """No model, file or revision of that name could be found."""


class CheckpointError(HogwildError):
    """A model file is broken, cut off, or of a format that is not read here."""


class ModelRefused(HogwildError):
    """The backend cannot compute this model exactly; the message names the layer and the reason."""


class BackendUnavailable(HogwildError):
    """The packages or the device of a backend are missing on this machine."""


class LayoutError(HogwildError):
    """A layout cannot be followed: an unknown part, a block that nobody writes, or a view without its own block."""


class PromptError(HogwildError):
    """The prompt is empty or longer than the context, or the prompt style is unknown."""


class OptionError(HogwildError):
    """An option has a value outside its range."""


class TokenError(HogwildError):
    """A token id lies outside the model's vocabulary."""


class TraceError(HogwildError):
    """A file is not a trace, or not one of a version that is read here."""


class PoolExhausted(HogwildError):
    """The K/V pool has no room left for what was asked; nothing was changed."""
